#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/base/status.h"
#include "runtime/base/unique_fd.h"
#include "runtime/child.h"
#include "runtime/mount/mounter.h"
#include "runtime/mount/mountinfo.h"

namespace feather {
namespace {

constexpr int kBusyRetries = 50;
constexpr useconds_t kBusyPause = 50000;

bool IsFuse(const MountInfo& mount) {
  return mount.type == "fuse" || mount.type == "fuseblk" || absl::StartsWith(mount.type, "fuse.");
}

// A FUSE server of its own user's is told to end by its helper; where there is none or it cannot,
// umount(2) decides. The helper follows links on its way: it gets no path through the rootfs.
int Unmount(const MountInfo& mount, absl::string_view rootfs) {
  if (IsFuse(mount) && mount.mount_point == rootfs) {
    for (const char* helper : {"fusermount3", "fusermount"})
      if (RunProgram({helper, "-u", mount.mount_point}).ok()) return 0;
  }
  return UnmountAt(mount.mount_point);
}

}  // namespace

// A container that still runs may have renamed a directory above the mount point and put a symbolic
// link in its place, which umount2(2) with a path would follow, to the host's own mounts. So the
// path is walked without links, up to the parent: a descriptor of the mount itself would keep it
// busy.
int UnmountAt(const std::string& mount_point, int flags) {
  size_t slash = mount_point.rfind('/');
  if (slash == std::string::npos) return EINVAL;
  std::string parent = slash == 0 ? "/" : mount_point.substr(0, slash);
  struct open_how how = {};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS;
  UniqueFd directory(
      static_cast<int>(syscall(SYS_openat2, AT_FDCWD, parent.c_str(), &how, sizeof how)));
  if (!directory || fchdir(directory.get()) < 0) return errno;
  int error = umount2(mount_point.c_str() + slash + 1, flags | UMOUNT_NOFOLLOW) < 0 ? errno : 0;
  // Neither a descriptor nor the working directory may pin the parent's mount, which is next.
  if (chdir("/") < 0) _exit(1);
  return error;
}

// Each pass takes what is mounted from the deepest path up; a mount that covers another one's mount
// point makes more passes necessary. The retries are for the whole call and not for each mount:
// containerd gives a clean-up five seconds.
absl::Status UnmountAllBlocking(const std::string& rootfs) {
  std::unique_ptr<char, decltype(&free)> canonical(realpath(rootfs.c_str(), nullptr), &free);
  if (canonical == nullptr && errno == ENOENT) return absl::OkStatus();
  if (canonical == nullptr) return absl::UnknownError(absl::StrCat(rootfs, ": ", ErrnoText(errno)));
  for (int retries = kBusyRetries;;) {
    ASSIGN_OR_RETURN(std::vector<MountInfo> mounts, MountsBelow(canonical.get()));
    if (mounts.empty()) return absl::OkStatus();
    bool progress = false;
    int error = 0;
    for (const MountInfo& mount : mounts) {
      error = Unmount(mount, canonical.get());
      if (error == 0) progress = true;
    }
    if (progress) continue;
    // Covered from outside: for whoever looks at the directory nothing is mounted there.
    if (error == EINVAL || error == ENOENT) return absl::OkStatus();
    if (error != EBUSY || retries-- == 0)
      return absl::UnknownError(absl::StrCat("failed to unmount target ", mounts.back().mount_point,
                                             ": ", ErrnoText(error)));
    usleep(kBusyPause);
  }
}

}  // namespace feather
