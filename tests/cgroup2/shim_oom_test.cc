// On a real cgroup2 memory controller.
#include "tests/support/oom_series.h"
#include "tests/support/oom_shim_tests.h"

namespace feather::test {

std::optional<std::string> MemoryController() { return Cgroup2MemoryRoot(); }

// Only here: on cgroup1 runc would leave the pod's cgroups of other controllers behind.
TEST_F(OomShim, AKillByThePodsLimitIsToldOfTheVictimsContainerAlone) {
  const std::string name = absl::StrCat(ctrd_->name(), "-pod");
  MemoryCgroup pod(*MemoryController(), name);
  pod.Limit(uint64_t{kLimitMiB} << 20);
  const auto make = [&](const std::string& id, const std::string& script) -> auto& {
    ContainerOptions options;
    options.spec.args = {"sh", "-c", script};
    options.spec.cgroups_path = absl::StrCat("/", name, "/", id);
    options.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
    return ctrd_->New(id, options);
  };
  Container& small = make("small", "sleep 1000");
  ASSERT_TRUE(small.Run().ok());
  Container& victim = make("victim", absl::StrCat("exec ", kEater));
  ASSERT_TRUE(victim.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("victim", "victim"), nullptr);
  Remove(victim);
  Remove(small);
  EXPECT_THAT(Ends("victim"),
              ::testing::ElementsAre("/tasks/oom victim", "/tasks/exit victim 137"));
  EXPECT_THAT(Ends("small"), ::testing::ElementsAre("/tasks/exit small 137"));
}

TEST_P(OomSeries, TellsEachKillOnceAndBeforeTheExit) { RunSeries(); }
INSTANTIATE_TEST_SUITE_P(Kills, OomSeries, kOomSeries, OomSeriesName);

}  // namespace feather::test
