#pragma once

#include <string>

#include "absl/status/status.h"

namespace feather {

// Where the server runs. `start` does all of this to itself before it spawns the server, which
// inherits it: so nothing has to be undone when something fails, and the server never runs
// elsewhere.

// One more than the parent's (containerd's) oom_score_adj, at most 1000, so that the kernel prefers
// a shim to the daemon. A refusal is accepted where there is no privilege to expect.
absl::Status RaiseOomScore();

// A core scheduling cookie of its own (prctl(2), PR_SCHED_CORE), for the process group.
absl::Status StartCoreScheduling();

// Moves this process into the cgroup `path` below the root (of every cgroup1 hierarchy that has
// it). It must exist.
absl::Status JoinCgroup(const std::string& path);

}  // namespace feather
