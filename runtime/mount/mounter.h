#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/mount/mount.h"

namespace feather {

// The blocking side of mount.h: system calls only, for a child process (child.h), whose working
// directory they use; afterwards it is the root.

// Mounts all or none.
absl::Status MountAllBlocking(const std::vector<Mount>& mounts, const std::string& rootfs);

absl::Status UnmountAllBlocking(const std::string& rootfs);

// One umount2(2) of the topmost mount at `mount_point` (canonical), following no symbolic link that
// somebody has put there since: 0 or an errno. `flags`: more of umount2(2).
int UnmountAt(const std::string& mount_point, int flags = 0);

}  // namespace feather
