// What shims hold: memory, threads, descriptors, and how often they wake up.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/bench/bench.h"
#include "tests/bench/threads.h"
#include "tests/support/proc.h"
#include "tests/support/subprocess.h"

namespace feather::bench {
namespace {

using test::Container;
using test::ContainerOptions;

ContainerOptions Grouped(std::vector<std::string> args, bool in = false) {
  ContainerOptions options;
  options.in = in;
  options.spec.args = std::move(args);
  options.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
  return options;
}

size_t Descriptors(pid_t pid) {
  return test::ListDirectory(absl::StrCat("/proc/", pid, "/fd")).size();
}

void RunExecs(Container& c, int count) {
  ContainerOptions streams;
  streams.out = streams.err = false;
  for (int i = 0; i < count; ++i) {
    std::string id = absl::StrCat("burst", i);
    Check(c.Exec(id, {"true"}, streams), "Exec");
    Check(c.Start(id).status(), "Start");
    Check(c.Wait(id).status(), "Wait");
    Check(c.Delete(id).status(), "Delete");
  }
}

void OneIdle(Bench& bench, const Subject& subject) {
  World ctrd(bench.Settings(subject));
  Container& c = ctrd.New("c0", Grouped({"sleep", "1000"}));
  Check(c.Run(), "run");
  auto add = [&](const char* name, const char* unit, const char* goal, double value) {
    bench.report.Get(name, unit, goal).values[static_cast<int>(subject.column)].push_back(value);
  };
  pid_t pid = c.shim_pid();
  add("private dirty memory, one idle container", "KiB", "at most 200, and 1/15",
      RestingKib(ctrd, pid));
  add("threads", "", "1",
      static_cast<double>(test::ListDirectory(absl::StrCat("/proc/", pid, "/task")).size()));
  add("descriptors, 1 container without stdin", "", "at most 21",
      static_cast<double>(Descriptors(pid)));
  double before = Sleeps(pid);
  double cpu = OwnCpu(pid);
  ctrd.loop().RunFor(std::chrono::seconds(bench.counts.idle_seconds));
  add("wake-ups while idle", absl::StrCat("in ", bench.counts.idle_seconds, " s").c_str(), "0",
      Sleeps(pid) - before);
  add("CPU time while idle", absl::StrCat("µs in ", bench.counts.idle_seconds, " s").c_str(), "",
      (OwnCpu(pid) - cpu) * 1e6);
  RunExecs(c, bench.counts.burst_execs);
  add(absl::StrCat("private dirty after ", bench.counts.burst_execs, " execs").c_str(), "KiB",
      "no growth", RestingKib(ctrd, pid));
  for (int i = 1; i < 10; ++i)
    Check(ctrd.New(absl::StrCat("c", i), Grouped({"sleep", "1000"})).Run(), "run");
  add("descriptors, 10 containers without stdin", "", "at most 102",
      static_cast<double>(Descriptors(pid)));
  add("private dirty memory, 10 idle containers in one shim", "KiB", "", RestingKib(ctrd, pid));
}

void WithStdin(Bench& bench, const Subject& subject) {
  World ctrd(bench.Settings(subject));
  Container& first = ctrd.New("c0", Grouped({"sleep", "1000"}, /*in=*/true));
  Check(first.Run(), "run");
  auto add = [&](const char* name, const char* goal) {
    bench.report.Get(name, "", goal)
        .values[static_cast<int>(subject.column)]
        .push_back(static_cast<double>(Descriptors(first.shim_pid())));
  };
  add("descriptors, 1 container with stdin", "at most 24");
  for (int i = 1; i < 10; ++i)
    Check(ctrd.New(absl::StrCat("c", i), Grouped({"sleep", "1000"}, /*in=*/true)).Run(), "run");
  add("descriptors, 10 containers with stdin", "at most 132");
}

void AfterALog(Bench& bench, const Subject& subject) {
  World ctrd(bench.Settings(subject));
  ContainerOptions options;
  options.spec.args = {
      "sh", "-c",
      absl::StrCat("dd if=/dev/zero bs=64k count=", bench.counts.megabytes * 16, "; sleep 1000")};
  Container& c = ctrd.New("c", options);
  auto request = c.CreateRequest();
  c.stdio().out->Close();
  Drain drain(c.stdio().out->path(), static_cast<size_t>(bench.counts.megabytes) << 20);
  Check(c.Create(request).status(), "Create");
  Check(c.Start().status(), "Start");
  drain.Wait();
  bench.report
      .Get(absl::StrCat("private dirty after a log of ", bench.counts.megabytes, " MiB"), "KiB",
           "no growth")
      .values[static_cast<int>(subject.column)]
      .push_back(RestingKib(ctrd, c.shim_pid()));
}

// What the kernel charges to the memory cgroup (version 1) in which the shim was started, without
// the files that its children have read. Nothing where there is none.
void Charged(Bench& bench, const Subject& subject) {
  const std::string root = "/sys/fs/cgroup/memory";
  std::string group = absl::StrCat(root, "/feather-bench-", getpid());
  if (access((root + "/cgroup.procs").c_str(), W_OK) != 0 || mkdir(group.c_str(), 0755) != 0)
    return;
  std::string own = "/";
  std::string cgroups = ReadFile("/proc/self/cgroup").value_or("");
  if (size_t at = cgroups.find(":memory:"); at != cgroups.npos)
    own = cgroups.substr(at + 8, cgroups.find('\n', at) - at - 8);
  {
    World ctrd(bench.Settings(subject));
    Container& c = ctrd.Prepare("c");
    (void)WriteFile(group + "/cgroup.procs", absl::StrCat(getpid()), 0).ok();
    absl::Status started = c.StartShim();
    (void)WriteFile(absl::StrCat(root, own, "/cgroup.procs"), absl::StrCat(getpid()), 0).ok();
    Check(started, "start");
    Check(c.Run(), "run");
    RestingKib(ctrd, c.shim_pid());
    (void)WriteFile(group + "/memory.force_empty", "0", 0).ok();
    double usage =
        strtod(ReadFile(group + "/memory.usage_in_bytes").value_or("0").c_str(), nullptr);
    bench.report.Get("memory that the kernel charges for an idle shim", "KiB", "at most 1/8")
        .values[static_cast<int>(subject.column)]
        .push_back(usage / 1024);
  }
  rmdir(group.c_str());
}

}  // namespace

void MeasureMemory(Bench& bench) {
  bench.ForEach(std::min(bench.counts.rounds, 3), [&](const Subject& subject, int) {
    OneIdle(bench, subject);
    WithStdin(bench, subject);
    AfterALog(bench, subject);
    Charged(bench, subject);
  });
  test::TestDirectory directory;
  for (const Subject& subject : bench.subjects) {
    std::string stripped = directory.path() + "/shim";
    if (test::RunCommand({.argv = {"strip", "-o", stripped, subject.shim}}).code != 0) continue;
    struct stat file {};
    stat(stripped.c_str(), &file);
    bench.report.Get("size of the program, stripped", "KiB", "at most 1/3")
        .values[static_cast<int>(subject.column)]
        .push_back(static_cast<double>(file.st_size) / 1024);
  }
}

// PSS of so many shims with one container each, all at the same time.
void MeasureManyShims(Bench& bench) {
  int most = bench.counts.shims.back();
  for (const Subject& subject : bench.subjects) {
    World ctrd(bench.Settings(subject));
    std::vector<Container*> containers;
    int before = 0;
    double pss_before = 0;
    ContainerOptions options;
    options.out = options.err = false;
    for (int i = 1; i <= most; ++i) {
      Container& c = ctrd.New(absl::StrCat("c", i), options);
      Check(c.Run(), "run");
      containers.push_back(&c);
      if (std::find(bench.counts.shims.begin(), bench.counts.shims.end(), i) ==
          bench.counts.shims.end())
        continue;
      RestingKib(ctrd, c.shim_pid());
      double pss = 0;
      for (Container* each : containers) pss += SmapsKib(each->shim_pid(), "Pss");
      auto add = [&](const std::string& name, const char* goal, double value) {
        bench.report.Get(name, "KiB", goal)
            .values[static_cast<int>(subject.column)]
            .push_back(value);
      };
      // Of few, the program's text, which they share, is the greatest part.
      add(absl::StrCat("PSS per shim, ", i, " at the same time"), i >= 20 ? "at most 1/12" : "",
          pss / i);
      if (before > 0)
        add(absl::StrCat("PSS of each further shim, from ", before, " to ", i), "constant",
            (pss - pss_before) / (i - before));
      before = i;
      pss_before = pss;
      bench.report.AddPoint("Memory of a shim", "shims at the same time, each with one container",
                            "PSS per shim, KiB", subject.column, i, pss / i, Scale::kLogOfFew);
    }
  }
}

}  // namespace feather::bench
