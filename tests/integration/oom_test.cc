// On this machine's cgroup1 memory controller.
#include "tests/support/oom_series.h"
#include "tests/support/oom_shim_tests.h"

namespace feather::test {

std::optional<std::string> MemoryController() {
  return Cgroup2MemoryRoot() ? std::nullopt : Cgroup1MemoryRoot();
}

TEST_P(OomSeries, TellsEachKillOnceAndBeforeTheExit) { RunSeries(); }
INSTANTIATE_TEST_SUITE_P(Kills, OomSeries, kOomSeries, OomSeriesName);

}  // namespace feather::test
