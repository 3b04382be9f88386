// What is asked of shims: starting, containers, execs, State and Stats, the transport, events.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/bench/bench.h"
#include "tests/bench/rpc.h"
#include "tests/bench/threads.h"

namespace feather::bench {
namespace {

using test::Container;
using test::ContainerOptions;

std::vector<double>& Values(Bench& bench, Column column, const std::string& name,
                            const std::string& unit, const std::string& goal = "",
                            bool more = false) {
  return bench.report.Get(name, unit, goal, more).values[static_cast<int>(column)];
}

ContainerOptions Silent() {
  ContainerOptions options;
  options.out = options.err = false;
  return options;
}

}  // namespace

void MeasureStart(Bench& bench) {
  bench.ForEach(bench.counts.starts, [&](const Subject& subject, int) {
    World ctrd(bench.Settings(subject));
    Container& c = ctrd.Prepare("c");
    test::HelperCommand command = ctrd.Helper(c, "start");
    Clock::time_point launched = Clock::now();
    test::HelperResult result = test::RunHelper(command);
    double started = Since(launched);
    if (result.exit_code != 0) throw std::runtime_error("start: " + result.out);
    BlockingClient client(AddressIn(result.out));
    std::string service = result.out.find("\"version\":3") != result.out.npos
                              ? "containerd.task.v3.Task"
                              : "containerd.task.v2.Task";
    client.Call(service, "Connect", "");
    double answered = Since(launched);
    Values(bench, subject.column, "`start` command", "ms", "at most 1/4").push_back(started * 1e3);
    Values(bench, subject.column, "from the launch of `start` to the first answer", "ms",
           "at most 1/4")
        .push_back(answered * 1e3);
    test::task::ShutdownRequest shutdown;
    shutdown.set_id("c");
    try {
      client.Call(service, "Shutdown", shutdown.SerializeAsString());
    } catch (const std::exception&) {
      // It may be gone before its answer has been written.
    }
    ctrd.loop().RunUntil([&] {
      ctrd.Reap();
      return test::Children().empty();
    });
  });
}

namespace {

// Seconds.
struct Lifecycle {
  double create, start, remove;
  double Sum() const { return create + start + remove; }
};

// The OCI runtime moves a process into a cgroup, for which the kernel waits for all its readers
// (percpu_rw_semaphore), which is to wait for an RCU grace period: from 10 to 30 ms, many times
// what a shim adds. While this lives, grace periods are hurried (expedited), where the kernel lets
// them be; tests/bench/run puts that back when the benchmark is interrupted.
class HurriedGracePeriods {
 public:
  HurriedGracePeriods() : before_(ReadFile(kPath).value_or("")) {
    if (!before_.empty()) Write("1");
  }
  ~HurriedGracePeriods() {
    if (!before_.empty()) Write(before_);
  }
  HurriedGracePeriods(const HurriedGracePeriods&) = delete;
  HurriedGracePeriods& operator=(const HurriedGracePeriods&) = delete;

 private:
  static constexpr char kPath[] = "/sys/kernel/rcu_expedited";
  static void Write(const std::string& value) { WriteFile(kPath, value, 0644).IgnoreError(); }

  const std::string before_;
};

// Who comes soon after somebody else is spared that wait, and a shim that has just begun is not
// ready yet, which other figures tell. Bare commands and shims are to find it the same.
void LetCgroupsRest() { usleep(50'000); }

Lifecycle ThroughShim(World& ctrd, const ContainerOptions& options) {
  Container& c = ctrd.New("c", options);
  auto request = c.CreateRequest();
  Lifecycle took;
  LetCgroupsRest();
  Clock::time_point begun = Clock::now();
  Check(c.Create(request).status(), "Create");
  took.create = Since(begun);
  begun = Clock::now();
  Check(c.Start().status(), "Start");
  took.start = Since(begun);
  auto wait = c.WaitAsync();
  Check(c.Kill(SIGKILL), "Kill");
  Check(wait.Get().status(), "Wait");
  begun = Clock::now();
  Check(c.Delete().status(), "Delete");
  took.remove = Since(begun);
  Check(c.Shutdown(), "Shutdown");
  return took;
}

Lifecycle Bare(const Bench& bench, World& ctrd, const ContainerOptions& options) {
  Container& c = ctrd.Prepare("bare", options);
  const std::string pid_file = c.bundle() + "/pid";
  Lifecycle took;
  LetCgroupsRest();
  Clock::time_point begun = Clock::now();
  bench.RunBare(ctrd, {"create", "--bundle", c.bundle(), "--pid-file", pid_file, "bare"});
  took.create = Since(begun);
  begun = Clock::now();
  bench.RunBare(ctrd, {"start", "bare"});
  took.start = Since(begun);
  pid_t pid = atoi(ReadFile(pid_file).value_or("0").c_str());
  bench.RunBare(ctrd, {"kill", "bare", "KILL"});
  ctrd.loop().RunUntil([&] { return ctrd.ExitOf(pid).has_value(); });
  begun = Clock::now();
  bench.RunBare(ctrd, {"delete", "bare"});
  took.remove = Since(begun);
  return took;
}

}  // namespace

// A runtime's command takes from 5 to 30 ms, by what the machine just does: what a shim adds shows
// only in the difference to the bare commands right before or after, and in many of them.
void MeasureLifecycle(Bench& bench) {
  const HurriedGracePeriods hurried;
  constexpr char kUnit[] = "ms";
  auto add = [&](Column column, const Lifecycle& took) {
    Values(bench, column, "Create", kUnit).push_back(took.create * 1e3);
    Values(bench, column, "Start", kUnit).push_back(took.start * 1e3);
    Values(bench, column, "Delete", kUnit).push_back(took.remove * 1e3);
    Values(bench, column, "Create + Start + Delete", kUnit).push_back(took.Sum() * 1e3);
  };
  bench.ForEach(3 * bench.counts.starts, [&](const Subject& subject, int round) {
    World ctrd(bench.Settings(subject));
    ContainerOptions options = Silent();
    options.mount_rootfs = false;
    Lifecycle bare{}, shim{};
    if (round % 2 == 1) bare = Bare(bench, ctrd, options);
    shim = ThroughShim(ctrd, options);
    if (round % 2 == 0) bare = Bare(bench, ctrd, options);
    add(subject.column, shim);
    add(Column::kBare, bare);
    Values(bench, subject.column, "what a shim adds to Create + Start + Delete", kUnit,
           "at most 1.5")
        .push_back((shim.Sum() - bare.Sum()) * 1e3);
  });
}

void MeasureExec(Bench& bench) {
  int count = bench.counts.execs;
  std::vector<double> all[kColumns];
  bench.ForEach(bench.counts.rounds, [&](const Subject& subject, int) {
    World ctrd(bench.Settings(subject));
    ContainerOptions options = Silent();
    options.mount_rootfs = false;
    Container& c = ctrd.New("c", options);
    Check(c.Run(), "run");
    auto add = [&](Column column, std::vector<double> times, double cpu) {
      Values(bench, column, "exec of /bin/true", "ms", "bare + 1").push_back(Median(times));
      Values(bench, column, "CPU time of an exec, with the runtime's", "ms", "bare + 3 %")
          .push_back(cpu * 1e3 / count);
      auto& sum = all[static_cast<int>(column)];
      sum.insert(sum.end(), times.begin(), times.end());
    };
    std::vector<double> times;
    double cpu = CpuWithChildren(c.shim_pid());
    double own = OwnCpu(c.shim_pid());
    for (int i = 0; i < count; ++i) {
      std::string id = absl::StrCat("x", i);
      auto request = c.ExecRequest(id, {"true"}, Silent());
      Clock::time_point start = Clock::now();
      Check(c.Exec(request), "Exec");
      Check(c.Start(id).status(), "Start");
      Check(c.Wait(id).status(), "Wait");
      Check(c.Delete(id).status(), "Delete");
      times.push_back(Since(start) * 1e3);
    }
    Values(bench, subject.column, "CPU time of an exec, the shim's own", "ms", "")
        .push_back((OwnCpu(c.shim_pid()) - own) * 1e3 / count);
    add(subject.column, times, CpuWithChildren(c.shim_pid()) - cpu);
    if (subject.column != Column::kFirst) return;

    Container& bare = ctrd.Prepare("bare", options);
    bench.RunBare(ctrd, {"create", "--bundle", bare.bundle(), "bare"});
    bench.RunBare(ctrd, {"start", "bare"});
    const std::string pid_file = bare.bundle() + "/pid";
    times.clear();
    double before = ChildrenCpu();
    for (int i = 0; i < count; ++i) {
      // As shims do it: the command ends once the process runs, whose end is awaited then.
      Clock::time_point start = Clock::now();
      bench.RunBare(ctrd, {"exec", "--detach", "--pid-file", pid_file, "bare", "true"});
      bench.AwaitBare(atoi(ReadFile(pid_file).value_or("0").c_str()));
      times.push_back(Since(start) * 1e3);
    }
    add(Column::kBare, times, ChildrenCpu() - before);
    // As people do it: the command hands on signals and output until the process ends.
    times.clear();
    before = ChildrenCpu();
    for (int i = 0; i < count; ++i) {
      Clock::time_point start = Clock::now();
      bench.RunBare(ctrd, {"exec", "bare", "true"});
      times.push_back(Since(start) * 1e3);
    }
    Values(bench, Column::kBare, "exec of /bin/true, not detached", "ms").push_back(Median(times));
    Values(bench, Column::kBare, "CPU time of an exec, not detached", "ms")
        .push_back((ChildrenCpu() - before) * 1e3 / count);
    bench.RunBare(ctrd, {"delete", "--force", "bare"});
  });
  for (int column = 0; column < kColumns; ++column)
    for (int i = 0; i <= 50 && !all[column].empty(); ++i)
      bench.report.AddPoint("How long an exec takes", "ms", "part that took no longer",
                            static_cast<Column>(column), Quantile(all[column], i / 50.0), i / 50.0);
}

void MeasureCalls(Bench& bench) {
  std::vector<double> all[kColumns];
  bench.ForEach(bench.counts.rounds, [&](const Subject& subject, int) {
    World ctrd(bench.Settings(subject));
    Container& c = ctrd.New("c", Silent());
    Check(c.Run(), "run");
    RestingKib(ctrd, c.shim_pid());
    BlockingClient client(c.answer().address);
    test::task::StateRequest request;
    request.set_id("c");
    std::string bytes = request.SerializeAsString();
    for (const char* method : {"State", "Stats"}) {
      std::vector<double> times;
      double cpu = OwnCpu(c.shim_pid());
      for (int i = 0; i < bench.counts.calls; ++i) {
        Clock::time_point start = Clock::now();
        if (!client.Call(c.service(), method, bytes)) throw std::runtime_error(method);
        times.push_back(Since(start) * 1e6);
      }
      cpu = OwnCpu(c.shim_pid()) - cpu;
      Values(bench, subject.column, absl::StrCat(method, ", CPU time"), "µs", "at most 1/4")
          .push_back(cpu * 1e6 / bench.counts.calls);
      Values(bench, subject.column, absl::StrCat(method, ", latency"), "µs", "at most 1/2")
          .push_back(Median(times));
      Values(bench, subject.column, absl::StrCat(method, ", p99"), "µs")
          .push_back(Quantile(times, 0.99));
      if (std::string(method) == "State")
        all[static_cast<int>(subject.column)].insert(all[static_cast<int>(subject.column)].end(),
                                                     times.begin(), times.end());
    }
    // A method that there is not: the transport alone.
    int count = bench.counts.round_trips;
    Clock::time_point start = Clock::now();
    for (int i = 0; i < count; ++i) client.Call("bench.None", "Nothing", "");
    Values(bench, subject.column, "refused calls, one after another", "1/s", "", true)
        .push_back(count / Since(start));
    constexpr int kInFlight = 32;
    start = Clock::now();
    for (int i = 0; i < count; i += kInFlight) {
      for (int j = 0; j < kInFlight; ++j) client.Send("bench.None", "Nothing", "");
      for (int j = 0; j < kInFlight; ++j) client.Receive();
    }
    Values(bench, subject.column, "refused calls, 32 in flight", "1/s", "", true)
        .push_back((count + kInFlight - 1) / kInFlight * kInFlight / Since(start));
  });
  for (const Subject& subject : bench.subjects)
    for (int i = 0; i <= 100; ++i)
      bench.report.AddPoint("How long State takes", "µs", "part that took no longer",
                            subject.column,
                            Quantile(all[static_cast<int>(subject.column)], i / 100.0), i / 100.0);
}

void MeasureHang(Bench& bench) {
  bench.ForEach(std::min(bench.counts.rounds, 2), [&](const Subject& subject, int) {
    test::TestDirectory directory;
    std::string slow = directory.path() + "/runc-slow";
    Check(WriteFile(slow,
                    absl::StrCat("#!/bin/sh\ncase \" $* \" in *\" create \"*\" slow \"*) sleep ",
                                 bench.counts.hang_seconds, ";; esac\nexec ",
                                 bench.runtime.empty() ? "runc" : bench.runtime, " \"$@\"\n"),
                    0755),
          "script");
    test::Settings settings = bench.Settings(subject);
    settings.runtime = slow;
    World ctrd(settings);
    ContainerOptions options = Silent();
    options.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
    Container& c = ctrd.New("c", options);
    Check(c.Run(), "run");
    Container& hanging = ctrd.New("slow", options);
    BlockingClient client(c.answer().address);
    test::task::StateRequest request;
    request.set_id("c");
    std::string bytes = request.SerializeAsString();
    auto pending = hanging.Send<test::task::CreateTaskResponse>("Create", hanging.CreateRequest());
    ctrd.loop().RunFor(std::chrono::milliseconds(100));
    std::vector<double> times;
    Clock::time_point begin = Clock::now();
    while (Since(begin) < bench.counts.hang_seconds - 0.5) {
      Clock::time_point start = Clock::now();
      client.Call(c.service(), "State", bytes);
      times.push_back(Since(start) * 1e3);
      usleep(1000);
    }
    Check(pending.Get().status(), "Create");
    Values(bench, subject.column,
           absl::StrCat("State p99 while the runtime's create hangs for ",
                        bench.counts.hang_seconds, " s"),
           "ms", "under 1")
        .push_back(Quantile(times, 0.99));
  });
}

// An exec that is only added is an event and nothing else.
void MeasureEvents(Bench& bench) {
  bench.ForEach(bench.counts.rounds, [&](const Subject& subject, int) {
    auto wanted = static_cast<size_t>(bench.counts.events);
    test::TestDirectory directory;
    std::string address = directory.path() + "/events";
    test::Settings settings = bench.Settings(subject);
    settings.env.push_back("TTRPC_ADDRESS=" + address);
    // Create's and Start's come first.
    EventStub stub(address, wanted + 2);
    World ctrd(settings);
    Container& c = ctrd.New("c", Silent());
    Check(c.Run(), "run");
    BlockingClient client(c.answer().address);
    std::vector<std::string> requests;
    for (size_t i = 0; i < wanted; ++i)
      requests.push_back(
          c.ExecRequest(absl::StrCat("x", i), {"true"}, Silent()).SerializeAsString());
    double cpu = OwnCpu(c.shim_pid());
    Clock::time_point start = Clock::now();
    AddExecs(client, c.service(), requests);
    stub.Wait();
    Values(bench, subject.column, "Exec requests, each with an event to a stub of containerd",
           "1/s", "at least 2 times", true)
        .push_back(static_cast<double>(wanted) / Since(start));
    Values(bench, subject.column, "CPU time of an Exec request with its event", "µs")
        .push_back((OwnCpu(c.shim_pid()) - cpu) * 1e6 / static_cast<double>(wanted));
  });
}

}  // namespace feather::bench
