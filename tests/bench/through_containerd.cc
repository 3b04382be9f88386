// Through containerd: many containers at once, its restart, and events.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "tests/bench/bench.h"
#include "tests/bench/rpc.h"
#include "tests/support/daemon.h"
#include "tests/support/subprocess.h"

namespace feather::bench {
namespace {

// Of this alone ctr knows how to ask for another OCI runtime.
constexpr char kRuntimeName[] = "io.containerd.runc.v2";

// The suite of Debian whose containerd is the newest that there is here.
std::string NewestDaemon() {
  std::string newest;
  for (const std::string& suite : test::Daemon::Suites())
    if (test::Daemon::Unavailable(suite).empty()) newest = suite;
  return newest;
}

std::string LastLine(absl::string_view text) {
  text = absl::StripTrailingAsciiWhitespace(text);
  return std::string(text.substr(text.rfind('\n') + 1));
}

}  // namespace

// A daemon wants a mount namespace, and tells its shim from the environment.
void MeasureDaemon(Bench& bench) {
  if (NewestDaemon().empty()) {
    for (const std::string& suite : test::Daemon::Suites())
      bench.report.AddMissing(absl::StrCat("daemon: ", test::Daemon::Unavailable(suite)));
    return;
  }
  bench.ForEach(std::min(bench.counts.rounds, 3), [&](const Subject& subject, int) {
    test::Subprocess::Options options;
    // The first of a name counts.
    options.env = {"FEATHER_SHIM=" + subject.shim,
                   absl::StrCat("FEATHER_TEST_RUNTIME=", kRuntimeName)};
    for (char** entry = environ; *entry != nullptr; ++entry) options.env.emplace_back(*entry);
    options.argv = {OwnPath(), "--daemon"};
    if (*bench.counts.option != '\0') options.argv.push_back(bench.counts.option);
    if (!bench.runtime.empty())
      options.argv.insert(options.argv.end(), {"--runtime", bench.runtime});
    constexpr test::Milliseconds kPartLimit(1'200'000);
    test::CommandResult result = test::RunCommand(options, kPartLimit);
    for (absl::string_view line : absl::StrSplit(result.out, '\n', absl::SkipEmpty())) {
      std::vector<std::string> parts = absl::StrSplit(line, '|');
      double value = 0;
      if (parts.size() == 4 && absl::SimpleAtod(parts[3], &value))
        bench.report.Get(parts[0], parts[1], parts[2], /*more_is_better=*/parts[1] == "1/s")
            .values[static_cast<int>(subject.column)]
            .push_back(value);
    }
    if (result.code != 0) {
      fprintf(stderr, "%s%s\n", result.out.c_str(), result.err.c_str());
      throw std::runtime_error(
          absl::StrCat(subject.name, ": ",
                       result.code < 0 ? "has not ended in 20 minutes" : LastLine(result.err)));
    }
  });
}

namespace {

// Until `ctr events` has told the last of them.
double EventsPerSecond(test::Daemon& daemon, const std::string& id, int count) {
  std::unique_ptr<test::Subprocess> follower = daemon.StartCtr({"events"});
  BlockingClient client(daemon.ShimSocket(id));
  auto request = [&](const std::string& exec) {
    test::task::ExecProcessRequest exec_request;
    exec_request.set_id(id);
    exec_request.set_exec_id(exec);
    exec_request.mutable_spec()->set_type_url(
        "types.containerd.io/opencontainers/runtime-spec/1/Process");
    exec_request.mutable_spec()->set_value(R"({"args":["true"],"cwd":"/"})");
    return exec_request.SerializeAsString();
  };
  // Whichever version the shim was asked for; also until ctr follows.
  std::string service;
  bool follows = test::Eventually([&] {
    static int tries = 0;
    for (const char* each : {"containerd.task.v3.Task", "containerd.task.v2.Task"})
      if (client.Call(each, "Exec", request(absl::StrCat("try", ++tries)))) service = each;
    return follower->WaitOutput("\"try", test::Milliseconds(100));
  });
  if (!follows) throw std::runtime_error("ctr events tells nothing");
  std::vector<std::string> requests;
  for (int i = 1; i <= count; ++i) requests.push_back(request(absl::StrCat("x", i)));
  const std::string last = absl::StrCat("\"x", count, "\"");
  Clock::time_point start = Clock::now();
  AddExecs(client, service, requests);
  if (!follower->WaitOutput([&](const std::string& out) {
        return out.find(last, out.size() - std::min<size_t>(out.size(), 4096)) != out.npos;
      }))
    throw std::runtime_error("events are missing");
  return count / Since(start);
}

// How many containers containerd tells as running.
int CountRunning(const test::Daemon& daemon) {
  int running = 0;
  for (absl::string_view line : absl::StrSplit(daemon.Ctr({"task", "list"}).out, '\n'))
    running += absl::EndsWith(absl::StripTrailingAsciiWhitespace(line), " RUNNING") ? 1 : 0;
  return running;
}

void MeasureThrough(test::Daemon& daemon, const Bench& bench) {
  if (!daemon.Start()) throw std::runtime_error("containerd does not start: " + daemon.Log());
  std::vector<std::string> flags = {"--detach", "--null-io"};
  if (!bench.runtime.empty()) flags.insert(flags.end(), {"--runc-binary", bench.runtime});
  int running = 0;
  // Milliseconds for each.
  auto run = [&](int count) {
    Clock::time_point start = Clock::now();
    std::vector<std::unique_ptr<test::Subprocess>> runs;
    for (int i = 0; i < count; ++i)
      runs.push_back(
          daemon.StartCtr(daemon.Run(absl::StrCat("c", running++), flags, {"sleep", "10000"})));
    for (auto& each : runs)
      if (each->Wait().value_or(-1) != 0) throw std::runtime_error("ctr run: " + each->err());
    return Since(start) * 1e3 / count;
  };
  auto tell = [](const std::string& name, const char* unit, const char* goal, double value) {
    printf("%s|%s|%s|%f\n", name.c_str(), unit, goal, value);
  };
  // The first one finds a daemon that has not run any.
  run(1);
  const std::string name = absl::StrCat("containers through containerd ", daemon.version(), ", ");
  const std::vector<int>& at_once = bench.counts.parallel;
  double alone = 0;
  for (int count : at_once) {
    const double each = run(count);
    if (count == at_once[0]) alone = each;
    tell(absl::StrCat(name, count, " at once"), "ms each", "faster", each);
  }
  while (running < bench.counts.restart) run(std::min(10, bench.counts.restart - running));
  if (bench.counts.crowd > 0) {
    const std::string crowded = absl::StrCat(name, at_once[0], " at once", BesideShims(running));
    const double each = run(at_once[0]);
    tell(crowded, "ms each", "faster", each);
    tell(crowded + " ÷ none", "", "at most 1", each / alone);
  }
  const std::string restarted =
      absl::StrCat("containerd restarted with ", running, " shims, until it ");
  daemon.Kill();
  Clock::time_point start = Clock::now();
  if (!daemon.Restart()) throw std::runtime_error("containerd does not come back: " + daemon.Log());
  tell(restarted + "answers", "ms", "at most 1/2", Since(start) * 1e3);
  int told = 0;
  if (!test::Eventually([&] { return (told = CountRunning(daemon)) == running; }))
    throw std::runtime_error(
        absl::StrCat(told, " of ", running, " containers run after containerd's restart"));
  tell(restarted + "tells all containers as running", "ms", "at most 1/2", Since(start) * 1e3);
  tell(absl::StrCat("Exec requests, each with an event that `ctr events` of containerd ",
                    daemon.version(), " tells"),
       "1/s", "at least 1.0", EventsPerSecond(daemon, "c0", bench.counts.events));
}

}  // namespace

int DaemonPart(const Bench& bench) {
  try {
    test::Daemon daemon(NewestDaemon());
    MeasureThrough(daemon, bench);
    return 0;
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace feather::bench
