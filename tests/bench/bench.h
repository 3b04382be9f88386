#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/report.h"
#include "tests/support/shim.h"

namespace feather::bench {

using Seconds = std::chrono::duration<double>;
inline double Since(Clock::time_point start) { return Seconds(Clock::now() - start).count(); }

// How much of everything.
struct Counts {
  const char* option = "";               // that asks for it
  int rounds = 5;                        // of what is quick
  int starts = 15;                       // shims started, by each
  int execs = 30;                        // execs timed, by each and round
  int calls = 1000;                      // State and Stats
  int round_trips = 5000;                // of the transport
  int events = 1000;                     // by each and round
  int idle_seconds = 5;                  // in which wake-ups are counted, before memory is read
  int hang_seconds = 2;                  // of the OCI runtime
  int megabytes = 256;                   // of output
  int line_megabytes = 8;                // of output in short lines
  int burst_execs = 100;                 // before memory is looked at
  std::vector<int> shims = {1, 10, 20};  // at the same time, for memory
  std::vector<int> parallel = {10};      // containers started at once
  int crowd = 0;                         // shims that run meanwhile, the first of these again
  int restart = 20;                      // containers over a restart of containerd

  int TerminalMegabytes() const { return megabytes < 8 ? 1 : megabytes / 8; }
};
Counts TinyCounts();
Counts LongCounts();

// The end of a figure's name: measured beside so many idle shims.
std::string BesideShims(int shims);

struct Subject {
  Column column;
  std::string name;
  std::string shim;
};

// A containerd whose end ends everything that it has started, at once.
class World : public test::FakeContainerd {
 public:
  explicit World(test::Settings settings) : FakeContainerd(std::move(settings)) {}
  ~World();
};

struct Bench {
  Counts counts;
  std::string runtime;  // the OCI runtime: a name or a path; empty: runc
  bool awake = false;   // idle processors do not sleep
  std::vector<Subject> subjects;
  Report report;

  test::Settings Settings(const Subject& subject) const;
  // For each of the subjects, in turns, so many times.
  void ForEach(int rounds, const std::function<void(const Subject&, int round)>& measure);
  // One command of the OCI runtime on its own, with a root directory of that containerd's. Throws
  // unless it succeeds.
  void RunBare(test::FakeContainerd& ctrd, const std::vector<std::string>& arguments) const;
  // The same in two halves, for many at once.
  pid_t StartBare(test::FakeContainerd& ctrd, const std::vector<std::string>& arguments) const;
  void AwaitBare(pid_t pid) const;
};

// The path of this program; others of the same build are beside it.
std::string OwnPath();

// Throws with the text of the error: a benchmark has no use for half a result.
void Check(const absl::Status& status, const char* what);
template <typename T>
T Check(absl::StatusOr<T> result, const char* what) {
  Check(result.status(), what);
  return *std::move(result);
}

// CPU time of the threads that a process has now, in seconds, exact to the scheduler's clock.
double OwnCpu(pid_t pid);
// The same with that of the children it has waited for, exact to a tick (10 ms).
double CpuWithChildren(pid_t pid);
// Of the children that this process has waited for.
double ChildrenCpu();
// How often the threads of a process went to sleep.
double Sleeps(pid_t pid);
// Of smaps_rollup, in KiB.
double SmapsKib(pid_t pid, const char* field);
// The private dirty memory, once it has not shrunk for a while.
double RestingKib(test::FakeContainerd& ctrd, pid_t pid);

void MeasureMemory(Bench& bench);
void MeasureManyShims(Bench& bench);
void MeasureStart(Bench& bench);
void MeasureLifecycle(Bench& bench);
void MeasureExec(Bench& bench);
void MeasureCalls(Bench& bench);
void MeasurePeers(Bench& bench);
void MeasureHang(Bench& bench);
void MeasureParallel(Bench& bench);
void MeasureStreams(Bench& bench);
void MeasureEvents(Bench& bench);
void MeasureDaemon(Bench& bench);
// What MeasureDaemon runs in a process of its own; prints lines of NAME|UNIT|GOAL|VALUE. The exit
// code is 1 after a last line on stderr that says what has failed.
int DaemonPart(const Bench& bench);

}  // namespace feather::bench
