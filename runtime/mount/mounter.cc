#include "runtime/mount/mounter.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/base/user_namespace.h"
#include "runtime/child.h"
#include "runtime/mount/idmap.h"
#include "runtime/mount/loop.h"
#include "runtime/mount/options.h"

namespace feather {
namespace {

// A directory to mount on.
struct Target {
  std::string name;  // what the error texts call it
  std::string path;  // for system calls; valid while `fd` lives
  UniqueFd fd;
};

// Symbolic links in `target` are resolved as if `rootfs` were the root directory, so that what an
// image contains cannot lead out of it. To be asked again after each mount: the descriptor is of
// what was there before.
absl::StatusOr<Target> Resolve(const std::string& rootfs, const std::string& target) {
  if (target.empty()) return Target{rootfs, rootfs, {}};
  ASSIGN_OR_RETURN(UniqueFd root, OpenFile(rootfs, O_PATH | O_DIRECTORY));
  struct open_how how = {};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  long fd = -1;
  // EAGAIN: something was renamed while ".." was looked up.
  for (int attempt = 0; attempt < 100; ++attempt) {
    fd = syscall(SYS_openat2, root.get(), target.c_str(), &how, sizeof how);
    if (fd >= 0 || errno != EAGAIN) break;
  }
  if (fd < 0) return ErrnoError(errno, absl::StrCat("open ", target, " in ", rootfs));
  Target resolved;
  resolved.fd.Reset(static_cast<int>(fd));
  resolved.path = absl::StrCat("/proc/self/fd/", fd);
  std::array<char, PATH_MAX> name;
  ssize_t length = readlink(resolved.path.c_str(), name.data(), name.size());
  if (length < 0) return ErrnoError(errno, "readlink " + resolved.path);
  resolved.name = std::string(name.data(), static_cast<size_t>(length));
  return resolved;
}

std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(text), "\"");
}

absl::Status MountError(const Mount& mount, absl::string_view target, const std::string& data,
                        unsigned long flags, int error) {
  return absl::UnknownError(absl::StrCat("mount source: ", Quoted(mount.source),
                                         ", target: ", Quoted(target), ", fstype: ", mount.type,
                                         ", flags: ", flags, ", data: ", Quoted(data),
                                         ", err: ", ErrnoText(error)));
}

// Flags that a user namespace other than the mount's own must not clear on a remount.
unsigned long LockedFlags(const std::string& path) {
  struct statfs fs;
  if (!InUserNamespace() || statfs(path.c_str(), &fs) < 0) return 0;
  unsigned long set = static_cast<unsigned long>(fs.f_flags);
  unsigned long flags =
      set & (MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOSUID | MS_NOATIME | MS_NODIRATIME);
  constexpr unsigned long kStatfsRelatime = 0x1000;
  if ((set & kStatfsRelatime) != 0) flags |= MS_RELATIME;
  return flags;
}

// mount(2) in `directory` (empty: the working directory as it is), which is left again.
int MountIn(const std::string& directory, const std::string& source, const std::string& target,
            const std::string& type, unsigned long flags, const std::string& data) {
  UniqueFd here;
  if (!directory.empty()) {
    here.Reset(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!here || chdir(directory.c_str()) < 0) return errno;
  }
  int error =
      mount(source.c_str(), target.c_str(), type.c_str(), flags, data.c_str()) < 0 ? errno : 0;
  if (here && fchdir(here.get()) < 0) _exit(1);
  return error;
}

// One mount of a list.
class Mounter {
 public:
  Mounter(const Mount& mount, const std::string& rootfs) : mount_(mount), rootfs_(rootfs) {}

  absl::Status Run() {
    ASSIGN_OR_RETURN(options_, ParseMountOptions(mount_.options));
    ASSIGN_OR_RETURN(target_, Resolve(rootfs_, mount_.target));
    if (absl::StartsWith(mount_.type, "fuse.") || absl::StartsWith(mount_.type, "fuse3."))
      return MountFuse();
    if (mount_.type == "overlay" && options_.idmapped()) {
      // Killed in between, we would leave the temporary mount where nobody looks for it.
      LetLive let_live;
      IdMappedLayers layers;
      RETURN_IF_ERROR(layers.Mount(options_));
      return MountFirst();
    }
    RETURN_IF_ERROR(MountFirst());
    mounted_ = true;
    absl::Status status = Finish();
    if (!status.ok() && mounted_) UnmountAt(target_.name);
    return status;
  }

  // Valid after Run.
  const std::string& target() const { return target_.name; }

 private:
  bool read_only_bind() const {
    return (options_.flags & (MS_BIND | MS_RDONLY)) == (MS_BIND | MS_RDONLY);
  }

  absl::Status MountFuse() {
    absl::string_view helper = "mount.fuse";
    absl::string_view type = mount_.type;
    if (!absl::ConsumePrefix(&type, "fuse.")) {
      absl::ConsumePrefix(&type, "fuse3.");
      helper = "mount.fuse3";
    }
    std::vector<std::string> argv = {std::string(helper), mount_.source, target_.name};
    for (const std::string& option : mount_.options) {
      argv.push_back("-o");
      argv.push_back(option);
    }
    argv.push_back("-t");
    argv.emplace_back(type);
    absl::Status status = RunProgram(argv);
    if (status.ok()) return status;
    return absl::UnknownError(absl::StrCat("mount helper ", status.message()));
  }

  absl::Status MountFirst() {
    size_t page_size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    std::string directory;
    if (mount_.type == "overlay") directory = CompactLowerdirs(options_, page_size);
    std::string data = options_.Data();
    if (data.size() >= page_size) return absl::UnknownError("mount options is too long");
    // A read-only bind that is only remounted needs just the second call.
    if ((options_.flags & MS_REMOUNT) != 0 && data.empty() && read_only_bind())
      return absl::OkStatus();
    LoopDevice loop;
    if (options_.loop) {
      ASSIGN_OR_RETURN(
          loop, AttachLoop(mount_.source, (options_.flags & MS_RDONLY) != 0, options_.direct_io));
    }
    const std::string& source = options_.loop ? loop.path : mount_.source;
    int error = MountIn(directory, source, target_.path, mount_.type, options_.flags, data);
    if (error == 0) return absl::OkStatus();
    return MountError(mount_, target_.name, data, options_.flags, error);
  }

  // What mount(2) cannot do in the same call.
  absl::Status Finish() {
    if (!read_only_bind() && !options_.idmapped()) return absl::OkStatus();
    // The new mount, not what it covers.
    ASSIGN_OR_RETURN(target_, Resolve(rootfs_, mount_.target));
    if (read_only_bind()) {
      unsigned long flags = options_.flags | LockedFlags(target_.path) | MS_REMOUNT;
      if (mount("", target_.path.c_str(), "", flags, "") < 0)
        return MountError(mount_, target_.name, "", flags, errno);
    }
    if (!options_.idmapped()) return absl::OkStatus();
    return IdMap();
  }

  // A copy takes the mount's place.
  absl::Status IdMap() {
    const bool recursive = (options_.flags & MS_REC) != 0;
    ASSIGN_OR_RETURN(UniqueFd tree, IdMappedCopy(target_.path, target_.name, recursive, options_));
    if (umount2(target_.path.c_str(), MNT_DETACH) < 0)
      return ErrnoError(errno, absl::StrCat("umount ", target_.name));
    mounted_ = false;
    // What it covered.
    ASSIGN_OR_RETURN(target_, Resolve(rootfs_, mount_.target));
    return AttachMount(tree.get(), target_.path, target_.name);
  }

  const Mount& mount_;
  const std::string& rootfs_;
  MountOptions options_;
  Target target_;
  bool mounted_ = false;  // by MountFirst, and still
};

bool HasNul(absl::string_view text) { return absl::StrContains(text, absl::string_view("\0", 1)); }

bool HasNul(const Mount& mount) {
  return HasNul(mount.type) || HasNul(mount.source) || HasNul(mount.target) ||
         HasNul(absl::StrJoin(mount.options, ","));
}

}  // namespace

absl::Status MountAllBlocking(const std::vector<Mount>& mounts, const std::string& rootfs) {
  std::vector<std::string> mounted;
  for (const Mount& mount : mounts) {
    Mounter mounter(mount, rootfs);
    absl::Status status =
        HasNul(mount) ? absl::UnknownError("a mount's fields must not contain NUL") : mounter.Run();
    if (status.ok()) {
      mounted.push_back(mounter.target());
      continue;
    }
    for (; !mounted.empty(); mounted.pop_back()) UnmountAt(mounted.back());
    // Always code Unknown, as clients know it: a NotFound would mean the container.
    return absl::UnknownError(absl::StrCat("failed to mount rootfs component: ", status.message()));
  }
  return absl::OkStatus();
}

}  // namespace feather
