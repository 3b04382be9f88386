#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

// statfs(/sys/fs/cgroup) says cgroup2. A hybrid host counts as cgroup1.
absl::StatusOr<bool> IsUnified();

// The cgroup of a container, found by its init's /proc/<pid>/cgroup while it lives (the OCI runtime
// alone interprets cgroupsPath). cgroups(7), proc(5).
struct Cgroup {
  bool unified = false;
  // cgroup2: absolute directory below /sys/fs/cgroup.
  std::string path;
  // It is mounted with memory_localevents: memory.events leaves out the cgroups below.
  bool local_events = false;
  // cgroup1: controller name ("memory", "pids", …; "name=systemd") to absolute directory.
  std::map<std::string, std::string, std::less<>> controllers;
};

// NotFound once the process has ended: on cgroup1 a zombie is shown in the root cgroup.
absl::StatusOr<Cgroup> FindCgroup(pid_t pid);

// Where runc and crun make the memory cgroup of a container, absolute: for a linux.cgroupsPath of
// its config.json that is absolute or systemd's "slice:prefix:name". Empty for others, which say
// less, and for one that climbs. What a container got in the end is for FindCgroup to say.
std::string ExpectedMemoryCgroup(bool unified, absl::string_view cgroups_path);

// The same and, for a path that is relative, or the id where there is none, each place where an OCI
// runtime may make it: below the root (crun), below its own cgroup (runc on cgroup1), or beside
// that (runc on cgroup2). Empty for a path that climbs.
std::vector<std::string> PossibleMemoryCgroups(bool unified, const std::string& cgroups_path,
                                               const std::string& id);

// FindCgroup's reading of /proc/<pid>/cgroup and /proc/self/mountinfo. A hierarchy that is not
// mounted here, or of which the cgroup cannot be seen, is left out; NotFound if nothing is left.
absl::StatusOr<Cgroup> ParseCgroup(bool unified, absl::string_view proc_cgroup,
                                   absl::string_view mountinfo);

// Every pid in the cgroup and in those below it, in the shim's pid namespace, ascending. What
// vanishes meanwhile is passed over, and what is below more than kMostCgroups others is left out;
// NotFound if there is no such cgroup at all.
absl::StatusOr<std::vector<pid_t>> CgroupPids(const Cgroup& cgroup);

// Whether its processes stand still, or will without anything more being asked for, by
// freezer.state (cgroup1, which may say FREEZING for a while) or cgroup.freeze; an error where
// there is none to be read.
absl::StatusOr<bool> IsFrozen(const Cgroup& cgroup);

// cgroup2: enables every controller of the root's cgroup.controllers in cgroup.subtree_control of
// all ancestors of the container's cgroup, root first. What is enabled already is not written
// again. Returns the error of the last ancestor that could not be written, if none below it could
// either.
absl::Status EnableControllers(const Cgroup& cgroup);
// The same with the mount point of cgroup2 elsewhere than at /sys/fs/cgroup.
absl::Status EnableControllers(const std::string& mount_point, const std::string& path);

}  // namespace feather
