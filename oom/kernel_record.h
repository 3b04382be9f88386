#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {

// The kernel's log, /dev/kmsg (Documentation/ABI/testing/dev-kmsg), and what it says of an OOM kill
// (mm/oom_kill.c, oom_kill_process), in this order:
//   oom-kill:constraint=…,oom_memcg=CGROUP,task_memcg=CGROUP,task=NAME,pid=PID,uid=UID
//   (the counter is raised, the SIGKILL is sent)
//   Memory cgroup out of memory: Killed process PID (NAME) total-vm:…
// The first, a choice, is written of ten kills in five seconds at most and of a group's first
// victim only; the second of every victim. The kernel kills one after another, so that after a
// choice the next is of the one that was chosen; it names another thread of that if the first one
// has ended. It is there some microseconds after the count, and by kPatience in any case.
//
// Names of processes and of cgroups are the container's own: they cannot make a line anybody
// else's.

inline constexpr Clock::duration kPatience = std::chrono::milliseconds(100);

// /dev/kmsg at the first record; invalid where that is no kernel's log, or may not be read (not
// asked for again, if it is a policy that does not let this process).
UniqueFd OpenKernelLog();
// The longest record (CONSOLE_EXT_LOG_MAX).
inline constexpr size_t kLongestRecord = 8192;
// All records that there are, from where the descriptor is.
void ReadRecords(const UniqueFd& log, const std::function<void(absl::string_view)>& visit);

struct KernelRecord {
  uint64_t sequence = 0;
  // Empty if it is not the kernel that has written it.
  absl::string_view text;
};
std::optional<KernelRecord> ParseRecord(absl::string_view record);

struct OomChoice {
  pid_t pid = 0;
  // The victim's cgroup as it is named below `cgroup`: "" for that itself, "/a/b"; nullopt if it is
  // elsewhere.
  std::optional<absl::string_view> below;
  absl::string_view limit_of;
  absl::string_view name;
};
// `cgroup`: as LogNameOf has it; empty: every victim is elsewhere. nullopt: another kind of line.
std::optional<OomChoice> ParseChoice(absl::string_view text, absl::string_view cgroup);

struct OomVictim {
  pid_t pid = 0;
  absl::string_view name;
  // False: it had been chosen, but is exiting by itself.
  bool killed = false;
};
std::optional<OomVictim> ParseVictim(absl::string_view text);
// What comes after its name there.
inline constexpr absl::string_view kAfterName = ") total-vm:";

// What the log calls the cgroup with this directory; empty where that is not known: in a cgroup
// namespace below the first, or if there is no such cgroup.
std::string LogNameOf(const std::string& directory);
// The log has what is not printable ASCII, and a backslash, as \xNN.
std::string Unescaped(absl::string_view text);
// Pids mean the same here as in the log.
bool KnowsPidsOfLog();

}  // namespace feather::oom
