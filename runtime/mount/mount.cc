#include "runtime/mount/mount.h"

#include <utility>

#include "runtime/child.h"
#include "runtime/mount/mounter.h"

namespace feather {

Async<absl::Status> MountAll(Reaper& reaper, std::vector<Mount> mounts, std::string rootfs) {
  if (mounts.empty()) co_return absl::OkStatus();
  std::function<absl::Status()> work = [mounts = std::move(mounts), rootfs = std::move(rootfs)] {
    return MountAllBlocking(mounts, rootfs);
  };
  co_return co_await RunInChild(reaper, std::move(work));
}

Async<absl::Status> UnmountAll(Reaper& reaper, std::string rootfs) {
  std::function<absl::Status()> work = [rootfs = std::move(rootfs)] {
    return UnmountAllBlocking(rootfs);
  };
  co_return co_await RunInChild(reaper, std::move(work));
}

}  // namespace feather
