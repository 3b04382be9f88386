// The half of Daemon that observes: its events, and what it has left behind.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "runtime/base/file.h"
#include "tests/support/daemon.h"
#include "tests/support/proc.h"

namespace feather::test {
namespace {

// "DATE TIME ZONE UTC NAMESPACE TOPIC JSON".
std::vector<DaemonEvent> ParseEvents(const std::string& text) {
  std::vector<DaemonEvent> events;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, absl::MaxSplits(' ', 6));
    if (words.size() == 7 && absl::EndsWith(words[6], "}"))
      events.push_back({std::string(words[4]), std::string(words[5]), std::string(words[6])});
  }
  return events;
}

void AppendFilesBelow(const std::string& path, std::vector<std::string>& found) {
  for (const std::string& name : ListDirectory(path)) {
    const std::string child = absl::StrCat(path, "/", name);
    found.push_back(child);
    struct stat info {};
    if (lstat(child.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) AppendFilesBelow(child, found);
  }
}

}  // namespace

std::string DaemonEvent::Field(absl::string_view name) const {
  const std::string key = absl::StrCat("\"", name, "\":");
  const size_t at = json.find(key);
  if (at == std::string::npos) return "";
  absl::string_view rest = absl::string_view(json).substr(at + key.size());
  if (absl::ConsumePrefix(&rest, "\"")) return std::string(rest.substr(0, rest.find('"')));
  return std::string(rest.substr(0, rest.find_first_of(",}")));
}

std::string DaemonEvent::Summary() const {
  const std::string container = Field("container_id");
  std::string exec = Field("exec_id");
  if (exec.empty() && absl::StartsWith(topic, "/tasks/exit")) exec = Field("id");
  if (exec.empty() || exec == container) return absl::StrCat(topic, " ", container);
  return absl::StrCat(topic, " ", container, "/", exec);
}

void Daemon::FollowEvents() {
  StopFollowing();
  events_ = StartCtr({"events"});
  // `ctr` does not say when it has subscribed; it has once it prints an event made here.
  int turn = 0;
  const bool follows = Eventually([&] {
    Ctr({"namespace", "label", namespace_, absl::StrCat("turn=", ++turn)});
    return events_->WaitOutput("/namespaces/", Milliseconds(100));
  });
  EXPECT_TRUE(follows) << events_->err();
}

void Daemon::StopFollowing() {
  if (events_ != nullptr) followed_ += events_->out();
  events_.reset();
}

std::vector<DaemonEvent> Daemon::TaskEvents(const std::string& id) const {
  std::vector<DaemonEvent> found;
  for (DaemonEvent& event : ParseEvents(events_ ? events_->out() : "")) {
    if (absl::StartsWith(event.topic, "/tasks/") && event.Field("container_id") == id)
      found.push_back(std::move(event));
  }
  return found;
}

bool Daemon::WaitEvents(absl::FunctionRef<bool(const std::vector<DaemonEvent>&)> done,
                        Milliseconds limit) {
  return events_ != nullptr &&
         events_->WaitOutput([&](const std::string& out) { return done(ParseEvents(out)); }, limit);
}

bool Daemon::WaitEvent(const std::string& summary, Milliseconds limit) {
  return WaitEvents(
      [&](const std::vector<DaemonEvent>& events) {
        return std::any_of(events.begin(), events.end(),
                           [&](const DaemonEvent& e) { return e.Summary() == summary; });
      },
      limit);
}

void Daemon::PrintLog() const {
  std::string text = absl::StrCat("containerd ", version(), "\n");
  for (absl::string_view line : absl::StrSplit(Log(), '\n')) {
    if (!absl::StrContains(line, "loading plugin")) absl::StrAppend(&text, line, "\n");
  }
  GTEST_LOG_(INFO) << text << "events:\n" << followed_;
}

std::vector<std::string> Daemon::Processes() const {
  std::vector<std::string> found;
  for (pid_t pid : DaemonProcesses(namespace_)) {
    if (process_ != nullptr && pid == process_->pid()) continue;
    if (events_ != nullptr && pid == events_->pid()) continue;
    found.push_back(absl::StrCat("process ", pid, ": ", CommandLine(pid)));
  }
  return found;
}

std::vector<std::string> Daemon::Mounts() const {
  std::vector<std::string> found;
  const std::string info = ReadFile("/proc/self/mountinfo").value_or("");
  for (absl::string_view line : absl::StrSplit(info, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words.size() < 5) continue;
    if (absl::StartsWith(words[4], directory_ + "/") ||
        absl::StartsWith(words[4], "/run/containerd/"))
      found.push_back(words[4]);
  }
  return found;
}

std::vector<std::string> Daemon::Cgroups() const { return ChildCgroups(namespace_); }

std::vector<std::string> Daemon::Files() const {
  std::vector<std::string> found;
  const std::string tasks = absl::StrCat("io.containerd.runtime.v2.task/", namespace_);
  for (const std::string& path :
       {std::string("/run/containerd/s"), absl::StrCat("/run/containerd/runc/", namespace_),
        std::string("/run/containerd/fifo"), directory_ + "/fifo", directory_ + "/tmp",
        absl::StrCat(directory_, "/state/", tasks), absl::StrCat(directory_, "/root/", tasks)})
    AppendFilesBelow(path, found);
  return found;
}

void Daemon::RemoveClientFifos() const {
  std::vector<std::string> paths;
  AppendFilesBelow(directory_ + "/fifo", paths);
  std::reverse(paths.begin(), paths.end());
  for (const std::string& path : paths) remove(path.c_str());
}

std::vector<std::string> Daemon::Leftovers(Milliseconds limit) const {
  std::vector<std::string> found;
  Eventually(
      [&] {
        found = Processes();
        for (const auto& more : {Mounts(), Cgroups(), Files()})
          found.insert(found.end(), more.begin(), more.end());
        return found.empty();
      },
      limit);
  return found;
}

}  // namespace feather::test
