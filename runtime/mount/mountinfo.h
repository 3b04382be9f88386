#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

// A line of /proc/<pid>/mountinfo (proc_pid_mountinfo(5)), names unescaped.
struct MountInfo {
  int id = 0;
  int parent = 0;
  std::string root;
  std::string mount_point;
  std::string type;
  std::string source;
  std::string super_options;  // of the file system, as written; empty if the line ends before
};

// Lines that have not the documented form are left out.
std::vector<MountInfo> ParseMountInfo(absl::string_view text);

// The mounts of this process' namespace that are at `directory` (canonical) or below it, deepest
// path first; of several at one path the topmost, which the kernel lists last, comes first.
absl::StatusOr<std::vector<MountInfo>> MountsBelow(absl::string_view directory);

// Whether `path` is `directory` or in it; both canonical.
bool IsAtOrBelow(absl::string_view path, absl::string_view directory);

}  // namespace feather
