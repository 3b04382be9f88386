#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace feather::oom {

// Which processes of a container the kernel's log (/dev/kmsg, Documentation/ABI/testing/dev-kmsg)
// says were OOM-killed, for the time when the container's counters are gone. The line that counts,
// written by the kernel for each victim and not before the container was there, is
// (mm/oom_kill.c, __oom_kill_process)
//   Memory cgroup out of memory: Killed process PID (NAME), …
// Of those pids, which mean what they mean here only in the first pid namespace, the ones are
// counted that were in the cgroup at the beginning: its init. (The line before, with the cgroup's
// name, is rate-limited, and a cgroup's name may be taken anew at once.)
//
// Errs towards too few: later processes, lines that the log has lost or this process may not read.
class KernelLog {
 public:
  explicit KernelLog(std::vector<pid_t> processes);

  // A record, as it is read from /dev/kmsg.
  void Add(absl::string_view record);
  // All records that there are: some milliseconds where the log is long.
  void Read(const std::string& path = "/dev/kmsg");
  // The killed ones among what was added.
  uint64_t kills() const { return kills_; }

 private:
  std::vector<pid_t> processes_;
  // Microseconds of the kernel's log.
  uint64_t since_ = 0;
  uint64_t kills_ = 0;
};

}  // namespace feather::oom
