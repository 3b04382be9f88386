#include "oom/kernel_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/numbers.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {
namespace {

// PROC_PID_INIT_INO of include/linux/proc_ns.h.
constexpr ino_t kFirstPidNamespace = 0xEFFFFFFC;
// The longest record (CONSOLE_EXT_LOG_MAX).
constexpr size_t kLongestRecord = 8192;
// More are not read: a second's work at most.
constexpr int kMostRecords = 1 << 18;
// Severity and facility share a number; 0 is the kernel's facility, and a writer of /dev/kmsg
// cannot have it.
constexpr int kSeverities = 8;
constexpr absl::string_view kKilled = ": Killed process ";

bool InFirstPidNamespace() {
  struct stat info {};
  return stat("/proc/self/ns/pid", &info) == 0 && info.st_ino == kFirstPidNamespace;
}

// The log's clock runs beside CLOCK_MONOTONIC, without NTP's corrections: allow for 100 ppm.
uint64_t NowLessDrift() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t us =
      static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1'000;
  return us - std::min(us, us / 10'000 + 2'000'000);
}

// Where kernel.dmesg_restrict is set, it takes a capability. Invalid for what is no kernel log: in
// a container it may be a link to a terminal.
UniqueFd Open(const std::string& path) {
  RaisedCapabilities raised({CAP_SYSLOG});
  UniqueFd log(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat info {};
  const bool is_device = log && fstat(log.get(), &info) == 0 && S_ISCHR(info.st_mode);
  if (is_device && info.st_rdev != makedev(1, 11)) log.Reset();
  return log;
}

// The text up to `end`, which is taken off with it; all of it where there is no `end`.
absl::string_view Take(absl::string_view& text, char end) {
  const size_t at = text.find(end);
  const absl::string_view taken = text.substr(0, at);
  text.remove_prefix(at == absl::string_view::npos ? text.size() : at + 1);
  return taken;
}

}  // namespace

KernelLog::KernelLog(std::vector<pid_t> processes) : since_(NowLessDrift()) {
  if (InFirstPidNamespace()) processes_ = std::move(processes);
}

void KernelLog::Add(absl::string_view record) {
  // "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT\n KEY=VALUE\n…"
  int priority = 0;
  uint64_t at = 0;
  const bool ours = absl::SimpleAtoi(Take(record, ','), &priority) && priority < kSeverities;
  Take(record, ',');
  if (!absl::SimpleAtoi(Take(record, ','), &at) || !ours || at < since_) return;
  Take(record, ';');
  absl::string_view text = Take(record, '\n');
  const size_t killed = text.find(kKilled);
  if (killed == absl::string_view::npos) return;
  text.remove_prefix(killed + kKilled.size());
  pid_t pid = 0;
  // Once each: their pids may have been given anew since.
  if (absl::SimpleAtoi(Take(text, ' '), &pid) && std::erase(processes_, pid) > 0) ++kills_;
}

void KernelLog::Read(const std::string& path) {
  if (processes_.empty()) return;
  const UniqueFd log = Open(path);
  if (!log) return;
  std::array<char, kLongestRecord> record;
  for (int left = kMostRecords; left > 0 && !processes_.empty(); --left) {
    const ssize_t size = read(log.get(), record.data(), record.size());
    if (size > 0) {
      Add(absl::string_view(record.data(), static_cast<size_t>(size)));
    } else if (size == 0 || (errno != EPIPE && errno != EINTR && errno != EINVAL)) {
      // EPIPE: records were overwritten before they were read. EINVAL: one was too long.
      return;
    }
  }
}

}  // namespace feather::oom
