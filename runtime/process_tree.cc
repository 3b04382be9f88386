#include "runtime/process_tree.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <set>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/base/unique_fd.h"

namespace feather {
namespace {

// Against something that forks faster than it can be signalled.
constexpr int kMaxPasses = 100;

std::set<pid_t> TreeOf(pid_t root, const std::map<pid_t, ProcessStat>& processes) {
  std::set<pid_t> tree;
  for (bool grown = true; grown;) {
    grown = false;
    for (const auto& [pid, stat] : processes) {
      bool belongs = pid == root || stat.session == root || tree.contains(stat.parent);
      if (belongs && tree.insert(pid).second) grown = true;
    }
  }
  return tree;
}

// False if it is gone, or was another one all along.
absl::StatusOr<bool> SignalProcess(pid_t pid, const ProcessStat& stat, int signal) {
  RaisedCapabilities raised({CAP_KILL});
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd && errno == ESRCH) return false;
  if (!pidfd) return ErrnoError(errno, absl::StrCat("pidfd_open ", pid));
  std::optional<ProcessStat> now = ReadProcessStat(pid);
  if (!now || now->start != stat.start) return false;
  if (syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) == 0) return true;
  if (errno == ESRCH) return false;
  return ErrnoError(errno, absl::StrCat("signal process ", pid));
}

}  // namespace

std::optional<ProcessStat> ReadProcessStat(pid_t pid) {
  // proc(5): hidepid hides it from others.
  RaisedCapabilities raised({CAP_SYS_PTRACE});
  absl::StatusOr<std::string> text = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!text.ok()) return std::nullopt;
  // The program's name may contain anything; behind it come the fields from the third on.
  std::vector<absl::string_view> fields =
      absl::StrSplit(absl::string_view(*text).substr(text->rfind(')') + 1), ' ');
  constexpr size_t kParent = 2;
  constexpr size_t kSession = 4;
  constexpr size_t kFlags = 7;
  constexpr size_t kStart = 20;
  constexpr uint32_t kExiting = 4;  // the kernel's PF_EXITING
  uint32_t flags = 0;
  ProcessStat stat;
  if (fields.size() <= kStart || !absl::SimpleAtoi(fields[kParent], &stat.parent) ||
      !absl::SimpleAtoi(fields[kSession], &stat.session) ||
      !absl::SimpleAtoi(fields[kFlags], &flags) || !absl::SimpleAtoi(fields[kStart], &stat.start))
    return std::nullopt;
  stat.exiting = (flags & kExiting) != 0;
  return stat;
}

absl::StatusOr<int> SignalProcessTree(
    pid_t root, int signal, const std::function<absl::StatusOr<std::vector<pid_t>>()>& list) {
  std::set<pid_t> signalled;
  for (int pass = 0; pass < kMaxPasses; ++pass) {
    ASSIGN_OR_RETURN(std::vector<pid_t> pids, list());
    std::map<pid_t, ProcessStat> processes;
    for (pid_t pid : pids)
      if (std::optional<ProcessStat> stat = ReadProcessStat(pid)) processes.emplace(pid, *stat);
    bool found = false;
    for (pid_t pid : TreeOf(root, processes)) {
      if (signalled.contains(pid)) continue;
      ASSIGN_OR_RETURN(bool reached, SignalProcess(pid, processes[pid], signal));
      if (!reached) continue;
      signalled.insert(pid);
      found = true;
    }
    if (!found) break;
  }
  return static_cast<int>(signalled.size());
}

}  // namespace feather
