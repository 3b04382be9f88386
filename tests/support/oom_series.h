#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/proc.h"
#include "tests/support/shim.h"

// Long series of OOM kills in real containers under a real shim, each kill judged by the events
// that containerd gets. Included by two programs, which differ only in the kernel that they need.
//
// Environment:
//   FEATHER_OOM_KILLS    kills of each series, 5 unless set
//   FEATHER_OOM_FIGURES  a directory: a line for each kill is added to a file of the series there
//   as
//                        soon as it is judged, and a later run goes on where the file ends
//   FEATHER_GUEST_SYSTEMD
//                        not empty: systemd, process 1, makes the cgroups (tests/cgroup2/run)
//   FEATHER_OOM_RUNTIME  the OCI runtime, runc unless set
//   FEATHER_SHIM, FEATHER_SHIM_SERIES
//                        another shim, and the series of containerd that it is of ("1.6", "2.1"):
//                        what it does is printed, and nothing expected of it
namespace feather::test {

// Where this program's kind of memory controller is mounted.
std::optional<std::string> MemoryController();

enum class Victim { kInit, kChild, kExec, kForked };

struct OomSeriesOptions {
  const char* name;
  Victim victim;
  // All containers share a shim, or each has its own.
  bool one_shim;
  // So many at the same time.
  int batch;
};

inline const auto kOomSeries =
    ::testing::Values(OomSeriesOptions{"InitsInOneShim", Victim::kInit, true, 1},
                      OomSeriesOptions{"ChildrenInOneShim", Victim::kChild, true, 1},
                      OomSeriesOptions{"ExecsInOneShim", Victim::kExec, true, 1},
                      OomSeriesOptions{"ForksInOneContainer", Victim::kForked, true, 1},
                      OomSeriesOptions{"BatchesInOneShim", Victim::kInit, true, 10},
                      OomSeriesOptions{"BatchesOfShims", Victim::kInit, false, 10});
inline std::string OomSeriesName(const ::testing::TestParamInfo<OomSeriesOptions>& info) {
  return info.param.name;
}

class OomSeries : public ::testing::TestWithParam<OomSeriesOptions> {
 protected:
  void SetUp() override;
  void TearDown() override;

  void RunSeries();

 private:
  struct Kill {
    Container* container;
    // The process whose exit is to come after the report: the container's id or an exec's.
    std::string process;
    std::string verdict;
  };

  bool feather() const { return stock_.empty(); }
  void NewContainerd();
  void StartKeeper();
  void RunRound(int kills);
  void RunFork();
  Container& MakeVictim(const std::string& id);
  void StartVictims(std::vector<Kill>& round);
  std::string Judge(const Kill& kill) const;
  bool Reported(const Kill& kill) const;
  void Record(const Kill& kill);
  void EndShim(const ::feather::test::Footprint& before);
  void PrintSummary() const;
  std::string FiguresPath() const;

  std::string stock_;
  std::unique_ptr<FakeContainerd> ctrd_;
  // Keeps the shim of a series in one shim; the container of all execs.
  Container* keeper_ = nullptr;
  // Of ctrd_'s events, where the round begins.
  size_t mark_ = 0;
  int serial_ = 0;
  int done_ = 0;
  std::vector<std::string> lines_;
};

}  // namespace feather::test
