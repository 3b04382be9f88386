#include "tests/support/transcript.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"

namespace feather::test {
namespace {

// Digits after `prefix` become N: "pipe:[123]", "master:17".
std::string ReplaceNumbersAfter(std::string text, const std::string& prefix) {
  size_t at = 0;
  while ((at = text.find(prefix, at)) != std::string::npos) {
    at += prefix.size();
    size_t end = text.find_first_not_of("0123456789", at);
    if (end == std::string::npos) end = text.size();
    if (end > at) text.replace(at, end - at, "N");
  }
  return text;
}

// "2026-11-28T22:00:00Z" and the like become TIME.
std::string ReplaceTimes(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    bool time = i + 11 < text.size() && absl::StartsWith(text.substr(i), "20") &&
                text[i + 4] == '-' && text[i + 7] == '-' && text[i + 10] == 'T';
    if (!time) {
      out += text[i++];
      continue;
    }
    out += "TIME";
    i = text.find_first_not_of("0123456789-T:.+Z", i);
    if (i == std::string::npos) break;
  }
  return out;
}

std::string Describe(const google::protobuf::Timestamp& time, bool present) {
  if (!present) return "no time";
  if (time.seconds() == -62135596800) return "Go's zero time";
  absl::Time t = absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
  absl::Duration age = absl::Now() - t;
  return age >= absl::ZeroDuration() && age < absl::Minutes(10) ? "now" : absl::FormatTime(t);
}

bool Changes(absl::string_view status_line) {
  for (const char* name : {"Vm", "Rss", "voluntary", "nonvoluntary", "SigQ", "State", "Hugetlb",
                           "Tgid", "Pid", "NStgid", "NSpid", "NSpgid", "NSsid"})
    if (absl::StartsWith(status_line, name)) return true;
  return false;
}

// Without ids and device numbers, which the kernel counts up.
std::string MountLine(absl::string_view line) {
  std::vector<std::string> fields = absl::StrSplit(line, ' ');
  if (fields.size() < 6) return std::string(line);
  std::string rest = absl::StrJoin(fields.begin() + 3, fields.end(), " ");
  return ReplaceNumbersAfter(ReplaceNumbersAfter(rest, "master:"), "shared:");
}

std::string Mode(const struct stat& s) {
  const char* type = S_ISDIR(s.st_mode)    ? "directory"
                     : S_ISREG(s.st_mode)  ? "file"
                     : S_ISFIFO(s.st_mode) ? "fifo"
                     : S_ISLNK(s.st_mode)  ? "link"
                                           : "other";
  return absl::StrFormat("%s %o", type, s.st_mode & 07777);
}

}  // namespace

const char kViewScript[] =
    "P=/proc/$$; "
    "for f in status limits mountinfo oom_score_adj cgroup timerslack_ns; do "
    "  echo \"=== $f\"; cat $P/$f; done; "
    "echo '=== environ'; tr '\\0' '\\n' < $P/environ; "
    "echo '=== fd'; for f in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do "
    "  [ -L $P/fd/$f ] && echo $f $(readlink $P/fd/$f) $(grep flags $P/fdinfo/$f) "
    "    $(stat -Lc '%u:%g %a' $P/fd/$f); done; "
    "echo '=== session'; set -- $(cut -d' ' -f4-8 $P/stat); for i in \"$@\"; do [ $i = $$ ] && "
    "echo self || echo $i; done; "
    "echo '=== umask'; umask; echo '=== id'; id; echo '=== cwd'; pwd; "
    "echo '=== end'";

Transcript::Transcript(FakeContainerd& ctrd) : ctrd_(ctrd) {
  names_ = {{ctrd.settings().shim, "$SHIM"}, {ctrd.directory(), "$DIR"}, {ctrd.name(), "$NAME"}};
}

void Transcript::NamePid(uint32_t pid, const std::string& name) {
  if (pid != 0) pids_.emplace_back(pid, name);
}

std::string Transcript::PidName(uint32_t pid) const {
  if (pid == 0) return "0";
  for (const auto& [known, name] : pids_)
    if (known == pid) return "$" + name;
  return "another pid";
}

std::string Transcript::Normalize(std::string text) const {
  for (const auto& [from, to] : names_) absl::StrReplaceAll({{from, to}}, &text);
  if (size_t at = text.find("/run/containerd/s/"); at != std::string::npos)
    text.replace(at + 18, 64, "HASH");
  text = ReplaceTimes(ReplaceNumbersAfter(std::move(text), "pipe:["));
  return ReplaceNumbersAfter(std::move(text), "pid=");
}

void Transcript::Add(const std::string& label, std::string value) {
  lines_.push_back({label, Normalize(std::move(value))});
  if (getenv("FEATHER_TRANSCRIPT") != nullptr)
    fprintf(stderr, "%s: %s\n", label.c_str(), lines_.back().value.c_str());
}

void Transcript::Add(const std::string& label, const absl::Status& status) {
  Add(label, status.ok() ? "OK"
                         : absl::StrCat("code ", static_cast<int>(status.code()), ": ",
                                        std::string(status.message())));
}

void Transcript::AddState(const std::string& label,
                          const absl::StatusOr<task::StateResponse>& state) {
  if (!state.ok()) return Add(label, state.status());
  Add(label, absl::StrCat("id ", state->id(), " bundle ", state->bundle(), " pid ",
                          PidName(state->pid()), " status ", state->status(), " stdin ",
                          state->stdin(), " stdout ", state->stdout(), " stderr ", state->stderr(),
                          " terminal ", state->terminal(), " exit ", state->exit_status(), " at ",
                          Describe(state->exited_at(), state->has_exited_at()), " exec ",
                          state->exec_id()));
}

void Transcript::AddExit(const std::string& label, const absl::StatusOr<task::WaitResponse>& exit) {
  if (!exit.ok()) return Add(label, exit.status());
  Add(label, absl::StrCat("exit ", exit->exit_status(), " at ",
                          Describe(exit->exited_at(), exit->has_exited_at())));
}

void Transcript::AddDelete(const std::string& label,
                           const absl::StatusOr<task::DeleteResponse>& deleted) {
  if (!deleted.ok()) return Add(label, deleted.status());
  Add(label, absl::StrCat("pid ", PidName(deleted->pid()), " exit ", deleted->exit_status(), " at ",
                          Describe(deleted->exited_at(), deleted->has_exited_at())));
}

void Transcript::AddBundle(const std::string& label, const Container& container) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(container.bundle(), error))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    std::string path = container.bundle() + "/" + name;
    struct stat s {};
    if (lstat(path.c_str(), &s) < 0) continue;
    std::string value = Mode(s);
    // The pid and the address are known to differ; the spec is the test's own.
    if (S_ISREG(s.st_mode) && name != "config.json" && name != "address" &&
        name != "bootstrap.json" && !absl::EndsWith(name, ".pid"))
      absl::StrAppend(&value, ": ", *ReadFile(path));
    Add(absl::StrCat(label, " ", name), value);
  }
}

void Transcript::AddEvents() {
  using namespace containerd::events;
  int number = 0;
  for (const RecordedEvent& event : ctrd_.events().events()) {
    std::string value = absl::StrCat(event.Summary(), " type ", event.type, " namespace ",
                                     event.name_space, " pid ", PidName(event.pid));
    if (event.topic == "/tasks/create") {
      auto create = event.As<TaskCreate>();
      absl::StrAppend(&value, " bundle ", create.bundle(), " stdin ", create.io().stdin(),
                      " stdout ", create.io().stdout(), " stderr ", create.io().stderr(),
                      " terminal ", create.io().terminal(), " checkpoint ", create.checkpoint());
      for (const auto& mount : create.rootfs())
        absl::StrAppend(&value, " mount ", mount.type(), " ", mount.source(), " ", mount.target(),
                        " ", absl::StrJoin(mount.options(), ","));
    } else if (event.topic == "/tasks/exit") {
      auto exit = event.As<TaskExit>();
      absl::StrAppend(&value, " id ", exit.id(), " at ",
                      Describe(exit.exited_at(), exit.has_exited_at()));
    } else if (event.topic == "/tasks/delete") {
      auto deleted = event.As<TaskDelete>();
      absl::StrAppend(&value, " id ", deleted.id(), " at ",
                      Describe(deleted.exited_at(), deleted.has_exited_at()));
    }
    Add(absl::StrCat("event ", ++number), value);
  }
}

void Transcript::AddView(const std::string& label, const std::string& report) {
  std::string section;
  for (absl::string_view raw : absl::StrSplit(report, '\n')) {
    std::string line = absl::StrReplaceAll(raw, {{"\r", ""}});
    if (absl::StartsWith(line, "=== ")) {
      section = line.substr(4);
      Add(label + " section", section);
      continue;
    }
    if (line.empty() || (section == "status" && Changes(line))) continue;
    if (section == "mountinfo") line = MountLine(line);
    Add(absl::StrCat(label, " ", section), line);
  }
}

std::vector<Difference> Compare(const Transcript& ours, const Transcript& theirs) {
  std::map<std::string, std::pair<std::vector<std::string>, std::vector<std::string>>> by_label;
  std::vector<std::string> labels;
  for (const auto& line : ours.lines()) {
    labels.push_back(line.label);
    by_label[line.label].first.push_back(line.value);
  }
  for (const auto& line : theirs.lines()) {
    labels.push_back(line.label);
    by_label[line.label].second.push_back(line.value);
  }
  std::vector<Difference> differences;
  for (const std::string& label : labels) {
    auto found = by_label.find(label);
    if (found == by_label.end()) continue;
    auto& [a, b] = found->second;
    for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
      std::string mine = i < a.size() ? a[i] : "";
      std::string other = i < b.size() ? b[i] : "";
      if (mine != other) differences.push_back({label, mine, other});
    }
    by_label.erase(found);
  }
  return differences;
}

}  // namespace feather::test
