// On a real cgroup2 memory controller.
#include "tests/support/oom_series.h"
#include "tests/support/oom_shim_tests.h"

namespace feather::test {

std::optional<std::string> MemoryController() { return Cgroup2MemoryRoot(); }

TEST_P(OomSeries, TellsEachKillOnceAndBeforeTheExit) { RunSeries(); }
INSTANTIATE_TEST_SUITE_P(Kills, OomSeries, kOomSeries, OomSeriesName);

}  // namespace feather::test
