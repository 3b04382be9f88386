// Many containers at once: shims driven directly, and through containerd.

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <stdexcept>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "tests/bench/bench.h"
#include "tests/bench/rpc.h"
#include "tests/support/daemon.h"
#include "tests/support/subprocess.h"

namespace feather::bench {
namespace {

using test::Container;
using test::ContainerOptions;

ContainerOptions Silent() {
  ContainerOptions options;
  options.out = options.err = false;
  return options;
}

void Add(Bench& bench, Column column, const std::string& name, const char* unit, const char* goal,
         double value) {
  bench.report.Get(name, unit, goal).values[static_cast<int>(column)].push_back(value);
}

// Seconds that this machine's processors have worked, all processes together. A shim's
// /proc/PID/stat has the time of its children in ticks of 10 ms, and these live for a few.
double CpuOfTheMachine() {
  std::string stat = ReadFile("/proc/stat").value_or("");
  std::vector<std::string> fields =
      absl::StrSplit(stat.substr(0, stat.find('\n')), ' ', absl::SkipEmpty());
  double ticks = 0;
  // cpu user nice system idle iowait irq softirq …
  for (size_t i : {1, 2, 3, 6, 7})
    if (i < fields.size()) ticks += strtod(fields[i].c_str(), nullptr);
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void AddAtOnce(Bench& bench, Column column, int count, const std::string& with,
               Clock::time_point start, double cpu_at_start) {
  double cpu = CpuOfTheMachine() - cpu_at_start;
  Add(bench, column, absl::StrCat(count, " containers created and started at once", with),
      "ms each", "", Since(start) * 1e3 / count);
  Add(bench, column, absl::StrCat("CPU time of one of ", count, " at once", with), "ms", "bare + 4",
      cpu * 1e3 / count);
}

void StartAtOnce(Bench& bench, const Subject& subject, int count, int crowd) {
  World ctrd(bench.Settings(subject));
  for (int i = 0; i < crowd; ++i) Check(ctrd.New(absl::StrCat("crowd", i), Silent()).Run(), "run");
  std::vector<Container*> containers;
  for (int i = 0; i < count; ++i) containers.push_back(&ctrd.New(absl::StrCat("c", i), Silent()));
  double cpu = CpuOfTheMachine();
  Clock::time_point start = Clock::now();
  std::vector<test::Pending<test::task::CreateTaskResponse>> creates;
  for (Container* c : containers)
    creates.push_back(c->Send<test::task::CreateTaskResponse>("Create", c->CreateRequest()));
  std::vector<test::Pending<test::task::StartResponse>> starts;
  for (size_t i = 0; i < containers.size(); ++i) {
    Check(creates[i].Get().status(), "Create");
    test::task::StartRequest request;
    request.set_id(containers[i]->id());
    starts.push_back(containers[i]->Send<test::task::StartResponse>("Start", request));
  }
  for (auto& each : starts) Check(each.Get().status(), "Start");
  AddAtOnce(bench, subject.column, count,
            crowd > 0 ? absl::StrCat(", ", crowd, " shims running") : "", start, cpu);
}

void StartBare(Bench& bench, int count) {
  World ctrd(bench.Settings(bench.subjects[0]));
  ContainerOptions options = Silent();
  options.mount_rootfs = false;
  std::vector<Container*> containers;
  for (int i = 0; i < count; ++i)
    containers.push_back(&ctrd.Prepare(absl::StrCat("bare", i), options));
  double cpu = CpuOfTheMachine();
  Clock::time_point start = Clock::now();
  // As many at once as the shims run: what they cost each other is not the shims' doing.
  std::vector<pid_t> creates;
  for (Container* c : containers)
    creates.push_back(bench.StartBare(ctrd, {"create", "--bundle", c->bundle(), c->id()}));
  std::vector<pid_t> starts;
  for (size_t i = 0; i < containers.size(); ++i) {
    bench.AwaitBare(creates[i]);
    starts.push_back(bench.StartBare(ctrd, {"start", containers[i]->id()}));
  }
  for (pid_t each : starts) bench.AwaitBare(each);
  AddAtOnce(bench, Column::kBare, count, "", start, cpu);
}

}  // namespace

void MeasureParallel(Bench& bench) {
  for (int count : bench.counts.parallel) {
    bench.ForEach(std::min(bench.counts.rounds, 3), [&](const Subject& subject, int) {
      StartAtOnce(bench, subject, count, 0);
      if (subject.column == Column::kFirst) StartBare(bench, count);
    });
  }
  if (bench.counts.crowd == 0) return;
  for (const Subject& subject : bench.subjects)
    StartAtOnce(bench, subject, bench.counts.parallel[0], bench.counts.crowd);
}

// A daemon wants a mount namespace, and tells its shim from the environment.
void MeasureDaemon(Bench& bench) {
  if (bench.counts.restart == 0) return;
  for (const Subject& subject : bench.subjects) {
    std::vector<std::string> env;
    for (char** entry = environ; *entry != nullptr; ++entry) env.emplace_back(*entry);
    env.push_back("FEATHER_SHIM=" + subject.shim);
    test::Subprocess::Options options;
    options.argv = {OwnPath(), "--daemon", absl::StrCat(bench.counts.restart),
                    absl::StrCat(bench.counts.events)};
    for (int count : bench.counts.parallel) options.argv.push_back(absl::StrCat(count));
    options.env = env;
    test::CommandResult result = test::RunCommand(options, test::Milliseconds(1'200'000));
    if (result.code != 0) {
      fprintf(stderr, "through containerd: %s%s\n", result.out.c_str(), result.err.c_str());
      continue;
    }
    for (absl::string_view line : absl::StrSplit(result.out, '\n', absl::SkipEmpty())) {
      std::vector<std::string> parts = absl::StrSplit(line, '|');
      double value = 0;
      if (parts.size() == 4 && absl::SimpleAtod(parts[3], &value))
        Add(bench, subject.column, parts[0], parts[1].c_str(), parts[2].c_str(), value);
    }
  }
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

}  // namespace

int DaemonPart(int containers, int events, const std::vector<int>& at_once) {
  std::string suite = "bookworm";
  for (const std::string& each : test::Daemon::Suites())
    if (test::Daemon::Unavailable(each).empty()) suite = each;
  test::Daemon daemon(suite);
  if (!daemon.Start()) {
    fprintf(stderr, "%s\n", daemon.Log().c_str());
    return 1;
  }
  int running = 0;
  // Milliseconds for each.
  auto run = [&](int count) {
    Clock::time_point start = Clock::now();
    std::vector<std::unique_ptr<test::Subprocess>> runs;
    for (int i = 0; i < count; ++i)
      runs.push_back(daemon.StartCtr(
          daemon.Run(absl::StrCat("c", running++), {"--detach", "--null-io"}, {"sleep", "10000"})));
    for (auto& each : runs)
      if (each->Wait().value_or(-1) != 0) throw std::runtime_error(each->err());
    return Since(start) * 1e3 / count;
  };
  const std::string name = absl::StrCat("containers through containerd ", daemon.version(), ", ");
  for (int count : at_once)
    printf("%s%d at once|ms each|faster|%f\n", name.c_str(), count, run(count));
  while (running < containers) run(std::min(10, containers - running));
  if (int crowd = running; crowd >= 200 && !at_once.empty())
    printf("%s%d at once, %d shims running|ms each|no slower|%f\n", name.c_str(), at_once[0], crowd,
           run(at_once[0]));
  daemon.Kill();
  Clock::time_point start = Clock::now();
  if (!daemon.Restart()) return 1;
  printf("containerd restarted with %d shims, until it answers|ms|at most 1/2|%f\n", running,
         Since(start) * 1e3);
  printf("events to containerd %s, told by ctr|1/s|at least 1.0|%f\n", daemon.version().c_str(),
         EventsPerSecond(daemon, "c0", events));
  return 0;
}

}  // namespace feather::bench
