// On this machine's cgroup1 memory controller.
#include "tests/support/oom_series.h"
#include "tests/support/oom_shim_tests.h"

namespace feather::test {

std::optional<std::string> MemoryController() {
  return Cgroup2MemoryRoot() ? std::nullopt : Cgroup1MemoryRoot();
}

// Only here: a kill there signals nothing, so that the reading before the exec's exit tells it.
TEST_F(OomShim, TheKillOfAnExecInACgroupBelowTheContainersIsToldBeforeItsExit) {
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  ASSERT_TRUE(c.Run().ok());
  MemoryCgroup below(MemoryDirectory(c), "below");
  below.Limit(uint64_t{8} << 20);
  const std::string script =
      absl::StrCat("until grep -q below /proc/self/cgroup; do :; done; exec ", kEater);
  ASSERT_TRUE(c.Exec("e", {"sh", "-c", script}).ok());
  auto pid = c.Start("e");
  ASSERT_TRUE(pid.ok()) << pid.status();
  below.Write("cgroup.procs", absl::StrCat(*pid));
  EXPECT_NE(ctrd_->WaitForExit("a", "e"), nullptr);
  Remove(c);
  EXPECT_THAT(Ends("a"),
              ::testing::ElementsAre("/tasks/oom a", "/tasks/exit a e 137", "/tasks/exit a 137"));
}

TEST_P(OomSeries, TellsEachKillOnceAndBeforeTheExit) { RunSeries(); }
INSTANTIATE_TEST_SUITE_P(Kills, OomSeries, kOomSeries, OomSeriesName);

}  // namespace feather::test
