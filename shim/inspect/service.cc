#include "shim/inspect/service.h"

#include <dirent.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/utf8.h"
#include "shim/inspect/report.h"
#include "shim/version.h"

namespace feather::inspect {

namespace api = feather::inspect::v1;

namespace {

// 0 where the kernel does not tell.
uint64_t PrivateMemory() {
  std::string text = ReadFile("/proc/self/smaps_rollup").value_or("");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, "Private_Dirty:")) continue;
    uint64_t kib = 0;
    absl::ConsumeSuffix(&line, " kB");
    return absl::SimpleAtoi(line, &kib) ? kib << 10 : 0;
  }
  return 0;
}

uint32_t Descriptors() {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc/self/fd"), closedir);
  if (!directory) return 0;
  uint32_t count = 0;
  while (const dirent* entry = readdir(directory.get())) count += entry->d_name[0] != '.';
  return count - 1;  // the directory itself
}

void SetTime(std::chrono::system_clock::time_point time, google::protobuf::Timestamp& timestamp) {
  auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  timestamp.set_seconds(seconds.time_since_epoch().count());
  timestamp.set_nanos(static_cast<int32_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time - seconds).count()));
}

std::string ExitText(const api::Container& container) {
  return container.has_exited_at() ? UtcText(TimeOf(container.exited_at())) : "";
}

}  // namespace

Service::Service(std::string id, std::string name_space, std::string bundle,
                 const TaskService& tasks, const SandboxService& sandbox,
                 const Publisher& publisher, std::function<size_t()> connections)
    : id_(std::move(id)),
      name_space_(std::move(name_space)),
      bundle_(std::move(bundle)),
      tasks_(tasks),
      sandbox_(sandbox),
      publisher_(publisher),
      connections_(std::move(connections)) {}

void Service::Register(rpc::MethodTable& methods) {
  methods.AddUnary<api::ShimRequest, api::ShimResponse>(
      "feather.inspect.v1.Inspect", "Shim",
      [this](rpc::CallContext, api::ShimRequest) -> Async<absl::StatusOr<api::ShimResponse>> {
        co_return Report();
      });
}

api::ShimResponse Service::Report() const {
  api::ShimResponse report;
  report.set_id(id_);
  report.set_namespace_(name_space_);
  report.set_version(kVersion);
  report.set_revision(kRevision);
  report.set_pid(static_cast<uint32_t>(getpid()));
  SetTime(started_, *report.mutable_started_at());
  report.set_bundle(ValidUtf8(bundle_));
  report.set_private_memory_bytes(PrivateMemory());
  report.set_descriptors(Descriptors());
  report.set_connections(static_cast<uint32_t>(connections_()));
  report.set_pending_events(publisher_.pending());
  report.set_dropped_log_lines(DroppedLogLines());
  report.set_problems(ProblemCount());
  for (const LoggedProblem& logged : LastProblems()) {
    api::Problem& problem = *report.add_last_problems();
    SetTime(logged.at, *problem.mutable_at());
    problem.set_level(LogLevelName(logged.level));
    problem.set_text(ValidUtf8(logged.text));
  }
  tasks_.Describe(report);
  sandbox_.Describe(report);
  return report;
}

void Service::Log() const {
  const api::ShimResponse report = Report();
  LogInfo("state", {{"version", report.version()},
                    {"revision", report.revision()},
                    {"pid", absl::StrCat(report.pid())},
                    {"started_at", UtcText(started_)},
                    {"namespace", report.namespace_()},
                    {"bundle", report.bundle()},
                    {"containers", absl::StrCat(report.containers_size())},
                    {"oom_kills", absl::StrCat(report.oom_kills())},
                    {"connections", absl::StrCat(report.connections())},
                    {"pending_events", absl::StrCat(report.pending_events())},
                    {"private_memory_bytes", absl::StrCat(report.private_memory_bytes())},
                    {"descriptors", absl::StrCat(report.descriptors())},
                    {"problems", absl::StrCat(report.problems())},
                    {"dropped_log_lines", absl::StrCat(report.dropped_log_lines())},
                    {"sandbox", report.sandbox().state()},
                    {"sandbox_pid", absl::StrCat(report.sandbox().pid())}});
  for (const api::Container& container : report.containers()) {
    LogInfo("state of a container", {{"id", container.id()},
                                     {"state", container.state()},
                                     {"pid", absl::StrCat(container.pid())},
                                     {"bundle", container.bundle()},
                                     {"cgroup", container.cgroup()},
                                     {"exit_status", absl::StrCat(container.exit_status())},
                                     {"exited_at", ExitText(container)},
                                     {"execs", absl::StrCat(container.execs_size())},
                                     {"oom_kills", absl::StrCat(container.oom_kills())}});
    for (const api::Exec& exec : container.execs())
      LogInfo("state of an exec", {{"id", container.id()},
                                   {"exec_id", exec.id()},
                                   {"state", exec.state()},
                                   {"pid", absl::StrCat(exec.pid())},
                                   {"exit_status", absl::StrCat(exec.exit_status())}});
  }
  for (const LoggedProblem& logged : LastProblems())
    LogInfo("one of the last problems", {{"at", UtcText(logged.at)},
                                         {"problem_level", LogLevelName(logged.level)},
                                         {"text", logged.text}});
}

}  // namespace feather::inspect
