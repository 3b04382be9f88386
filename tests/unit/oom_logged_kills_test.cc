// What is told by the kernel's log beside the counters. Directories stand for cgroups, and lines
// given by the test for the kernel's: so counts and lines come in each order in which a reading can
// find them.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "oom/kernel_record.h"
#include "oom/logged_kills.h"
#include "oom/subtree_kills.h"
#include "runtime/base/directory_tree.h"
#include "runtime/base/file.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/mount_namespace.h"
#include "tests/support/shim_bundle.h"

namespace feather::oom {
namespace {

// One for all, and none after the last.
TEST(OomLog, IsOneDescriptorHoweverManyAreListening) {
  const test::TestDirectory files;
  if (LogNameOf(files.path()).empty() && !KnowsPidsOfLog())
    GTEST_SKIP() << "in namespaces of its own";
  const auto none = test::OpenDescriptors();
  std::vector<std::unique_ptr<LoggedKills>> listeners;
  listeners.push_back(std::make_unique<LoggedKills>(files.path()));
  const auto one = test::OpenDescriptors();
  EXPECT_EQ(one.size(), none.size() + 1);
  for (int i = 0; i < 20; ++i) listeners.push_back(std::make_unique<LoggedKills>(files.path()));
  for (const auto& listener : listeners) listener->Read();
  EXPECT_EQ(test::OpenDescriptors(), one);
  listeners.clear();
  EXPECT_EQ(test::OpenDescriptors(), none);
}

// What this machine's kernel writes meanwhile would come between the test's lines.
class OomLoggedKills : public testing::Test {
 protected:
  void SetUp() override {
    if (LogNameOf(files_.path()).empty() || !KnowsPidsOfLog())
      GTEST_SKIP() << "in namespaces of its own";
    ASSERT_TRUE(mounts_.entered()) << strerror(errno);
    ASSERT_EQ(mount("/dev/null", "/dev/kmsg", nullptr, MS_BIND, nullptr), 0) << strerror(errno);
  }

  std::unique_ptr<LoggedKills> MakeLog() {
    auto log = std::make_unique<LoggedKills>(files_.path());
    log_ = log.get();
    return log;
  }

  static std::string Choice(const std::string& cgroup, int pid, const std::string& name = "dd") {
    return absl::StrCat(
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=",
        "0,oom_memcg=/pod,task_memcg=", cgroup, ",task=", name, ",pid=", pid, ",uid=0");
  }
  void Choose(const std::string& name, int pid) {
    log_->Hear(
        Choice(LogNameOf(files_.path()) + absl::StrReplaceAll(name, {{"\\", "\\x5c"}}), pid));
  }
  void Kill(int pid) {
    log_->Hear(absl::StrCat("Memory cgroup out of memory: Killed process ", pid,
                            " (dd) total-vm:206680kB, anon-rss:48000kB"));
  }

  static constexpr pid_t kInit = 1000;

  test::TestDirectory files_;
  test::MountNamespace mounts_;
  LoggedKills* log_ = nullptr;
};

class OomSubtreeKills : public OomLoggedKills {
 protected:
  void SetUp() override {
    OomLoggedKills::SetUp();
    if (IsSkipped()) return;
    kills_.emplace(files_.path(), "memory.oom_control", MakeLog(), kInit);
    EXPECT_EQ(Read(), 0u);
  }

  std::string Path(const std::string& name) const { return files_.path() + name; }
  void Count(const std::string& name, int kills, const std::string& processes = "") {
    mkdir(Path(name).c_str(), 0755);
    EXPECT_TRUE(WriteFile(Path(name) + "/memory.oom_control",
                          absl::StrCat("under_oom 0\noom_kill ", kills, "\n"), 0644)
                    .ok());
    EXPECT_TRUE(WriteFile(Path(name) + "/cgroup.procs", processes, 0644).ok());
  }
  // To where nobody looks: no other gets its inode.
  void Remove(const std::string& name) {
    std::filesystem::rename(Path(name), absl::StrCat(removed_.path(), "/", ++removals_));
  }

  uint64_t Read(uint64_t own = 0) {
    kills_->ReadLog();
    return kills_->Add(own, {});
  }

  std::string Victims() {
    std::string text;
    for (const Victim& victim : kills_->TakeVictims())
      absl::StrAppend(&text, victim.pid, " ", victim.name, " ", victim.limit_of, "; ");
    return text;
  }

  std::optional<SubtreeKills> kills_;

 private:
  test::TestDirectory removed_;
  int removals_ = 0;
};

// Another's line may break the kernel's in two.
TEST_F(OomLoggedKills, HasTheVictimsPidWhereNoNameMeansAnythingAndTheChoiceHasNone) {
  LoggedKills log(files_.path() + "/nowhere");
  log.Hear("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)");
  log.Hear("Memory cgroup out of memory: Killed process 7 (dd) total-vm:206680kB");
  ASSERT_EQ(log.unnamed().size(), 1u);
  EXPECT_EQ(log.unnamed()[0].victim.pid, 7);
}

TEST_F(OomSubtreeKills, TakesTheKillOfACgroupThatWasNeverSeenFromTheLogOnce) {
  Choose("/a", 7);
  Kill(7);
  Choose("/a/b\\x2dc", 8);
  Kill(8);
  EXPECT_EQ(Read(), 2u);
  EXPECT_EQ(Read(), 2u);
}

TEST_F(OomSubtreeKills, TakesTheKillOfACgroupThatIsGoneFromTheLogOnce) {
  Count("/a", 3);
  EXPECT_EQ(Read(), 3u);
  Choose("/a", 7);
  Kill(7);
  Remove("/a");
  EXPECT_EQ(Read(), 4u);
  EXPECT_EQ(Read(), 4u);
}

TEST_F(OomSubtreeKills, TakesACountThatTheLogHasToo) {
  Choose("/a", 7);
  Kill(7);
  Count("/a", 1);
  EXPECT_EQ(Read(), 1u);
  Remove("/a");
  EXPECT_EQ(Read(), 1u);
  EXPECT_EQ(Read(), 1u);
}

// The lines come before and after the count, and the cgroup may go at any time.
TEST_F(OomSubtreeKills, TakesAKillOnceWhoseLinesAndCountAreReadApart) {
  Count("/a", 0);
  EXPECT_EQ(Read(), 0u);
  Choose("/a", 7);
  EXPECT_EQ(Read(), 0u);
  Count("/a", 1);
  EXPECT_EQ(Read(), 1u);
  Kill(7);
  EXPECT_EQ(Read(), 1u);
  Remove("/a");
  EXPECT_EQ(Read(), 1u);

  Count("/b", 0);
  EXPECT_EQ(Read(), 1u);
  Choose("/b", 8);
  EXPECT_EQ(Read(), 1u);
  Remove("/b");
  EXPECT_EQ(Read(), 2u);
  Kill(8);
  EXPECT_EQ(Read(), 2u);

  Count("/c", 0);
  Choose("/c", 9);
  Count("/c", 1);
  EXPECT_EQ(Read(), 3u);
  Remove("/c");
  Kill(9);
  EXPECT_EQ(Read(), 3u);
}

TEST_F(OomSubtreeKills, TakesTheKillsOfCgroupsOfOneName) {
  Choose("/a", 7);
  Kill(7);
  Count("/a", 0);
  EXPECT_EQ(Read(), 1u);
  Choose("/a", 8);
  Kill(8);
  Remove("/a");
  Choose("/a", 9);
  Kill(9);
  // Another inode's.
  Count("/other", 0);
  Count("/a", 1);
  EXPECT_EQ(Read(), 3u);
  EXPECT_EQ(Read(), 3u);
  Remove("/a");
  EXPECT_EQ(Read(), 3u);
}

TEST_F(OomSubtreeKills, TakesTheKillThatIsNamedOfACgroupThatIsLeftOutForWantOfRoom) {
  Count("/near", 0);
  Count("/near/far", 0);
  for (size_t i = 0; i < kMostCgroups; ++i) Count(absl::StrCat("/", i), 0);
  EXPECT_EQ(Read(), 0u);
  Choose("/near/far", 7);
  EXPECT_EQ(Read(), 0u);
  Count("/near/far", 1);
  Kill(7);
  EXPECT_EQ(Read(), 1u);
  for (size_t i = 0; i < kMostCgroups; ++i) Remove(absl::StrCat("/", i));
  Choose("/near/far", 8);
  Count("/near/far", 2);
  Kill(8);
  EXPECT_EQ(Read(), 2u);
  EXPECT_EQ(Read(), 2u);
  Remove("/near/far");
  EXPECT_EQ(Read(), 2u);
}

TEST_F(OomSubtreeKills, TakesTheKillsOfARenamedCgroupOnce) {
  Count("/a", 2);
  EXPECT_EQ(Read(), 2u);
  std::filesystem::rename(Path("/a"), Path("/b"));
  EXPECT_EQ(Read(), 2u);
  Count("/b", 3);
  EXPECT_EQ(Read(), 3u);
}

// The kernel names the cgroups of ten kills in five seconds.
TEST_F(OomSubtreeKills, TakesTheKillsOfProcessesThatItHasSeenWhereTheLogNamesNoCgroup) {
  Count("/a", 0, "7\n8\n");
  Count("/b", 0, "9\n");
  EXPECT_EQ(Read(), 0u);
  Kill(7);
  Kill(9);
  Kill(10);
  Remove("/a");
  EXPECT_EQ(Read(), 1u);
  Count("/b", 1);
  EXPECT_EQ(Read(), 2u);
  Remove("/b");
  EXPECT_EQ(Read(), 2u);
  Kill(8);
  EXPECT_EQ(Read(), 2u);
}

// Pids are given anew: what the log had before the last reading was of somebody else.
TEST_F(OomSubtreeKills, LeavesOutTheVictimThatHadThePidBefore) {
  Kill(7);
  Count("/a", 0, "7\n");
  EXPECT_EQ(Read(), 0u);
  Remove("/a");
  EXPECT_EQ(Read(), 0u);
}

TEST_F(OomSubtreeKills, TakesAKillOnceWhoseCountWasReadBeforeTheLineThatNamesNoCgroup) {
  Count("/a", 0, "7\n");
  EXPECT_EQ(Read(), 0u);
  Count("/a", 1, "7\n");
  EXPECT_EQ(Read(), 1u);
  Kill(7);
  Remove("/a");
  EXPECT_EQ(Read(), 1u);
}

TEST_F(OomSubtreeKills, LeavesOutWhatIsElsewhereOrNotKilled) {
  Count("/a", 0, "7\n");
  EXPECT_EQ(Read(), 0u);
  const std::string name = LogNameOf(files_.path());
  for (const std::string& other : {name + "x", "/x" + name, std::string("/"), std::string("")}) {
    log_->Hear(Choice(other, 7));
    Kill(7);
  }
  log_->Hear(Choice("/evil", 7, absl::StrCat("a,task_memcg=", name, "/b,task=c,pid=7,uid=0")));
  log_->Hear(Choice(name + "/b,task=c", 7));
  Choose("/b", 7);
  log_->Hear(
      "Memory cgroup out of memory: OOM victim 7 (dd) is already exiting. Skip killing the task");
  Remove("/a");
  EXPECT_EQ(Read(), 0u);
}

TEST_F(OomSubtreeKills, TakesWhatTheLogHasOfItselfWhenItIsGone) {
  Choose("", 7);
  EXPECT_EQ(Read(0), 0u);
  Kill(7);
  EXPECT_EQ(Read(1), 1u);
  EXPECT_EQ(kills_->AddRemoved(), 1u);

  Choose("", 8);
  Kill(8);
  Choose("/a", 9);
  Kill(9);
  EXPECT_EQ(kills_->AddRemoved(), 3u);
  EXPECT_EQ(kills_->AddRemoved(), 3u);
}

TEST_F(OomSubtreeKills, KeepsLittleOfALogThatNobodyAsksFor) {
  Count("/a", 0);
  for (int pid = 1; pid < 5000; ++pid) {
    Choose("/a", pid);
    Kill(pid);
    Kill(pid + 10'000);
  }
  EXPECT_EQ(log_->named().size(), LoggedKills::kMostKept);
  EXPECT_EQ(log_->unnamed().size(), LoggedKills::kMostKept);
  Count("/a", 4999);
  EXPECT_EQ(Read(), 4999u);
  EXPECT_EQ(Read(), 4999u);
  EXPECT_TRUE(log_->named().empty());
  EXPECT_TRUE(log_->unnamed().empty());
}

// The kernel's second line names a thread where the process' first one has ended.
TEST_F(OomSubtreeKills, TakesTheKillOfAProcessWhoseFirstThreadHasEnded) {
  Choose("/a", 7);
  Kill(70);
  Count("/a", 0);
  EXPECT_EQ(Read(), 1u);
  Choose("/b", 8);
  Kill(80);
  Count("/b", 1);
  EXPECT_EQ(Read(), 2u);
  Remove("/b");
  EXPECT_EQ(Read(), 2u);
}

// The log has lost the line in between.
TEST_F(OomSubtreeKills, TakesTheKillOfAProcessAfterAnothersChoice) {
  Count("/a", 0, "7\n");
  EXPECT_EQ(Read(), 0u);
  log_->Hear(Choice("/other", 8));
  Kill(7);
  Remove("/a");
  EXPECT_EQ(Read(), 1u);
}

TEST_F(OomSubtreeKills, TakesTheKillOfAnInitWhichWasNeverSeen) {
  Kill(kInit);
  EXPECT_EQ(kills_->AddRemoved(), 1u);
}

// It is written when the counter has been read.
TEST_F(OomSubtreeKills, AwaitsTheLineThatNamesNoCgroup) {
  bool in_time = false;
  for (uint64_t i = 1; !in_time; ++i) {
    const std::string name = absl::StrCat("/", i);
    Count(name, 0, "7\n");
    EXPECT_EQ(Read(), i - 1);
    Count(name, 1, "7\n");
    const auto counted = Clock::now();
    EXPECT_EQ(Read(), i);
    EXPECT_EQ(Read(), i);
    in_time = Clock::now() - counted < kPatience;
    if (in_time) Kill(7);
    Remove(name);
    EXPECT_EQ(Read(), i);
  }
}

TEST_F(OomSubtreeKills, AwaitsNoLineForLong) {
  Count("/a", 0, "7\n8\n");
  EXPECT_EQ(Read(), 0u);
  Count("/a", 1, "7\n8\n");
  EXPECT_EQ(Read(), 1u);
  std::this_thread::sleep_for(2 * kPatience);
  EXPECT_EQ(Read(), 1u);
  Kill(7);
  Remove("/a");
  EXPECT_EQ(Read(), 2u);
}

TEST_F(OomSubtreeKills, TakesTheKillOfAProcessWhoseLineIsReadBeforeItsCount) {
  Count("/a", 0, "7\n8\n");
  EXPECT_EQ(Read(), 0u);
  kills_->ReadLog();
  Kill(7);
  EXPECT_EQ(kills_->Add(0, {}), 0u);
  Remove("/a");
  EXPECT_EQ(Read(), 1u);
  EXPECT_EQ(Read(), 1u);
}

// By name, at the count; by the processes that were seen, when the line is there; and not those of
// others, not even where their pids are given anew.
TEST_F(OomSubtreeKills, HaveTheVictimsThatTheyCount) {
  Count("/a", 0, "7\n8\n");
  Count("/b", 0, "9\n");
  Kill(8);
  EXPECT_EQ(Read(), 0u);
  EXPECT_EQ(Victims(), "");
  Choose("/a", 7);
  Count("/a", 1, "7\n8\n");
  EXPECT_EQ(Read(), 1u);
  EXPECT_EQ(Victims(), "7 dd /pod; ");
  Kill(7);
  Count("/a", 2, "7\n8\n");
  EXPECT_EQ(Read(), 2u);
  EXPECT_EQ(Victims(), "");
  Kill(8);
  EXPECT_EQ(Read(), 2u);
  EXPECT_EQ(Victims(), "8 dd ; ");
  Choose("/b", 9);
  Kill(9);
  Remove("/b");
  EXPECT_EQ(Read(), 3u);
  EXPECT_EQ(Victims(), "9 dd /pod; ");
  Choose("", kInit);
  Kill(kInit);
  EXPECT_EQ(kills_->AddRemoved(), 4u);
  EXPECT_EQ(Victims(), absl::StrCat(kInit, " dd /pod; "));
}

// Where the cgroup's counter has those below, too.
class OomKillsInOneCount : public OomLoggedKills {
 protected:
  void SetUp() override {
    OomLoggedKills::SetUp();
    if (!IsSkipped()) kills_.emplace(files_.path(), nullptr, MakeLog(), kInit);
  }

  uint64_t Read(const std::vector<pid_t>& processes, uint64_t count = 0) {
    kills_->ReadLog();
    return kills_->Add(count, processes);
  }

  std::optional<SubtreeKills> kills_;
};

TEST_F(OomKillsInOneCount, AreThoseOfTheCgroupOrOfItsProcessesWhenItIsGone) {
  EXPECT_EQ(Read({7, 8}), 0u);
  Choose("", 9);
  Kill(9);
  Choose("/a", 10);
  Kill(10);
  Kill(8);
  Kill(11);
  log_->Hear(Choice("/other", 7));
  Kill(7);
  // The reading that finds the cgroup gone has begun before it does.
  kills_->ReadLog();
  EXPECT_EQ(kills_->AddRemoved(), 3u);
  EXPECT_EQ(kills_->AddRemoved(), 3u);
}

TEST_F(OomKillsInOneCount, AreThatOfAnInitWhichWasNeverSeen) {
  EXPECT_EQ(Read({}), 0u);
  Kill(kInit);
  EXPECT_EQ(kills_->AddRemoved(), 1u);
}

TEST_F(OomKillsInOneCount, AreNoneThatTheLogHadBeforeTheLastReading) {
  Choose("", 9);
  Kill(9);
  Kill(7);
  EXPECT_EQ(Read({7}), 0u);
  EXPECT_EQ(kills_->AddRemoved(), 0u);
}

TEST_F(OomKillsInOneCount, AreThoseChosenBeforeTheLastReadingAndKilledAfterIt) {
  Choose("", 9);
  EXPECT_EQ(Read({9}), 0u);
  Kill(9);
  EXPECT_EQ(kills_->AddRemoved(), 1u);
}

// Its lines come before and after the count.
TEST_F(OomKillsInOneCount, AreNotTakenTwiceWhoseCountWasReadAmongTheLines) {
  EXPECT_EQ(Read({8, 9}), 0u);
  Choose("/a", 9);
  EXPECT_EQ(Read({8, 9}, 1), 1u);
  Kill(9);
  EXPECT_EQ(Read({8, 9}, 2), 2u);
  Kill(8);
  EXPECT_EQ(kills_->AddRemoved(), 2u);
}

// The count is of the kill before the one that has just been chosen.
TEST_F(OomKillsInOneCount, AreTheOneThatIsChosenAfterOneWithoutAName) {
  EXPECT_EQ(Read({7, 8}), 0u);
  Kill(8);
  Choose("", 9);
  EXPECT_EQ(Read({7}, 1), 1u);
  Kill(9);
  EXPECT_EQ(kills_->AddRemoved(), 2u);
}

// Lines are lost between a choice and its kill, or with the kill.
TEST_F(OomKillsInOneCount, AreNotTakenTwiceWhereLinesWereLost) {
  EXPECT_EQ(Read({7, 8}), 0u);
  Choose("", 7);
  log_->Hear("");
  Kill(7);
  EXPECT_EQ(Read({8}, 1), 1u);
  Choose("", 8);
  EXPECT_EQ(Read({8}, 1), 1u);
  log_->Hear("");
  EXPECT_EQ(Read({8}, 2), 2u);
  EXPECT_EQ(Read({8}, 2), 2u);
  EXPECT_EQ(kills_->AddRemoved(), 2u);
}

TEST_F(OomKillsInOneCount, AreNoneOfAChoiceWhoseEndIsLost) {
  Choose("", 7);
  log_->Hear("");
  EXPECT_EQ(Read({7}), 0u);
  EXPECT_EQ(kills_->AddRemoved(), 0u);
}

// Forked and killed between two readings; seen, but gone at the count, before its line; and a pid
// that was somebody else's.
TEST_F(OomKillsInOneCount, HaveTheVictimWhereverItWasSeen) {
  const auto victims = [this] {
    std::string pids;
    for (const Victim& victim : kills_->TakeVictims()) absl::StrAppend(&pids, victim.pid, " ");
    return pids;
  };
  EXPECT_EQ(Read({kInit}), 0u);
  Kill(8);
  EXPECT_EQ(Read({kInit, 8}, 1), 1u);
  EXPECT_EQ(victims(), "8 ");

  EXPECT_EQ(Read({kInit, 9}, 1), 1u);
  EXPECT_EQ(Read({kInit}, 2), 2u);
  EXPECT_EQ(victims(), "");
  Kill(9);
  EXPECT_EQ(Read({kInit}, 2), 2u);
  EXPECT_EQ(victims(), "9 ");

  EXPECT_EQ(Read({kInit, 10}, 2), 2u);
  Kill(10);
  Choose("", kInit);
  Kill(kInit);
  EXPECT_EQ(Read({}, 3), 3u);
  EXPECT_EQ(victims(), absl::StrCat(kInit, " "));
  EXPECT_EQ(kills_->AddRemoved(), 3u);
}

TEST_F(OomKillsInOneCount, AreThoseRightAfterACountToo) {
  Choose("", 9);
  Kill(9);
  EXPECT_EQ(Read({8, 9}, 1), 1u);
  Kill(8);
  EXPECT_EQ(kills_->AddRemoved(), 2u);
}

}  // namespace
}  // namespace feather::oom
