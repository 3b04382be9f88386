#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "oom/logged_kills.h"
#include "runtime/base/async.h"

namespace feather::oom {

// On cgroup2, whose counter is of a cgroup and all below it: what the kernel's log has that the
// counter had not when it was read for the last time, for a cgroup that has gone since. A kill is
// the container's if the log names its cgroup, or if its pid was there at the last reading.
//
// Order of calls: BeginReading, then the counters are read, then EndReading; Count at the end.
class UncountedKills {
 public:
  // For so long after an increase nothing is taken for uncounted: the lines of a kill come before
  // and after the count, and the rest of a group is killed within that time.
  static constexpr Clock::duration kDoubt = std::chrono::seconds(1);

  // `init`: the container's first process, which may have ended by the first reading; 0: not known.
  UncountedKills(pid_t init, std::unique_ptr<LoggedKills> log);

  void BeginReading();
  // `processes`: who is in the cgroup; empty: as before. `rose`: the counter has.
  void EndReading(std::vector<pid_t> processes, bool rose);
  // Once.
  uint64_t Count();
  // Lets go of the log.
  void Close() { log_.reset(); }

 private:
  std::unique_ptr<LoggedKills> log_;
  std::vector<pid_t> processes_;
  // Victims of whom the log does not say where they were, since the last reading.
  std::vector<pid_t> unnamed_;
  std::optional<Clock::time_point> rose_at_;
};

}  // namespace feather::oom
