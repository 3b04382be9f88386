// On this machine's cgroup1 memory controller.
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "oom/logged_kills.h"
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

// A process of the container, killed in a cgroup below that is gone by the time that the shim
// looks: it is stopped meanwhile.
enum class Who { kInit, kExec, kForkedByExec };

class OomShimBelow : public OomShim, public ::testing::WithParamInterface<std::tuple<Who, bool>> {
 protected:
  static constexpr char kUntilItIsBelow[] = "until grep -q below /proc/self/cgroup; do :; done; ";
  static Who who() { return std::get<0>(GetParam()); }
  static bool seen() { return std::get<1>(GetParam()); }

  // The shim reads the counters.
  void LetItRead(Container& c, const std::string& exec) {
    ASSERT_TRUE(c.Exec(exec, {"true"}).ok());
    ASSERT_TRUE(c.Start(exec).ok());
    ASSERT_NE(ctrd_->WaitForExit(c.id(), exec), nullptr);
  }
  void WaitForState(pid_t pid, char state) {
    EXPECT_TRUE(ctrd_->loop().RunUntil([&] {
      const std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat")).value_or("");
      return absl::StrContains(stat, absl::StrCat(") ", std::string(1, state), " "));
    })) << pid
        << " " << state;
  }

  // True if the kernel's log has named the victim's cgroup.
  bool Run(const std::string& id, const std::function<void(Container&, pid_t)>& below) {
    const std::string script = who() == Who::kForkedByExec
                                   ? absl::StrCat(kUntilItIsBelow, kEater, "; exit 7")
                                   : absl::StrCat(kUntilItIsBelow, "exec ", kEater);
    Container& c = ctrd_->New(id, Limited(who() == Who::kInit ? script : "sleep 1000"));
    auto pid = c.Create();
    EXPECT_TRUE(pid.ok() && c.Start().ok());
    if (who() != Who::kInit) {
      EXPECT_TRUE(c.Exec("e", {"sh", "-c", script}).ok());
      pid = c.Start("e");
    }
    EXPECT_TRUE(pid.ok()) << pid.status();
    if (HasFailure()) return true;
    oom::LoggedKills witness(MemoryDirectory(c));
    below(c, static_cast<pid_t>(*pid));
    EXPECT_NE(ctrd_->WaitForExit(id, who() == Who::kInit ? id : "e"), nullptr);
    witness.Read();
    if (who() != Who::kInit) LetItRead(c, "later");
    Remove(c);
    return !witness.named().empty();
  }

  // The kernel names the cgroups of ten kills in five seconds on the whole machine: another
  // container's turn, then.
  std::string RunUntilItIsNamed(const std::function<void(Container&, pid_t)>& below) {
    const auto end = Clock::now() + std::chrono::minutes(4);
    for (int i = 0; !HasFailure() && Clock::now() < end; ++i) {
      const std::string id = absl::StrCat("c", i);
      if (Run(id, below)) return id;
    }
    ADD_FAILURE() << "the kernel has named none";
    return "";
  }

  // Runs `kill` while the shim stands still, and until the process has ended.
  void WhileItStands(Container& c, pid_t pid, const std::function<void()>& kill) {
    ASSERT_EQ(::kill(c.shim_pid(), SIGSTOP), 0);
    WaitForState(c.shim_pid(), 'T');
    kill();
    WaitForState(pid, 'Z');
  }

  static auto Expected(const std::string& id, bool oom) {
    std::vector<std::string> ends;
    if (oom) ends.push_back("/tasks/oom " + id);
    if (who() == Who::kExec) ends.push_back("/tasks/exit " + id + " e 137");
    if (who() == Who::kForkedByExec) ends.push_back("/tasks/exit " + id + " e 7");
    if (who() != Who::kInit) ends.push_back("/tasks/exit " + id + " later 0");
    ends.push_back("/tasks/exit " + id + " 137");
    return ends;
  }
};

TEST_P(OomShimBelow, TheKillIsToldOnceAndBeforeTheExitThoughTheCgroupIsGone) {
  const std::string id = RunUntilItIsNamed([this](Container& c, pid_t pid) {
    std::optional<MemoryCgroup> below;
    if (seen()) {
      below.emplace(MemoryDirectory(c), "below");
      ASSERT_NO_FATAL_FAILURE(LetItRead(c, "earlier"));
    }
    const std::string directory = MemoryDirectory(c);
    WhileItStands(c, pid, [&] {
      if (!below) below.emplace(directory, "below");
      below->Limit(uint64_t{8} << 20);
      below->Write("cgroup.procs", absl::StrCat(pid));
    });
    EXPECT_TRUE(ctrd_->loop().RunUntil([&] { return below->Remove(); }));
    EXPECT_EQ(kill(c.shim_pid(), SIGCONT), 0);
  });
  std::vector<std::string> ends = Ends(id);
  std::erase(ends, absl::StrCat("/tasks/exit ", id, " earlier 0"));
  EXPECT_EQ(ends, Expected(id, true));
}

TEST_P(OomShimBelow, TheRemovalOfACgroupIsNoKillByItself) {
  const std::string id = "a";
  Run(id, [this](Container& c, pid_t pid) {
    std::optional<MemoryCgroup> below;
    if (seen()) {
      below.emplace(MemoryDirectory(c), "below");
      ASSERT_NO_FATAL_FAILURE(LetItRead(c, "earlier"));
    }
    const std::string directory = MemoryDirectory(c);
    WhileItStands(c, pid, [&] {
      if (!below) below.emplace(directory, "below");
      // Somebody else's, too.
      MemoryCgroup other(*MemoryController(), absl::StrCat("feather-test-", getpid()));
      other.Limit(uint64_t{8} << 20);
      Member victim(other, [] { EatMemory(size_t{64} << 20); });
      EXPECT_TRUE(victim.RunToItsKill());
      EXPECT_EQ(kill(pid, SIGKILL), 0);
    });
    EXPECT_TRUE(ctrd_->loop().RunUntil([&] { return below->Remove(); }));
    EXPECT_EQ(kill(c.shim_pid(), SIGCONT), 0);
  });
  std::vector<std::string> ends = Ends(id);
  std::erase(ends, absl::StrCat("/tasks/exit ", id, " earlier 0"));
  std::vector<std::string> expected = Expected(id, false);
  for (std::string& end : expected)
    if (absl::EndsWith(end, " e 7")) end = absl::StrCat("/tasks/exit ", id, " e 137");
  EXPECT_EQ(ends, expected);
}

std::string BelowName(const ::testing::TestParamInfo<std::tuple<Who, bool>>& info) {
  const auto [who, seen] = info.param;
  return absl::StrCat(who == Who::kInit   ? "AnInit"
                      : who == Who::kExec ? "AnExec"
                                          : "AChildOfAnExec",
                      seen ? "InOneThatWasSeen" : "InOneThatWasNeverSeen");
}
INSTANTIATE_TEST_SUITE_P(Kills, OomShimBelow,
                         ::testing::Combine(::testing::Values(Who::kInit, Who::kExec,
                                                              Who::kForkedByExec),
                                            ::testing::Bool()),
                         BelowName);

TEST_P(OomSeries, TellsEachKillOnceAndBeforeTheExit) { RunSeries(); }
INSTANTIATE_TEST_SUITE_P(Kills, OomSeries, kOomSeries, OomSeriesName);

}  // namespace feather::test
