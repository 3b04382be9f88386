#include "oom/kernel_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "oom/cgroupfs.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {
namespace {

// PROC_PID_INIT_INO and PROC_CGROUP_INIT_INO of include/linux/proc_ns.h.
constexpr ino_t kFirstPidNamespace = 0xEFFFFFFC;
constexpr ino_t kFirstCgroupNamespace = 0xEFFFFFFB;
// More are not read: a second's work at most.
constexpr int kMostRecords = 1 << 18;
// A container that is killed from again and again is never at rest.
constexpr size_t kMostKept = 256;
// Severity and facility share a number; 0 is the kernel's facility, and a writer of /dev/kmsg
// cannot have it.
constexpr int kSeverities = 8;
// The beginnings of a kill's line: by the limit of a cgroup, by the machine's own.
constexpr std::array<absl::string_view, 3> kKilled{
    "Memory cgroup out of memory: Killed process ", "Out of memory: Killed process ",
    "Out of memory (oom_kill_allocating_task): Killed process "};
constexpr absl::string_view kOomMemcg = ",oom_memcg=";
constexpr absl::string_view kTaskMemcg = ",task_memcg=";
constexpr absl::string_view kPid = ",pid=";

bool InNamespace(const char* link, ino_t number) {
  struct stat info {};
  return stat(link, &info) == 0 && info.st_ino == number;
}

// The text up to `end`, which is taken off with it; all of it where there is no `end`.
absl::string_view CutAt(absl::string_view& text, char end) {
  const size_t at = text.find(end);
  const absl::string_view taken = text.substr(0, at);
  text.remove_prefix(at == absl::string_view::npos ? text.size() : at + 1);
  return taken;
}

// As the log has it, which is printable ASCII: systemd puts backslashes into names (\x2d).
std::string Escaped(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < ' ' || byte >= 127 || byte == '\\') {
      absl::StrAppend(&escaped, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      escaped += c;
    }
  }
  return escaped;
}

// Where `key` is, npos unless it is there once: a name may have it in itself.
size_t FindOnly(absl::string_view text, absl::string_view key) {
  const size_t at = text.find(key);
  return at == text.rfind(key) ? at : absl::string_view::npos;
}

}  // namespace

UniqueFd OpenKernelLog(const std::string& path) {
  // Where kernel.dmesg_restrict is set, it takes a capability.
  RaisedCapabilities raised({CAP_SYSLOG});
  UniqueFd log(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat info {};
  const bool is_device = log && fstat(log.get(), &info) == 0 && S_ISCHR(info.st_mode);
  // In a container it may be a link to a terminal.
  if (is_device && info.st_rdev != makedev(1, 11)) log.Reset();
  return log;
}

KernelLog::KernelLog(const std::string& directory, Clock::time_point begun)
    : knows_pids_(InNamespace("/proc/self/ns/pid", kFirstPidNamespace)), begun_(begun) {
  if (InNamespace("/proc/self/ns/cgroup", kFirstCgroupNamespace))
    cgroup_ = Escaped(NameInHierarchy(directory));
}

void KernelLog::SawProcesses(std::vector<pid_t> processes, bool keep) {
  if (!knows_pids_ || processes.empty()) return;
  if (!keep || before_.size() > kMostKept) before_.clear();
  before_.insert(before_.end(), processes_.begin(), processes_.end());
  processes_ = std::move(processes);
}

void KernelLog::Add(absl::string_view record) {
  // "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT\n KEY=VALUE\n…"
  int priority = 0;
  uint64_t sequence = 0, at = 0;
  const bool ours = absl::SimpleAtoi(CutAt(record, ','), &priority) && priority < kSeverities;
  if (!absl::SimpleAtoi(CutAt(record, ','), &sequence) || sequence < next_) return;
  next_ = sequence + 1;
  if (!absl::SimpleAtoi(CutAt(record, ','), &at)) return;
  newest_ = at;
  if (!ours) return;
  CutAt(record, ';');
  absl::string_view text = CutAt(record, '\n');
  if (absl::StartsWith(text, "oom-kill:")) return AddChoice(text);
  for (absl::string_view killed : kKilled)
    if (absl::ConsumePrefix(&text, killed)) return AddKill(text, at);
}

void KernelLog::AddChoice(absl::string_view text) {
  chosen_.reset();
  const size_t memcg = FindOnly(text, kTaskMemcg);
  if (memcg == absl::string_view::npos || cgroup_.empty()) return;
  absl::string_view path = text.substr(memcg + kTaskMemcg.size());
  if (!absl::ConsumePrefix(&path, cgroup_)) return;
  if (!absl::StartsWith(path, ",task=") && !absl::StartsWith(path, "/")) return;
  Victim victim;
  const size_t last = text.rfind(kPid);
  if (last == absl::string_view::npos) return;
  absl::string_view pid = text.substr(last + kPid.size());
  if (!absl::SimpleAtoi(CutAt(pid, ','), &victim.pid)) return;
  const size_t limit = FindOnly(text, kOomMemcg);
  if (limit < memcg)
    victim.limit_of =
        std::string(text.substr(limit + kOomMemcg.size(), memcg - limit - kOomMemcg.size()));
  chosen_ = std::move(victim);
}

void KernelLog::AddKill(absl::string_view text, uint64_t at) {
  Victim victim;
  if (!absl::SimpleAtoi(CutAt(text, ' '), &victim.pid)) return;
  // Once each: a group's first victim is told twice, and pids are given anew.
  victim.seen = std::erase(processes_, victim.pid) + std::erase(before_, victim.pid) > 0;
  const bool chosen = chosen_ && chosen_->pid == victim.pid;
  if (!chosen && !victim.seen) return;
  if (chosen) victim.limit_of = std::move(chosen_->limit_of);
  chosen_.reset();
  if (absl::ConsumePrefix(&text, "("))
    victim.name = std::string(text.substr(0, text.rfind(") total-vm:")));
  found_.push_back({at, std::move(victim)});
}

void KernelLog::Read(const std::string& path) {
  if (cgroup_.empty() && processes_.empty()) return;
  if (!log_) log_ = OpenKernelLog(path);
  if (!log_) return;
  std::array<char, kLongestRecord> record;
  for (int left = kMostRecords; left > 0; --left) {
    const ssize_t size = read(log_.get(), record.data(), record.size());
    if (size > 0) {
      Add(absl::string_view(record.data(), static_cast<size_t>(size)));
    } else if (size == 0 || (errno != EPIPE && errno != EINTR && errno != EINVAL)) {
      // EPIPE: records were overwritten before they were read. EINVAL: one was too long.
      return;
    }
  }
}

std::vector<Victim> KernelLog::Take(Clock::time_point since) {
  const auto age =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - std::max(begun_, since));
  std::vector<Victim> victims;
  for (Found& found : std::exchange(found_, {}))
    if (found.at + static_cast<uint64_t>(age.count()) >= newest_)
      victims.push_back(std::move(found.victim));
  return victims;
}

}  // namespace feather::oom
