// Records as Linux 6.1 and 6.18 write them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "oom/kernel_log.h"
#include "tests/support/memory_cgroup.h"

namespace feather::oom {
namespace {

constexpr char kLater[] = "9000000000000000";

// A cgroup's directory that is there whatever this machine has: what counts is its name below a
// mount point.
class OomKernelLog : public testing::Test {
 protected:
  OomKernelLog() : directory_(test::Cgroup1MemoryRoot().value_or("/sys/fs/cgroup")) {}

  void SetUp() override {
    const std::string name = absl::StrCat("feather-test-", getpid());
    cgroup_.emplace(directory_, name);
    name_ = "/" + name;
    log_.emplace(cgroup_->path());
  }

  std::string Record(const std::string& text, const std::string& at = kLater, int priority = 3) {
    return absl::StrCat(priority, ",", ++sequence_, ",", at, ",-;", text, "\n SUBSYSTEM=x\n");
  }
  void Choose(int pid, const std::string& cgroup, const std::string& name = "dd",
              const std::string& cpuset = "/") {
    log_->Add(Record(absl::StrCat("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=",
                                  cpuset, ",mems_allowed=0,oom_memcg=/pod,task_memcg=", cgroup,
                                  ",task=", name, ",pid=", pid, ",uid=0")));
  }
  std::string Killed(int pid, const std::string& at = kLater, int priority = 3,
                     const std::string& name = "dd") {
    return Record(absl::StrCat("Memory cgroup out of memory: Killed process ", pid, " (", name,
                               ") total-vm:206680kB, anon-rss:48000kB, file-rss:8kB, UID:0"),
                  at, priority);
  }
  // "PID NAME LIMIT_OF" of each.
  std::vector<std::string> Taken() {
    std::vector<std::string> taken;
    for (const Victim& victim : log_->Take())
      taken.push_back(absl::StrCat(victim.pid, " ", victim.name, " ", victim.limit_of));
    return taken;
  }

  const std::string directory_;
  std::optional<test::MemoryCgroup> cgroup_;
  std::string name_;
  std::optional<KernelLog> log_;
  int sequence_ = 0;
};

using Words = std::vector<std::string>;

TEST_F(OomKernelLog, TellsAKilledProcessOfTheContainerOnce) {
  log_->SawProcesses({41, 42});
  log_->Add(Killed(42));
  log_->Add(Killed(42));
  log_->Add(Killed(4));
  log_->Add(Killed(421));
  EXPECT_EQ(Taken(), (Words{"42 dd "}));
  EXPECT_EQ(Taken(), Words{});
}

TEST_F(OomKernelLog, TellsAProcessOfItsCgroupThatNobodyKnew) {
  Choose(7, name_);
  log_->Add(Killed(7));
  Choose(8, name_ + "/below");
  log_->Add(Killed(8));
  EXPECT_EQ(Taken(), (Words{"7 dd /pod", "8 dd /pod"}));
}

// The log has what is not printable ASCII, and a backslash, as \xNN.
TEST_F(OomKernelLog, KnowsItsCgroupByTheNameThatTheLogHas) {
  const std::string name = absl::StrCat("feather-test-", getpid(), "-a\\x2db\xc3\xa9");
  const test::MemoryCgroup cgroup(directory_, name);
  log_.emplace(cgroup.path());
  Choose(7, absl::StrCat("/feather-test-", getpid(), "-a\\x5cx2db\\xc3\\xa9"));
  log_->Add(Killed(7));
  EXPECT_EQ(Taken(), (Words{"7 dd /pod"}));
}

TEST_F(OomKernelLog, TellsTheFirstVictimOfAGroupOnce) {
  log_->SawProcesses({7, 8});
  Choose(7, name_);
  log_->Add(Killed(7));
  log_->Add(Record("Tasks in /pod are going to be killed due to memory.oom.group set"));
  log_->Add(Killed(7));
  log_->Add(Killed(8));
  EXPECT_EQ(Taken(), (Words{"7 dd /pod", "8 dd "}));
}

TEST_F(OomKernelLog, LeavesOutOtherCgroups) {
  for (const std::string& other : {name_ + "x", "/x" + name_, std::string("/"), std::string("")}) {
    Choose(7, other);
    log_->Add(Killed(7));
  }
  EXPECT_EQ(Taken(), Words{});
}

// Names are the container's own choice.
TEST_F(OomKernelLog, IsNotMisledByNamesOfProcessesAndCgroups) {
  Choose(7, "/evil", absl::StrCat("a,task_memcg=", name_, ",task=b,pid=7,uid=0"));
  log_->Add(Killed(7));
  Choose(8, absl::StrCat("/evil/a,task_memcg=", name_, ",task=b,pid=8"));
  log_->Add(Killed(8));
  Choose(9, "/evil", "dd", absl::StrCat("a,task_memcg=", name_, ",task=b,pid=9,uid=0"));
  log_->Add(Killed(9));
  log_->Add(Record(absl::StrCat(
      "Tasks in /evil/Memory cgroup out of memory: Killed process 41 (a) total-vm:1kB are going")));
  EXPECT_EQ(Taken(), Words{});
  log_->SawProcesses({41});
  log_->Add(Record("x: Killed process 41 (a) total-vm:1kB"));
  EXPECT_EQ(Taken(), Words{});
  Choose(10, name_, "a,pid=1,uid=0");
  log_->Add(Killed(10, kLater, 3, "a) total-vm:1 ("));
  EXPECT_EQ(Taken(), (Words{"10 a) total-vm:1 ( /pod"}));
}

// The second line names a thread where the process' first one has ended.
TEST_F(OomKernelLog, TellsAProcessWhoseFirstThreadHasEnded) {
  log_->SawProcesses({7});
  Choose(7, name_);
  log_->Add(Killed(70));
  log_->Add(Killed(7));
  EXPECT_EQ(Taken(), (Words{"7 dd /pod"}));
}

TEST_F(OomKernelLog, DoesNotTakeAChoiceForTheKillAfterAGapOrAfterTheOneThatWasSkipped) {
  Choose(7, name_);
  ++sequence_;
  log_->Add(Killed(8));
  Choose(7, name_);
  log_->Add(Record("Memory cgroup out of memory: OOM victim 7 (dd) is already exiting. Skip"));
  log_->Add(Killed(8));
  EXPECT_EQ(Taken(), Words{});
}

TEST_F(OomKernelLog, DoesNotTakeAnOldChoiceForALaterKill) {
  Choose(7, name_);
  Choose(8, "/other");
  log_->Add(Killed(7));
  log_->Add(Killed(8));
  EXPECT_EQ(Taken(), Words{});
}

TEST_F(OomKernelLog, LeavesOutWhatIsOlderThanTheContainer) {
  log_->SawProcesses({42});
  log_->Add(Killed(42, "1"));
  log_->Add(Record("something else"));
  EXPECT_EQ(Taken(), Words{});
}

TEST_F(OomKernelLog, LeavesOutWhatTheKernelHasNotWritten) {
  log_->SawProcesses({42});
  log_->Add(Killed(42, kLater, 11));
  EXPECT_EQ(Taken(), Words{});
}

TEST_F(OomKernelLog, PassesOverRecordsThatWereThereBefore) {
  log_->SawProcesses({42});
  const std::string first = Killed(1), second = Killed(42);
  log_->Add(second);
  EXPECT_EQ(Taken().size(), 1u);
  log_->SawProcesses({1, 42});
  log_->Add(first);
  log_->Add(second);
  EXPECT_EQ(Taken(), Words{});
}

TEST_F(OomKernelLog, TakesRubbishForNothing) {
  log_->SawProcesses({42});
  // Each a record of its own.
  for (size_t size = 0; size < Killed(42).find(" (dd"); ++size) {
    const std::string whole = Killed(42);
    log_->Add(whole.substr(0, std::min(size, whole.find("42") + 1)));
  }
  for (const char* record : {"", ",", ";", ",,,;", "3,999,x,-;Killed process 42 ", "\n", "3"})
    log_->Add(record);
  log_->Add(absl::StrCat("3,1000,", kLater, ",-;Memory cgroup out of memory: Killed process x"));
  log_->Add(absl::StrCat("3,1001,", kLater, ",-;oom-kill:,task_memcg=", name_, ",task=,pid=,uid="));
  log_->Add(absl::StrCat("3,1002,", kLater, ",-;oom-kill:,task_memcg=", name_, ",task="));
  log_->Add(absl::StrCat("3,1003,", kLater, ",-;oom-kill:"));
  EXPECT_EQ(Taken(), Words{});
}

TEST_F(OomKernelLog, ReadsTheLogOfThisMachineAndOnesThatAreNotThere) {
  log_->SawProcesses({1});
  const auto before = test::OpenDescriptors();
  log_->Read();
  log_->Read();
  log_->Close();
  EXPECT_EQ(test::OpenDescriptors(), before);
  log_->Read("/no/such/log");
  EXPECT_EQ(test::OpenDescriptors(), before);
  EXPECT_EQ(Taken(), Words{});
}

}  // namespace
}  // namespace feather::oom
