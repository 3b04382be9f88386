// What oom/cgroup2.h relies on, each shown on the kernel that runs this.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "oom/cgroupfs.h"
#include "oom/logged_kills.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/memory_cgroup.h"

namespace feather {
namespace {

using test::EatMemory;
using test::Member;
using test::MemoryCgroup;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kLimit = 4 * kMiB;
constexpr size_t kTooMuch = 64 * kMiB;
constexpr int kLong = 60'000;
// Time for a signal that must not come: the kernel delays one by 10 ms at most.
constexpr int kQuiet = 200;

bool Wakes(int fd, int milliseconds) {
  pollfd entry{fd, POLLPRI, 0};
  return poll(&entry, 1, milliseconds) == 1 && (entry.revents & POLLPRI) != 0;
}

class OomKernel : public testing::Test {
 protected:
  void SetUp() override {
    auto root = test::Cgroup2MemoryRoot();
    if (!root) GTEST_SKIP() << "no cgroup2 memory controller on this machine";
    // The kernel's log is to know it from that of the test before.
    const char* name = testing::UnitTest::GetInstance()->current_test_info()->name();
    parent_.emplace(*root, absl::StrCat("feather-test-", getpid(), "-", name));
    leaf_.emplace(parent_->path(), "leaf");
    leaf_->Limit(kLimit);
  }

  UniqueFd Open(const MemoryCgroup& cgroup, const char* file) {
    auto fd = OpenFile(absl::StrCat(cgroup.path(), "/", file), O_RDONLY);
    EXPECT_TRUE(fd.ok()) << fd.status();
    EXPECT_TRUE(ReadFd(fd->get()).ok());
    return *std::move(fd);
  }

  std::optional<MemoryCgroup> parent_;
  std::optional<MemoryCgroup> leaf_;
};

TEST_F(OomKernel, PollWakesForAKillWithoutInotifyAndReadingArmsItAgain) {
  UniqueFd events = Open(*leaf_, "memory.events");
  EXPECT_FALSE(Wakes(events.get(), 0));
  for (uint64_t kills = 1; kills <= 3; ++kills) {
    Member victim(*leaf_, [] { EatMemory(kTooMuch); });
    EXPECT_TRUE(victim.RunToItsKill());
    while (leaf_->Value("memory.events", "oom_kill") < kills) usleep(1000);
    EXPECT_TRUE(Wakes(events.get(), kLong));
    // A notification that was delayed may still come; after it the file is quiet.
    do {
      EXPECT_TRUE(ReadFd(events.get()).ok());
    } while (Wakes(events.get(), kQuiet));
  }
}

TEST_F(OomKernel, PollWakesWhenTheLastProcessIsGone) {
  Member process(*leaf_, [] { pause(); });
  UniqueFd events = Open(*leaf_, "cgroup.events");
  EXPECT_EQ(leaf_->Value("cgroup.events", "populated"), 1u);
  EXPECT_FALSE(Wakes(events.get(), 0));
  process.Kill(SIGKILL);
  // A zombie does not count as a process.
  EXPECT_TRUE(Wakes(events.get(), kLong));
  EXPECT_EQ(leaf_->Value("cgroup.events", "populated"), 0u);
}

bool Asleep(pid_t pid) {
  auto stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  return stat.ok() && stat->find(") S ") != std::string::npos;
}

TEST_F(OomKernel, RemovalWakesNobodyAndTheOpenFileThenAnswersENODEV) {
  UniqueFd memory = Open(*leaf_, "memory.events");
  UniqueFd cgroup = Open(*leaf_, "cgroup.events");
  pid_t waiter = fork();
  if (waiter == 0) {
    // Without a time limit: poll(2) looks again at its end, and would find the removal then.
    std::array<pollfd, 2> entries{{{memory.get(), POLLPRI, 0}, {cgroup.get(), POLLPRI, 0}}};
    _exit(poll(entries.data(), entries.size(), -1));
  }
  while (!Asleep(waiter)) usleep(1000);
  ASSERT_TRUE(leaf_->Remove());
  usleep(kQuiet * 1000);
  EXPECT_EQ(waitpid(waiter, nullptr, WNOHANG), 0);
  kill(waiter, SIGKILL);
  EXPECT_EQ(waitpid(waiter, nullptr, 0), waiter);
  char byte = 0;
  EXPECT_EQ(pread(memory.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ENODEV);
  // Whoever begins to wait now is told.
  EXPECT_TRUE(Wakes(memory.get(), 0));
}

TEST_F(OomKernel, TheCounterIsRaisedBeforeTheExitIsSeen) {
  for (uint64_t kills = 1; kills <= 10; ++kills) {
    Member victim(*leaf_, [] { EatMemory(kTooMuch); });
    EXPECT_TRUE(victim.RunToItsKill());
    ASSERT_EQ(leaf_->Value("memory.events", "oom_kill"), kills);
  }
}

TEST_F(OomKernel, TheParentKeepsTheCountOfALeafThatIsGoneAndASiblingHasNone) {
  MemoryCgroup sibling(parent_->path(), "sibling");
  Member victim(*leaf_, [] { EatMemory(kTooMuch); });
  EXPECT_TRUE(victim.RunToItsKill());
  ASSERT_TRUE(leaf_->Remove());
  EXPECT_EQ(parent_->Value("memory.events", "oom_kill"), 1u);
  EXPECT_EQ(sibling.Value("memory.events", "oom_kill"), 0u);
}

TEST_F(OomKernel, AKillByTheParentsLimitCountsInTheVictimsCgroup) {
  parent_->Limit(kLimit);
  leaf_->Write("memory.max", "max");
  MemoryCgroup sibling(parent_->path(), "sibling");
  Member idle(sibling, [] { pause(); });
  Member victim(*leaf_, [] { EatMemory(kTooMuch); });
  EXPECT_TRUE(victim.RunToItsKill());
  EXPECT_EQ(leaf_->Value("memory.events", "oom_kill"), 1u);
  EXPECT_EQ(leaf_->Value("memory.events", "oom"), 0u);
  EXPECT_EQ(sibling.Value("memory.events", "oom_kill"), 0u);
}

TEST_F(OomKernel, NotificationsCloserThan10MsAreMergedAndTheLastOneComes) {
  UniqueFd events = Open(*leaf_, "memory.events");
  // Each kill is several changes (max, oom, oom_kill); all of one are within far less than 10 ms.
  Member victim(*leaf_, [] { EatMemory(kTooMuch); });
  victim.Go();
  int wakes = 0;
  uint64_t seen = 0;
  while (seen == 0 && Wakes(events.get(), kLong)) {
    ++wakes;
    auto text = ReadFd(events.get());
    ASSERT_TRUE(text.ok());
    seen = text->find("oom_kill 1") != std::string::npos ? 1 : 0;
  }
  victim.Wait();
  EXPECT_EQ(seen, 1u);
  uint64_t changes = leaf_->Value("memory.events", "max") + leaf_->Value("memory.events", "oom") +
                     leaf_->Value("memory.events", "oom_kill");
  RecordProperty("changes", static_cast<int>(changes));
  RecordProperty("wakes", wakes);
  EXPECT_GT(changes, static_cast<uint64_t>(wakes));
}

TEST_F(OomKernel, AGroupKillCountsEachProcessAndTheGroupOnce) {
  leaf_->Write("memory.oom.group", "1");
  Member first(*leaf_, [] { pause(); });
  Member second(*leaf_, [] { pause(); });
  first.Go();
  second.Go();
  Member victim(*leaf_, [] { EatMemory(kTooMuch); });
  EXPECT_TRUE(victim.RunToItsKill());
  first.Wait();
  second.Wait();
  // The first victim is counted again with its group if it has not gone by then.
  EXPECT_GE(leaf_->Value("memory.events", "oom_kill"), 3u);
  EXPECT_LE(leaf_->Value("memory.events", "oom_kill"), 4u);
  EXPECT_EQ(leaf_->Value("memory.events", "oom_group_kill"), 1u);
}

// The removal of a cgroup does not take its victims' lines along, nor is the order of the two lines
// ever another (oom/kernel_record.h).
TEST_F(OomKernel, TheLogHasTheVictimsCgroupAndThenItsPid) {
  // The first line is not written more than ten times in five seconds.
  std::vector<oom::LoggedKills::Named> kills;
  pid_t pid = 0;
  for (int attempt = 0; attempt < 60 && kills.empty(); ++attempt) {
    if (attempt > 0) usleep(200'000);
    oom::LoggedKills log(leaf_->path());
    Member victim(*leaf_, [] { EatMemory(kTooMuch); });
    pid = victim.pid();
    EXPECT_TRUE(victim.RunToItsKill());
    log.Read();
    kills = log.named();
  }
  ASSERT_EQ(kills.size(), 1u);
  EXPECT_TRUE(kills[0].counted);
  EXPECT_EQ(kills[0].directory, leaf_->path());
  EXPECT_EQ(kills[0].victim.pid, pid);
  EXPECT_EQ(kills[0].victim.name, "oom_kernel_test");
  EXPECT_EQ(kills[0].victim.limit_of, oom::NameInHierarchy(leaf_->path()));
}

}  // namespace
}  // namespace feather
