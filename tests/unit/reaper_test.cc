#include "runtime/reaper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <cerrno>
#include <chrono>
#include <functional>
#include <vector>

#include "absl/time/clock.h"

namespace feather {
namespace {

using ::testing::ElementsAre;

// A child that does `body` and never returns from it.
pid_t Fork(const std::function<void()>& body) {
  pid_t pid = fork();
  if (pid == 0) {
    signal(SIGCHLD, SIG_DFL);
    body();
    _exit(99);
  }
  return pid;
}

pid_t ForkExiting(int code) {
  return Fork([code] { _exit(code); });
}

// Whether `pid` is a child that has ended and has not been reaped.
bool IsZombie(pid_t pid) {
  siginfo_t info = {};
  return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == pid;
}

// Blocks until the child has ended, without reaping it.
void AwaitEnd(pid_t pid) {
  siginfo_t info = {};
  while (waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
  }
}

class ReaperTest : public ::testing::Test {
 protected:
  ReaperTest() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

  ::testing::AssertionResult RunUntil(const std::function<bool()>& done) {
    auto deadline = Clock::now() + std::chrono::seconds(60);
    while (!done()) {
      if (Clock::now() > deadline) return ::testing::AssertionFailure() << "nothing for 60 s";
      io.restart();
      io.run_one_for(std::chrono::seconds(1));
    }
    return ::testing::AssertionSuccess();
  }

  // Everything that is ready now.
  void RunReady() {
    io.restart();
    io.poll();
  }

  Reaper::Callback Collect() {
    return [this](const Exit& exit) { exits.push_back(exit); };
  }

  std::vector<pid_t> Pids() const {
    std::vector<pid_t> pids;
    for (const Exit& exit : exits) pids.push_back(exit.pid);
    return pids;
  }

  asio::io_context io{1};
  Reaper reaper{io};
  std::vector<Exit> exits;
};

TEST_F(ReaperTest, ReportsAnExitCode) {
  pid_t pid = ForkExiting(7);
  absl::Time before = absl::Now();
  reaper.Watch(pid, Collect());
  ASSERT_TRUE(RunUntil([&] { return !exits.empty(); }));
  EXPECT_EQ(exits[0].pid, pid);
  EXPECT_EQ(exits[0].status, 7u);
  EXPECT_GE(exits[0].at, before);
  EXPECT_LE(exits[0].at, absl::Now());
}

TEST_F(ReaperTest, ReportsASignalAs128PlusItsNumber) {
  pid_t pid = Fork([] { pause(); });
  reaper.Watch(pid, Collect());
  kill(pid, SIGKILL);
  ASSERT_TRUE(RunUntil([&] { return !exits.empty(); }));
  EXPECT_EQ(exits[0].status, 128u + SIGKILL);
}

TEST_F(ReaperTest, DoesNotCallFromInsideWatch) {
  pid_t pid = ForkExiting(0);
  AwaitEnd(pid);
  reaper.Watch(pid, Collect());
  EXPECT_TRUE(exits.empty());
  EXPECT_TRUE(RunUntil([&] { return !exits.empty(); }));
}

TEST_F(ReaperTest, CallsEveryWatcherOfAPidOnceAndInOrder) {
  pid_t pid = ForkExiting(0);
  std::vector<int> order;
  reaper.Watch(pid, [&](const Exit&) { order.push_back(1); });
  reaper.Watch(pid, [&](const Exit&) { order.push_back(2); });
  ASSERT_TRUE(RunUntil([&] { return order.size() >= 2; }));
  RunReady();
  EXPECT_THAT(order, ElementsAre(1, 2));
}

TEST_F(ReaperTest, CollectsManyExitsThatArriveAsOneSignal) {
  std::vector<pid_t> pids;
  for (int i = 0; i < 300; ++i) pids.push_back(ForkExiting(0));
  for (pid_t pid : pids) AwaitEnd(pid);
  for (pid_t pid : pids) reaper.Watch(pid, Collect());
  ASSERT_TRUE(RunUntil([&] { return exits.size() == pids.size(); }));
  EXPECT_THAT(Pids(), ::testing::UnorderedElementsAreArray(pids));
}

// Checklist: X11.
TEST_F(ReaperTest, ReapsWhatNobodyWatches) {
  std::vector<pid_t> pids;
  for (int i = 0; i < 300; ++i) pids.push_back(ForkExiting(0));
  for (pid_t pid : pids) AwaitEnd(pid);
  // ESRCH: not even a zombie is left of it.
  EXPECT_TRUE(RunUntil([&] {
    for (pid_t pid : pids)
      if (kill(pid, 0) == 0) return false;
    return true;
  }));
}

// A child that is stopped raises SIGCHLD, too.
TEST_F(ReaperTest, ASignalWithoutAnExitIsNoWorkForLong) {
  pid_t pid = Fork([] {
    while (true) pause();
  });
  reaper.Watch(pid, Collect());
  kill(pid, SIGSTOP);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED | WNOWAIT), 0);
  int turns = 0;
  io.restart();
  while (turns < 100 && io.poll_one() > 0) ++turns;
  EXPECT_GT(turns, 0);
  EXPECT_LT(turns, 100);
  EXPECT_TRUE(exits.empty());
  kill(pid, SIGKILL);
  ASSERT_TRUE(RunUntil([&] { return !exits.empty(); }));
  EXPECT_EQ(exits[0].status, 128u + SIGKILL);
}

// Checklist: X2.
TEST_F(ReaperTest, KeepsAnUnclaimedExitWhileAnExpectationLives) {
  Reaper::Expectation expectation(reaper);
  pid_t early = ForkExiting(5);
  pid_t other = ForkExiting(0);
  reaper.Watch(other, Collect());
  AwaitEnd(early);
  ASSERT_TRUE(RunUntil([&] { return !exits.empty(); }));
  EXPECT_TRUE(IsZombie(early));
  reaper.Watch(early, Collect());
  ASSERT_TRUE(RunUntil([&] { return exits.size() == 2; }));
  EXPECT_THAT(Pids(), ElementsAre(other, early));
  EXPECT_EQ(exits[1].status, 5u);
}

TEST_F(ReaperTest, DropsKeptExitsWhenTheLastExpectationEnds) {
  auto first = std::make_unique<Reaper::Expectation>(reaper);
  auto second = std::make_unique<Reaper::Expectation>(reaper);
  pid_t pid = ForkExiting(0);
  AwaitEnd(pid);
  RunReady();
  first.reset();
  RunReady();
  EXPECT_TRUE(IsZombie(pid));
  second.reset();
  EXPECT_TRUE(RunUntil([&] { return kill(pid, 0) < 0; }));
}

// Checklist: X10.
TEST_F(ReaperTest, DeliversAPidThatWasClaimedJustBeforeTheExpectationEnded) {
  auto expectation = std::make_unique<Reaper::Expectation>(reaper);
  pid_t pid = Fork([] { pause(); });
  reaper.Watch(pid, Collect());
  expectation.reset();
  kill(pid, SIGTERM);
  ASSERT_TRUE(RunUntil([&] { return !exits.empty(); }));
  EXPECT_EQ(exits[0].status, 128u + SIGTERM);
}

TEST_F(ReaperTest, ReportsAGrandchildThatIsReparented) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  int hold[2];
  ASSERT_EQ(pipe(hold), 0);
  Reaper::Expectation expectation(reaper);
  pid_t child = Fork([&] {
    pid_t grandchild = Fork([&] {
      // Ends only when the parent has gone and the test lets it.
      char byte;
      close(hold[1]);
      _exit(read(hold[0], &byte, 1) == 0 ? 3 : 4);
    });
    _exit(write(ends[1], &grandchild, sizeof(grandchild)) == sizeof(grandchild) ? 0 : 1);
  });
  pid_t grandchild = 0;
  ASSERT_EQ(read(ends[0], &grandchild, sizeof(grandchild)), ssize_t{sizeof(grandchild)});
  reaper.Watch(grandchild, Collect());
  reaper.Watch(child, Collect());
  ASSERT_TRUE(RunUntil([&] { return exits.size() == 1; }));
  EXPECT_EQ(exits[0].pid, child);
  close(hold[1]);
  ASSERT_TRUE(RunUntil([&] { return exits.size() == 2; }));
  EXPECT_EQ(exits[1].pid, grandchild);
  EXPECT_EQ(exits[1].status, 3u);
  for (int fd : {ends[0], ends[1], hold[0]}) close(fd);
}

TEST_F(ReaperTest, ReportsAPidThatDoesNotExistAsUnknown) {
  pid_t pid = ForkExiting(0);
  ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
  reaper.Watch(pid, Collect());
  reaper.Watch(0, Collect());
  reaper.Watch(-1, Collect());
  ASSERT_TRUE(RunUntil([&] { return exits.size() == 3; }));
  for (const Exit& exit : exits) EXPECT_EQ(exit.status, kUnknownExitStatus);
}

TEST_F(ReaperTest, WaitForWatchesFromTheCallOn) {
  pid_t pid = ForkExiting(9);
  Async<Exit> wait = reaper.WaitFor(pid);
  // Swept by now, if it were not watched.
  AwaitEnd(pid);
  ASSERT_TRUE(RunUntil([&] { return kill(pid, 0) < 0; }));
  asio::co_spawn(io, std::move(wait), [&](std::exception_ptr error, const Exit& exit) {
    EXPECT_EQ(error, nullptr);
    exits.push_back(exit);
  });
  ASSERT_TRUE(RunUntil([&] { return !exits.empty(); }));
  EXPECT_EQ(exits[0].status, 9u);
}

TEST_F(ReaperTest, AWatchMayBeMadeFromACallback) {
  pid_t first = ForkExiting(0);
  reaper.Watch(first, [&](const Exit& exit) {
    exits.push_back(exit);
    reaper.Watch(ForkExiting(1), Collect());
  });
  ASSERT_TRUE(RunUntil([&] { return exits.size() == 2; }));
  EXPECT_EQ(exits[1].status, 1u);
}

TEST(Reaper, FindsChildrenThatEndedBeforeItExisted) {
  pid_t pid = ForkExiting(4);
  AwaitEnd(pid);
  asio::io_context io{1};
  Reaper reaper(io);
  uint32_t status = 0;
  reaper.Watch(pid, [&](const Exit& exit) { status = exit.status; });
  auto deadline = Clock::now() + std::chrono::seconds(60);
  while (status == 0 && Clock::now() < deadline) io.run_one_for(std::chrono::seconds(1));
  EXPECT_EQ(status, 4u);
}

TEST(Reaper, CallsNobodyOnceItIsDestroyed) {
  asio::io_context io{1};
  auto reaper = std::make_unique<Reaper>(io);
  pid_t pid = Fork([] { pause(); });
  bool called = false;
  reaper->Watch(pid, [&](const Exit&) { called = true; });
  reaper.reset();
  kill(pid, SIGKILL);
  EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
  io.poll();
  EXPECT_FALSE(called);
}

}  // namespace
}  // namespace feather
