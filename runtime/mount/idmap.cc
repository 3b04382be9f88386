#include "runtime/mount/idmap.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/mount/mountinfo.h"

namespace feather {
namespace {

// A child that is in a user namespace of its own and does nothing; it ends when `release` is
// closed. -1 and errno on failure.
pid_t ForkIntoUserNamespace(int ready, int release, int keep_out) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  close(keep_out);  // our own copy of the end that must be closed to let us go
  char error = static_cast<char>(unshare(CLONE_NEWUSER) == 0 ? 0 : errno);
  if (write(ready, &error, 1) == 1) (void)!read(release, &error, 1);
  _exit(0);
}

absl::StatusOr<UniqueFd> MapAndOpen(pid_t pid, const std::string& uid_lines,
                                    const std::string& gid_lines) {
  std::string proc = absl::StrCat("/proc/", pid);
  ASSIGN_OR_RETURN(UniqueFd uid, OpenFile(proc + "/uid_map", O_WRONLY));
  ASSIGN_OR_RETURN(UniqueFd gid, OpenFile(proc + "/gid_map", O_WRONLY));
  RETURN_IF_ERROR(Annotate(WriteAll(uid.get(), uid_lines), "uid_map"));
  RETURN_IF_ERROR(Annotate(WriteAll(gid.get(), gid_lines), "gid_map"));
  return OpenFile(proc + "/ns/user", O_RDONLY);
}

// Whether a lower directory lies in another mount than `parent` does. Copying all mounts below the
// parent regardless would fail for those that cannot be idmapped.
absl::StatusOr<bool> LayersAreMounts(const std::string& parent,
                                     const std::vector<std::string>& layers) {
  ASSIGN_OR_RETURN(std::vector<MountInfo> mounts, MountsBelow(parent));
  return std::any_of(mounts.begin(), mounts.end(), [&](const MountInfo& mount) {
    return mount.mount_point != parent &&
           std::any_of(layers.begin(), layers.end(), [&](const std::string& layer) {
             return IsAtOrBelow(layer, mount.mount_point);
           });
  });
}

}  // namespace

absl::StatusOr<UniqueFd> MakeUserNamespace(const std::string& uid_map, const std::string& gid_map) {
  ASSIGN_OR_RETURN(std::string uid_lines, ParseIdMap(uid_map));
  ASSIGN_OR_RETURN(std::string gid_lines, ParseIdMap(gid_map));
  int ready[2], release[2];
  if (pipe2(ready, O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  UniqueFd ready_read(ready[0]), ready_write(ready[1]);
  if (pipe2(release, O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  UniqueFd release_read(release[0]), release_write(release[1]);
  pid_t pid = ForkIntoUserNamespace(ready[1], release[0], release[1]);
  if (pid < 0) return ErrnoError(errno, "fork");
  ready_write.Reset();
  char error = EIO;
  while (read(ready_read.get(), &error, 1) < 0 && errno == EINTR) continue;
  absl::StatusOr<UniqueFd> opened = error == 0 ? MapAndOpen(pid, uid_lines, gid_lines)
                                               : ErrnoError(error, "unshare user namespace");
  release_write.Reset();
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) continue;
  return opened;
}

absl::StatusOr<UniqueFd> IdMappedCopy(const std::string& path, const std::string& name,
                                      bool recursive, const MountOptions& options,
                                      uint64_t attributes) {
  ASSIGN_OR_RETURN(UniqueFd user_namespace, MakeUserNamespace(options.uid_map, options.gid_map));
  unsigned int depth = recursive ? AT_RECURSIVE : 0;
  UniqueFd tree(open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | depth));
  if (!tree) return ErrnoError(errno, absl::StrCat("open_tree ", name));
  struct mount_attr attr = {};
  attr.attr_set = MOUNT_ATTR_IDMAP | attributes;
  attr.userns_fd = static_cast<uint64_t>(user_namespace.get());
  if (mount_setattr(tree.get(), "", AT_EMPTY_PATH | depth, &attr, sizeof attr) < 0)
    return ErrnoError(errno, absl::StrCat("idmap ", name));
  return tree;
}

absl::Status AttachMount(int tree, const std::string& path, const std::string& name) {
  if (move_mount(tree, "", AT_FDCWD, path.c_str(),
                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS) < 0)
    return ErrnoError(errno, absl::StrCat("move_mount ", name));
  return absl::OkStatus();
}

absl::Status IdMappedLayers::Mount(MountOptions& options) {
  std::vector<std::string> layers = SplitLowerdirs(Lowerdirs(options));
  std::string parent = CommonParent(layers);
  if (parent.empty()) return absl::UnknownError("lower directories have no common parent to idmap");
  ASSIGN_OR_RETURN(bool recursive, LayersAreMounts(parent, layers));
  ASSIGN_OR_RETURN(UniqueFd tree,
                   IdMappedCopy(parent, parent, recursive, options, MOUNT_ATTR_RDONLY));
  const char* temporary = getenv("TMPDIR");
  std::string directory = absl::StrCat(
      temporary != nullptr && *temporary == '/' ? temporary : "/tmp", "/ovl-idmappedXXXXXX");
  if (mkdtemp(directory.data()) == nullptr) return ErrnoError(errno, "mkdtemp " + directory);
  directory_ = directory;
  RETURN_IF_ERROR(AttachMount(tree.get(), directory_, directory_));
  mounted_ = true;
  MoveLowerdirs(options, parent, directory_);
  return absl::OkStatus();
}

IdMappedLayers::~IdMappedLayers() {
  if (directory_.empty()) return;
  if (mounted_) umount2(directory_.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  rmdir(directory_.c_str());
}

}  // namespace feather
