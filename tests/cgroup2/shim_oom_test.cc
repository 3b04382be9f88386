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

// memory.oom.group: the kernel counts each process, and containerd is told once.
TEST_F(OomShim, AGroupKillIsToldOnceAndBeforeEachOfItsExits) {
  for (const char* id : {"a", "b", "c"}) {
    ContainerOptions options = Limited("sleep 1000");
    options.spec.patch =
        absl::StrCat(R"({"linux": {"resources": {"memory": {"limit": )", kLimitMiB * (1 << 20),
                     R"(}, "unified": {"memory.oom.group": "1"}}}})");
    Container& c = ctrd_->New(id, options);
    ASSERT_TRUE(c.Run().ok());
    ASSERT_TRUE(c.Exec("bystander", {"sleep", "1000"}).ok());
    ASSERT_TRUE(c.Start("bystander").ok());
    ASSERT_TRUE(c.Exec("victim", {"sh", "-c", absl::StrCat("sleep 1000 & exec ", kEater)}).ok());
    ASSERT_TRUE(c.Start("victim").ok());
    EXPECT_NE(ctrd_->WaitForExit(id, id), nullptr);
    Remove(c);
    const std::vector<std::string> ends = Ends(id);
    ASSERT_EQ(ends.size(), 4u) << ::testing::PrintToString(ends);
    EXPECT_EQ(ends[0], absl::StrCat("/tasks/oom ", id));
    EXPECT_THAT((std::vector<std::string>{ends[1], ends[2]}),
                ::testing::UnorderedElementsAre(absl::StrCat("/tasks/exit ", id, " bystander 137"),
                                                absl::StrCat("/tasks/exit ", id, " victim 137")));
    EXPECT_EQ(ends[3], absl::StrCat("/tasks/exit ", id, " 137"));
  }
}

// Only here: cgroup1 refuses a limit that is below what is used.
TEST_F(OomShim, ACreateThatFailsByAKillSaysSoAndPublishesNothing) {
  for (const char* runtime : {"runc", "crun"}) {
    Settings settings;
    settings.runtime = runtime;
    ctrd_ = std::make_unique<FakeContainerd>(settings);
    ContainerOptions options;
    options.spec.patch = R"({"linux": {"resources": {"memory": {"limit": 16384}}}})";
    Container& c = ctrd_->New("a", options);
    const auto created = c.Create();
    ASSERT_FALSE(created.ok()) << runtime;
    EXPECT_THAT(std::string(created.status().message()), ::testing::HasSubstr("OOM")) << runtime;
    EXPECT_THAT(std::string(created.status().message()), ::testing::HasSubstr("memory limit"))
        << runtime;
    EXPECT_TRUE(c.Shutdown().ok());
    c.Disconnect();
    EXPECT_TRUE(c.RemoveBundle().ok());
    EXPECT_THAT(ctrd_->FindLeftovers(), ::testing::IsEmpty());
    EXPECT_THAT(ctrd_->events().Summaries("a"), ::testing::IsEmpty());
  }
}

// cgroup2 mounted with memory_localevents: nobody but the victim's own cgroup counts it.
class OomShimLocalEvents : public OomShim {
 protected:
  void SetUp() override {
    OomShim::SetUp();
    if (IsSkipped()) return;
    local_.emplace();
    ASSERT_TRUE(local_->mounted()) << strerror(errno);
  }

  // A container whose processes are in a cgroup below its own, beside which `below` can be.
  Container& MakeContainer() {
    Container& c = ctrd_->New("a", Limited("sleep 1000"));
    auto pid = c.Create();
    EXPECT_TRUE(pid.ok()) << pid.status();
    EXPECT_TRUE(c.Start().ok());
    const std::string directory = MemoryDirectory(c);
    leaf_ = directory + "/leaf";
    EXPECT_EQ(mkdir(leaf_.c_str(), 0755), 0) << strerror(errno);
    EXPECT_TRUE(WriteFile(leaf_ + "/cgroup.procs", absl::StrCat(*pid), 0).ok());
    below_.emplace(directory, "below");
    below_->Limit(uint64_t{8} << 20);
    return c;
  }

  // An exec that is to be killed below.
  void StartVictim(Container& c) {
    const std::string script =
        absl::StrCat("until grep -q below /proc/self/cgroup; do :; done; exec ", kEater);
    ASSERT_TRUE(c.Exec("e", {"sh", "-c", script}).ok());
    auto pid = c.Start("e");
    ASSERT_TRUE(pid.ok()) << pid.status();
    below_->Write("cgroup.procs", absl::StrCat(*pid));
  }

  void End(Container& c) {
    EXPECT_TRUE(c.Kill(SIGKILL).ok());
    EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
    below_.reset();
    rmdir(leaf_.c_str());
    EXPECT_TRUE(c.Remove().ok());
    EXPECT_TRUE(ctrd_->WaitForDelete("a"));
  }

  std::optional<LocalEvents> local_;
  std::string leaf_;
  std::optional<MemoryCgroup> below_;
};

TEST_F(OomShimLocalEvents, TheKillOfAnExecInACgroupBelowTheContainersIsToldBeforeItsExit) {
  Container& c = MakeContainer();
  ASSERT_NO_FATAL_FAILURE(StartVictim(c));
  EXPECT_NE(ctrd_->WaitForExit("a", "e"), nullptr);
  End(c);
  EXPECT_THAT(Ends("a"),
              ::testing::ElementsAre("/tasks/oom a", "/tasks/exit a e 137", "/tasks/exit a 137"));
}

TEST_F(OomShimLocalEvents, TheKillInACgroupBelowTheContainersIsToldBeforeTheInitsExit) {
  Container& c = MakeContainer();
  Member victim(*below_, [] { EatMemory(size_t{64} << 20); });
  EXPECT_TRUE(victim.RunToItsKill());
  End(c);
  EXPECT_THAT(Ends("a"), ::testing::ElementsAre("/tasks/oom a", "/tasks/exit a 137"));
}

TEST_F(OomShimLocalEvents, TheKillOfAnInitIsToldOnceAndBeforeItsExit) {
  Container& c = ctrd_->New("a", Limited(absl::StrCat("exec ", kEater)));
  ASSERT_TRUE(c.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
  Remove(c);
  EXPECT_THAT(Ends("a"), ::testing::ElementsAre("/tasks/oom a", "/tasks/exit a 137"));
}

TEST_P(OomSeries, TellsEachKillOnceAndBeforeTheExit) { RunSeries(); }
INSTANTIATE_TEST_SUITE_P(Kills, OomSeries, kOomSeries, OomSeriesName);

}  // namespace feather::test
