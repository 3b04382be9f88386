// How fast output goes through a shim, and what it costs there.

#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/bench/bench.h"
#include "tests/bench/threads.h"

namespace feather::bench {
namespace {

using test::Container;
using test::ContainerOptions;

struct Kind {
  const char* name;
  int block;  // bytes that the container writes at once
  int megabytes;
  bool terminal;
  const char* speed_goal;
  const char* cpu_goal;
};

void Measure(Bench& bench, const Subject& subject, const Kind& kind) {
  World ctrd(bench.Settings(subject));
  ContainerOptions options;
  options.spec.terminal = kind.terminal;
  int64_t bytes = int64_t{kind.megabytes} << 20;
  int64_t blocks = bytes / kind.block;
  options.spec.args = {"dd", "if=/dev/zero", absl::StrCat("bs=", kind.block),
                       absl::StrCat("count=", blocks), "status=none"};
  Container& c = ctrd.New("c", options);
  auto request = c.CreateRequest();
  c.stdio().out->Close();
  Drain drain(c.stdio().out->path(), static_cast<size_t>(blocks * kind.block));
  Check(c.Create(request).status(), "Create");
  double cpu = OwnCpu(c.shim_pid());
  Clock::time_point start = Clock::now();
  Check(c.Start().status(), "Start");
  drain.Wait();
  double seconds = Since(start);
  cpu = OwnCpu(c.shim_pid()) - cpu;
  int column = static_cast<int>(subject.column);
  bench.report.Get(absl::StrCat(kind.name, ", throughput"), "MiB/s", kind.speed_goal, true)
      .values[column]
      .push_back(kind.megabytes / seconds);
  bench.report.Get(absl::StrCat(kind.name, ", CPU time in the shim"), "ms per GiB", kind.cpu_goal)
      .values[column]
      .push_back(cpu * 1e3 * 1024 / kind.megabytes);
}

void MeasureLogger(Bench& bench, const Subject& subject) {
  World ctrd(bench.Settings(subject));
  std::string logger = ctrd.directory() + "/logger";
  Check(WriteFile(logger, "#!/bin/sh\nexec 5>&-\nexec cat <&3 >/dev/null\n", 0755), "logger");
  ContainerOptions options;
  options.out = options.err = false;
  int megabytes = bench.counts.megabytes;
  options.spec.args = {"dd", "if=/dev/zero", "bs=65536", absl::StrCat("count=", megabytes * 16),
                       "status=none"};
  Container& c = ctrd.New("c", options);
  auto request = c.CreateRequest();
  request.set_stdout(absl::StrCat("binary://", logger));
  request.set_stderr(request.stdout());
  Check(c.Create(request).status(), "Create");
  double cpu = OwnCpu(c.shim_pid());
  Clock::time_point start = Clock::now();
  Check(c.Start().status(), "Start");
  // It has written all of it, or failed; what the program has not read then fits into a pipe.
  uint32_t status = Check(c.Wait(), "Wait").exit_status();
  if (status != 0) throw std::runtime_error(absl::StrCat("dd ended with ", status));
  int column = static_cast<int>(subject.column);
  bench.report.Get("output to a logging program, throughput", "MiB/s", "at least 1.0 times", true)
      .values[column]
      .push_back(megabytes / Since(start));
  bench.report.Get("output to a logging program, CPU time in the shim", "ms per GiB", "less")
      .values[column]
      .push_back((OwnCpu(c.shim_pid()) - cpu) * 1e3 * 1024 / megabytes);
}

}  // namespace

void MeasureStreams(Bench& bench) {
  int megabytes = bench.counts.megabytes;
  const Kind kinds[] = {
      {"output in blocks of 64 KiB", 65536, megabytes, false, "at least 1.2 times", "at most 1/3"},
      {"output in lines of 100 bytes", 100, bench.counts.line_megabytes, false, "no worse",
       "no worse"},
      {"output of a terminal", 4096, bench.counts.TerminalMegabytes(), true, "at least 1.0 times",
       "less"},
  };
  bench.ForEach(bench.counts.rounds, [&](const Subject& subject, int) {
    for (const Kind& kind : kinds) Measure(bench, subject, kind);
  });
  // Both shims hand the pipe over, so that it is between two programs which processor each of them
  // gets: it takes more than a few rounds to show that there is no difference.
  bench.ForEach(3 * bench.counts.rounds,
                [&](const Subject& subject, int) { MeasureLogger(bench, subject); });
}

}  // namespace feather::bench
