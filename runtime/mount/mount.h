#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/base/async.h"
#include "runtime/reaper.h"

namespace feather {

// containerd.types.Mount
struct Mount {
  std::string type;
  std::string source;
  std::string target;  // inside the rootfs; empty: the rootfs itself
  std::vector<std::string> options;
};

// Mounts all of `mounts` in order on `rootfs` (contract section 6); when one fails, those before it
// are unmounted again. Error: "failed to mount rootfs component: mount source: "…", target: "…",
// fstype: …, flags: …, data: "…", err: …".
//
// mount(2) and umount(2) may block for long (a dead network file system): they run in a child
// process, which the loop waits for.
Async<absl::Status> MountAll(Reaper& reaper, std::vector<Mount> mounts, std::string rootfs);

// Unmounts everything at and below `rootfs`, deepest first, until nothing is mounted there. A
// missing directory is success. EBUSY is retried 50 times, 50 ms apart, then "failed to unmount
// target …: device or resource busy".
Async<absl::Status> UnmountAll(Reaper& reaper, std::string rootfs);

}  // namespace feather
