#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"

namespace feather {

// What proc(5) says of a process in its `stat`.
struct ProcessStat {
  pid_t parent = 0;
  pid_t session = 0;
  uint64_t start = 0;    // in clock ticks since boot: tells two processes of the same pid apart
  bool exiting = false;  // it is in the kernel for the last time, though perhaps for a while
};
// Nothing if there is no such process.
std::optional<ProcessStat> ReadProcessStat(pid_t pid);

// Signals `root`, whatever else belongs to its session and whatever descends from any of those, out
// of the processes that `list` gives; `list` is asked again until nothing new has appeared, so that
// a child made meanwhile is found too. `root` may have ended: no other process gets its number
// while its session lasts. Returns how many there were. Never a process that is not of the tree:
// each is held by a pidfd and looked at again before it is signalled.
absl::StatusOr<int> SignalProcessTree(
    pid_t root, int signal, const std::function<absl::StatusOr<std::vector<pid_t>>()>& list);

}  // namespace feather
