#include "oom/kernel_record.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "oom/cgroupfs.h"
#include "runtime/base/capabilities.h"

namespace feather::oom {
namespace {

// PROC_PID_INIT_INO and PROC_CGROUP_INIT_INO of include/linux/proc_ns.h.
constexpr ino_t kFirstPidNamespace = 0xEFFFFFFC;
constexpr ino_t kFirstCgroupNamespace = 0xEFFFFFFB;
// More are not read: a second's work at most.
constexpr int kMostRecords = 1 << 18;
// Severity and facility share a number; 0 is the kernel's facility, and a writer of /dev/kmsg
// cannot have it.
constexpr int kSeverities = 8;
constexpr absl::string_view kChoice = "oom-kill:";
constexpr absl::string_view kOomMemcg = ",oom_memcg=";
constexpr absl::string_view kTaskMemcg = ",task_memcg=";
constexpr absl::string_view kTask = ",task=";
constexpr absl::string_view kPid = ",pid=";
// The beginnings of a victim's line: by the limit of a cgroup, by the machine's own.
constexpr std::array<absl::string_view, 3> kCauses{
    "Memory cgroup out of memory: ", "Out of memory: ",
    "Out of memory (oom_kill_allocating_task): "};
constexpr absl::string_view kKilled = "Killed process ";
constexpr absl::string_view kSkipped = "OOM victim ";
constexpr absl::string_view kEscape = "\\x";

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

std::string Escaped(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < ' ' || byte >= 127 || byte == '\\') {
      absl::StrAppend(&escaped, kEscape, absl::Hex(byte, absl::kZeroPad2));
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

// Of the text after the name of the victim's cgroup began.
std::optional<absl::string_view> NameBelow(absl::string_view text, absl::string_view cgroup) {
  if (cgroup.empty() || !absl::ConsumePrefix(&text, cgroup)) return std::nullopt;
  if (absl::StartsWith(text, kTask)) return text.substr(0, 0);
  const size_t end = FindOnly(text, kTask);
  if (end == absl::string_view::npos || !absl::StartsWith(text, "/")) return std::nullopt;
  return text.substr(0, end);
}

}  // namespace

UniqueFd OpenKernelLog() {
  // What a policy of SELinux refuses once it refuses again, and each time is a record in the
  // machine's logs. (Want of a capability is EPERM.)
  static bool refused = false;
  if (refused) return {};
  // Where kernel.dmesg_restrict is set, it takes a capability.
  RaisedCapabilities raised({CAP_SYSLOG});
  UniqueFd log(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!log) refused = errno == EACCES;
  struct stat info {};
  const bool is_device = log && fstat(log.get(), &info) == 0 && S_ISCHR(info.st_mode);
  // In a container it may be a link to a terminal.
  if (is_device && info.st_rdev != makedev(1, 11)) log.Reset();
  return log;
}

void ReadRecords(const UniqueFd& log, const std::function<void(absl::string_view)>& visit) {
  if (!log) return;
  std::array<char, kLongestRecord> record;
  for (int left = kMostRecords; left > 0; --left) {
    const ssize_t size = read(log.get(), record.data(), record.size());
    if (size > 0) {
      visit(absl::string_view(record.data(), static_cast<size_t>(size)));
    } else if (size == 0 || (errno != EPIPE && errno != EINTR && errno != EINVAL)) {
      // EPIPE: records were overwritten before they were read. EINVAL: one was too long.
      return;
    }
  }
}

std::optional<KernelRecord> ParseRecord(absl::string_view record) {
  // "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT\n KEY=VALUE\n…"
  int priority = 0;
  KernelRecord parsed;
  const bool ours = absl::SimpleAtoi(CutAt(record, ','), &priority) && priority < kSeverities;
  if (!absl::SimpleAtoi(CutAt(record, ','), &parsed.sequence)) return std::nullopt;
  CutAt(record, ';');
  if (ours) parsed.text = CutAt(record, '\n');
  return parsed;
}

std::optional<OomChoice> ParseChoice(absl::string_view text, absl::string_view cgroup) {
  if (!absl::StartsWith(text, kChoice)) return std::nullopt;
  OomChoice choice;
  const size_t at = text.rfind(kPid);
  if (at != absl::string_view::npos) {
    absl::string_view pid = text.substr(at + kPid.size());
    if (!absl::SimpleAtoi(CutAt(pid, ','), &choice.pid)) choice.pid = 0;
  }
  const size_t memcg = FindOnly(text, kTaskMemcg);
  if (memcg == absl::string_view::npos) return choice;
  choice.below = NameBelow(text.substr(memcg + kTaskMemcg.size()), cgroup);
  const size_t task = FindOnly(text, kTask);
  if (task != absl::string_view::npos && at != absl::string_view::npos && task < at)
    choice.name = text.substr(task + kTask.size(), at - task - kTask.size());
  const size_t limit = FindOnly(text, kOomMemcg);
  if (limit < memcg)
    choice.limit_of = text.substr(limit + kOomMemcg.size(), memcg - limit - kOomMemcg.size());
  return choice;
}

std::optional<OomVictim> ParseVictim(absl::string_view text) {
  for (absl::string_view cause : kCauses) {
    if (!absl::ConsumePrefix(&text, cause)) continue;
    OomVictim victim;
    victim.killed = absl::ConsumePrefix(&text, kKilled);
    if (!victim.killed && !absl::ConsumePrefix(&text, kSkipped)) return std::nullopt;
    if (!absl::SimpleAtoi(CutAt(text, ' '), &victim.pid)) return std::nullopt;
    if (absl::ConsumePrefix(&text, "(")) victim.name = text.substr(0, text.rfind(kAfterName));
    return victim;
  }
  return std::nullopt;
}

std::string LogNameOf(const std::string& directory) {
  if (!InNamespace("/proc/self/ns/cgroup", kFirstCgroupNamespace)) return "";
  return Escaped(NameInHierarchy(directory));
}

std::string Unescaped(absl::string_view text) {
  std::string plain;
  while (!text.empty()) {
    // A backslash is always the beginning of one.
    uint32_t byte = 0;
    if (text.size() >= 4 && absl::StartsWith(text, kEscape) &&
        absl::SimpleHexAtoi(text.substr(2, 2), &byte)) {
      plain += static_cast<char>(byte);
      text.remove_prefix(4);
    } else {
      plain += text[0];
      text.remove_prefix(1);
    }
  }
  return plain;
}

bool KnowsPidsOfLog() { return InNamespace("/proc/self/ns/pid", kFirstPidNamespace); }

}  // namespace feather::oom
