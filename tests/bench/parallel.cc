// Many containers at once, by shims that are driven directly.

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "tests/bench/bench.h"

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

// Milliseconds of one of them.
struct Each {
  double wall, cpu, start_cpu;
};

void AddAtOnce(Bench& bench, Column column, int count, const std::string& beside,
               const Each& each) {
  const std::string cpu = absl::StrCat("CPU time of one of ", count, " at once");
  Add(bench, column, absl::StrCat(count, " containers at once, Create and Start", beside),
      "ms each", "", each.wall);
  Add(bench, column, cpu + ", Create and Start" + beside, "ms", "bare + 4", each.cpu);
  Add(bench, column, cpu + ", with `start`" + beside, "ms", "bare + 4", each.cpu + each.start_cpu);
}

Each ThroughShims(World& ctrd, int count) {
  std::vector<Container*> containers;
  for (int i = 0; i < count; ++i)
    containers.push_back(&ctrd.Prepare(absl::StrCat("c", i), Silent()));
  Each each{};
  // One after another, for the CPU time alone: the shims' until now, and that of the commands.
  double cpu = ChildrenCpu();
  for (Container* c : containers) {
    Check(c->StartShim(), "start");
    each.start_cpu += OwnCpu(c->shim_pid()) * 1e3 / count;
  }
  each.start_cpu += (ChildrenCpu() - cpu) * 1e3 / count;
  cpu = CpuOfTheMachine();
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
  for (auto& pending : starts) Check(pending.Get().status(), "Start");
  each.wall = Since(start) * 1e3 / count;
  each.cpu = (CpuOfTheMachine() - cpu) * 1e3 / count;
  return each;
}

Each Bare(const Bench& bench, World& ctrd, int count) {
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
  for (pid_t pid : starts) bench.AwaitBare(pid);
  return {.wall = Since(start) * 1e3 / count,
          .cpu = (CpuOfTheMachine() - cpu) * 1e3 / count,
          .start_cpu = 0};
}

// Beside so many idle shims with a container each; also by bare commands, with the first subject.
// Milliseconds for each, by columns.
std::map<Column, double> AtOnce(Bench& bench, const Subject& subject, int round, int count,
                                int crowd) {
  World ctrd(bench.Settings(subject));
  for (int i = 0; i < crowd; ++i) Check(ctrd.New(absl::StrCat("crowd", i), Silent()).Run(), "run");
  std::map<Column, double> all;
  auto measure = [&](Column column) {
    const Each each =
        column == Column::kBare ? Bare(bench, ctrd, count) : ThroughShims(ctrd, count);
    AddAtOnce(bench, column, count, crowd > 0 ? BesideShims(crowd) : "", each);
    all[column] = each.wall;
  };
  // Those that come second find the others' containers.
  const bool both = subject.column == Column::kFirst;
  if (both && round % 2 == 1) measure(Column::kBare);
  measure(subject.column);
  if (both && round % 2 == 0) measure(Column::kBare);
  return all;
}

}  // namespace

void MeasureParallel(Bench& bench) {
  const std::vector<int>& counts = bench.counts.parallel;
  const int crowd = bench.counts.crowd;
  for (int count : counts) {
    bench.ForEach(std::min(bench.counts.rounds, 3), [&](const Subject& subject, int round) {
      const std::map<Column, double> alone = AtOnce(bench, subject, round, count, 0);
      if (crowd == 0 || count != counts[0]) return;
      for (auto [column, ms] : AtOnce(bench, subject, round, count, crowd))
        Add(bench, column,
            absl::StrCat(count, " containers at once", BesideShims(crowd), " ÷ none"), "",
            "at most 1", ms / alone.at(column));
    });
  }
}

}  // namespace feather::bench
