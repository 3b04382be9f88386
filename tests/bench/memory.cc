// What shims hold: memory, threads, descriptors, and how often they wake up.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

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

// In one shim with all others of that group.
ContainerOptions Grouped(const std::string& group, bool in = false) {
  ContainerOptions options;
  options.in = in;
  options.spec.args = {"sleep", "10000"};
  options.spec.patch =
      absl::StrCat(R"({"annotations": {"io.containerd.runc.v2.group": ")", group, "\"}}");
  return options;
}

// Of its directory in /proc.
double CountFiles(pid_t pid, const char* directory) {
  return static_cast<double>(
      test::ListDirectory(absl::StrCat("/proc/", pid, "/", directory)).size());
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

// So many containers in one shim, of which the first is returned.
Container& RunSome(World& ctrd, int count, const std::string& group, bool in) {
  Container& first = ctrd.New(group, Grouped(group, in));
  Check(first.Run(), "run");
  for (int i = 1; i < count; ++i)
    Check(ctrd.New(absl::StrCat(group, i), Grouped(group, in)).Run(), "run");
  return first;
}

// Output of so many MiB, all of it read, by a container that then goes on.
void WriteALog(Container& c, int megabytes) {
  auto request = c.CreateRequest();
  c.stdio().out->Close();
  Drain drain(c.stdio().out->path(), static_cast<size_t>(megabytes) << 20);
  Check(c.Create(request).status(), "Create");
  Check(c.Start().status(), "Start");
  drain.Wait();
}

// A cgroup whose memory the kernel counts, of whichever version. Goes with this object, by when all
// that was in it must have ended.
class MemoryCgroup {
 public:
  MemoryCgroup() {
    const std::string own = ReadFile("/proc/self/cgroup").value_or("");
    version1_ = own.find(":memory:") != own.npos;
    const std::string line = version1_ ? ":memory:" : "0::";
    root_ = version1_ ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup";
    if (size_t at = own.find(line); at != own.npos) {
      at += line.size();
      own_ = absl::StrCat(root_, own.substr(at, own.find('\n', at) - at));
    }
    path_ = absl::StrCat(root_, "/feather-bench-", getpid());
    rmdir(path_.c_str());
    made_ = mkdir(path_.c_str(), 0755) == 0;
  }
  ~MemoryCgroup() {
    if (made_) rmdir(path_.c_str());
  }
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;

  bool counts() const { return made_ && access(File(kUsage).c_str(), R_OK) == 0; }

  // What `start` begins is in it.
  absl::Status Start(Container& c) const {
    Enter(path_);
    absl::Status started = c.StartShim();
    Enter(own_);
    return started;
  }

  // Without files that have been read and what else can be given back.
  double Kib() const {
    if (version1_) {
      (void)WriteFile(File({"memory.force_empty", ""}), "0", 0).ok();
    } else {
      // What is over the limit is given back before write(2) returns.
      (void)WriteFile(File({"", "memory.high"}), "0", 0).ok();
      (void)WriteFile(File({"", "memory.high"}), "max", 0).ok();
    }
    return strtod(ReadFile(File(kUsage)).value_or("0").c_str(), nullptr) / 1024;
  }

 private:
  // Of version 1 and of version 2.
  struct Names {
    const char* v1;
    const char* v2;
  };
  static constexpr Names kUsage = {"memory.usage_in_bytes", "memory.current"};
  std::string File(const Names& names) const {
    return absl::StrCat(path_, "/", version1_ ? names.v1 : names.v2);
  }
  static void Enter(const std::string& cgroup) {
    (void)WriteFile(cgroup + "/cgroup.procs", absl::StrCat(getpid()), 0).ok();
  }

  bool version1_ = false;
  std::string root_, own_, path_;
  bool made_ = false;
};

// Everything is made first and then left alone, for all to be looked at after the same time: in the
// long run, after Go's runtime has given back what it does not need, which the stock shim has it do
// every 30 s.
void LookAtIdleShims(Bench& bench, const Subject& subject) {
  const Counts& counts = bench.counts;
  const MemoryCgroup cgroup;
  World ctrd(bench.Settings(subject));
  Container& idle = RunSome(ctrd, 1, "idle", /*in=*/false);
  Container& ten = RunSome(ctrd, 10, "ten", /*in=*/false);
  Container& one_stdin = RunSome(ctrd, 1, "one-stdin", /*in=*/true);
  Container& ten_stdin = RunSome(ctrd, 10, "ten-stdin", /*in=*/true);
  Container& execs = RunSome(ctrd, 1, "execs", /*in=*/false);
  RunExecs(execs, counts.burst_execs);
  ContainerOptions options;
  options.spec.args = {
      "sh", "-c",
      absl::StrCat("dd if=/dev/zero bs=64k count=", counts.megabytes * 16, "; sleep 10000")};
  Container& log = ctrd.New("log", options);
  WriteALog(log, counts.megabytes);
  Container* charged = nullptr;
  if (cgroup.counts()) {
    charged = &ctrd.Prepare("charged");
    Check(cgroup.Start(*charged), "start");
    Check(charged->Run(), "run");
  } else {
    bench.report.AddMissing("memory that the kernel charges: no memory cgroup can be made here");
  }
  RestingKib(ctrd, log.shim_pid());
  double sleeps = Sleeps(idle.shim_pid());
  double cpu = OwnCpu(idle.shim_pid());
  ctrd.loop().RunFor(std::chrono::seconds(counts.idle_seconds));
  sleeps = Sleeps(idle.shim_pid()) - sleeps;
  cpu = OwnCpu(idle.shim_pid()) - cpu;

  auto add = [&](const std::string& name, const std::string& unit, const char* goal, double value) {
    bench.report.Get(name, unit, goal).values[static_cast<int>(subject.column)].push_back(value);
  };
  auto dirty = [&](const std::string& name, const char* goal, const Container& c) {
    add(name, "KiB", goal, RestingKib(ctrd, c.shim_pid()));
  };
  auto descriptors = [&](const char* with, const char* goal, const Container& c) {
    add(absl::StrCat("descriptors, ", with), "", goal, CountFiles(c.shim_pid(), "fd"));
  };
  const std::string in = absl::StrCat("in ", counts.idle_seconds, " s");
  dirty("private dirty memory, one idle container", "at most 200, and 1/15", idle);
  add("threads", "", "1", CountFiles(idle.shim_pid(), "task"));
  descriptors("1 container without stdin", "at most 21", idle);
  add("wake-ups while idle", in, "0", sleeps);
  add("CPU time while idle", "µs " + in, "", cpu * 1e6);
  dirty(absl::StrCat("private dirty after ", counts.burst_execs, " execs"), "no growth", execs);
  descriptors("10 containers without stdin", "at most 102", ten);
  dirty("private dirty memory, 10 idle containers in one shim", "", ten);
  descriptors("1 container with stdin", "at most 24", one_stdin);
  descriptors("10 containers with stdin", "at most 132", ten_stdin);
  dirty(absl::StrCat("private dirty after a log of ", counts.megabytes, " MiB"), "no growth", log);
  if (charged != nullptr)
    add("memory that the kernel charges for an idle shim", "KiB", "at most 1/8", cgroup.Kib());
}

// Leaves the first ones.
void EndAllBut(World& ctrd, std::vector<pid_t>& shims, size_t count) {
  for (size_t i = count; i < shims.size(); ++i) kill(shims[i], SIGKILL);
  const bool ended = ctrd.loop().RunUntil([&] {
    return std::all_of(shims.begin() + static_cast<ptrdiff_t>(count), shims.end(),
                       [&](pid_t shim) { return ctrd.ExitOf(shim).has_value(); });
  });
  if (!ended) throw std::runtime_error("shims do not end");
  shims.resize(count);
}

}  // namespace

void MeasureMemory(Bench& bench) {
  bench.ForEach(std::min(bench.counts.rounds, 3),
                [&](const Subject& subject, int) { LookAtIdleShims(bench, subject); });
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

// PSS of so many shims with one container each, all at the same time: of the most first, and then
// of ever fewer of them, after they all have been idle for the same time.
void MeasureManyShims(Bench& bench) {
  const std::vector<int>& counts = bench.counts.shims;
  std::vector<std::vector<double>> all[kColumns];
  for (auto& each : all) each.resize(counts.size());
  bench.ForEach(std::min(bench.counts.rounds, 3), [&](const Subject& subject, int) {
    World ctrd(bench.Settings(subject));
    std::vector<pid_t> shims;
    ContainerOptions options;
    options.out = options.err = false;
    for (int i = 1; i <= counts.back(); ++i) {
      Container& c = ctrd.New(absl::StrCat("c", i), options);
      Check(c.Run(), "run");
      shims.push_back(c.shim_pid());
    }
    RestingKib(ctrd, shims.back());
    ctrd.loop().RunFor(std::chrono::seconds(bench.counts.idle_seconds));
    std::vector<double> pss(counts.size());
    for (size_t i = counts.size(); i-- > 0;) {
      EndAllBut(ctrd, shims, static_cast<size_t>(counts[i]));
      for (pid_t shim : shims) pss[i] += SmapsKib(shim, "Pss");
    }
    auto add = [&](const std::string& name, const char* goal, double value) {
      bench.report.Get(name, "KiB", goal).values[static_cast<int>(subject.column)].push_back(value);
    };
    for (size_t i = 0; i < counts.size(); ++i) {
      const int count = counts[i];
      // Of few, the program's text, which they share, is the greatest part.
      add(absl::StrCat("PSS per shim, ", count, " at the same time"),
          count >= 20 ? "at most 1/12" : "", pss[i] / count);
      all[static_cast<int>(subject.column)][i].push_back(pss[i] / count);
      if (i > 0)
        add(absl::StrCat("PSS of each further shim, from ", counts[i - 1], " to ", count),
            "constant", (pss[i] - pss[i - 1]) / (count - counts[i - 1]));
    }
  });
  for (const Subject& subject : bench.subjects)
    for (size_t i = 0; i < counts.size(); ++i)
      bench.report.AddPoint("Memory of a shim", "shims at the same time, each with one container",
                            "PSS per shim, KiB", subject.column, counts[i],
                            Median(all[static_cast<int>(subject.column)][i]), Scale::kLogOfFew);
}

}  // namespace feather::bench
