#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace feather {

// The cgroup of a container, found by its init's /proc/<pid>/cgroup while it lives (the OCI runtime
// alone interprets cgroupsPath).
struct Cgroup {
  // statfs(/sys/fs/cgroup) says cgroup2. A hybrid host counts as cgroup1.
  bool unified = false;
  // cgroup2: absolute directory below /sys/fs/cgroup.
  std::string path;
  // cgroup1: controller name ("memory", "pids", …) to absolute directory.
  absl::flat_hash_map<std::string, std::string> controllers;
};

absl::StatusOr<Cgroup> FindCgroup(pid_t pid);

// Every pid in the cgroup and in those below it, in the shim's pid namespace.
absl::StatusOr<std::vector<pid_t>> CgroupPids(const Cgroup& cgroup);

// cgroup2: writes every controller of the root's cgroup.controllers into cgroup.subtree_control of
// all ancestors of the container's cgroup, root first. Returns the last error.
absl::Status EnableControllers(const Cgroup& cgroup);

}  // namespace feather
