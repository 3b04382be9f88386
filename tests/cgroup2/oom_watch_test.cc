// The cgroup2 back end on a real memory controller.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "oom/account.h"
#include "oom/logged_kills.h"
#include "oom/kernel_record.h"
#include "oom/watch.h"
#include "runtime/base/file.h"
#include "tests/support/memory_cgroup.h"

namespace feather::oom {
namespace {

using test::EatMemory;
using test::Member;
using test::MemoryCgroup;
using test::OpenDescriptors;
using test::RunUntil;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kLimit = 4 * kMiB;
constexpr size_t kTooMuch = 64 * kMiB;

// The line that names a victim's cgroup is kept back after ten of them within five seconds
// (DEFAULT_RATELIMIT_INTERVAL), which earlier tests may have used up; nothing tells when that is
// over.
void LetTheLogSpeak() { sleep(6); }

class OomWatch : public testing::Test {
 protected:
  void SetUp() override {
    auto root = test::Cgroup2MemoryRoot();
    if (!root) GTEST_SKIP() << "no cgroup2 memory controller on this machine";
    parent_.emplace(*root, absl::StrCat("feather-test-", getpid()));
    Make("leaf");
    // The loop's own descriptors, so that they are not taken for a watch's.
    asio::steady_timer timer(io_, std::chrono::seconds(0));
    timer.async_wait([](asio::error_code) {});
    asio::posix::stream_descriptor descriptor(io_);
    io_.run();
  }

  // The container's cgroup, under a name of its own: the kernel's log still has the kills of
  // earlier ones.
  void Make(absl::string_view kind) {
    static int serial = 0;
    cgroup_.emplace(parent_->path(), absl::StrCat("container", ++serial, ".", kind));
    cgroup_->Limit(kLimit);
  }

  std::unique_ptr<Watch> StartWatch(std::optional<uint64_t> baseline = std::nullopt) {
    Beginning beginning;
    beginning.kills = baseline;
    auto watch = Watch::Start(
        io_, true, cgroup_->path(), [this](const Counters& c) { kills_.push_back(c.oom_kill); },
        beginning, [this](const Explanation& kill) { explanations_.push_back(kill); });
    EXPECT_TRUE(watch.ok()) << watch.status();
    return watch.ok() ? *std::move(watch) : nullptr;
  }

  // All that the loop has to do by now.
  void Settle() {
    io_.restart();
    io_.poll();
  }

  // For longer than the kernel delays a notification.
  void RunForAWhile() {
    io_.restart();
    io_.run_for(std::chrono::milliseconds(100));
  }

  // A kill after that is in no group with one before.
  void RunForLongerThanAGroup() {
    io_.restart();
    io_.run_for(Account::kGroupWindow + std::chrono::milliseconds(100));
  }

  void KillOne(const MemoryCgroup& cgroup) {
    Member victim(cgroup, [] { EatMemory(kTooMuch); });
    EXPECT_TRUE(victim.RunToItsKill());
  }

  // Eleven processes, all killed with one that wants too much; read before each exit. The watch has
  // ended.
  std::unique_ptr<Watch> KillAGroup() {
    auto watch = StartWatch();
    std::vector<std::unique_ptr<Member>> members;
    for (int i = 0; i < 10; ++i)
      members.push_back(std::make_unique<Member>(*cgroup_, [] { pause(); }));
    Settle();
    Member victim(*cgroup_, [] { EatMemory(kTooMuch); });
    victim.Go();
    EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
    for (auto& member : members) {
      member->Wait();
      watch->Read();
    }
    victim.Wait();
    RunForAWhile();
    watch->Finish();
    return watch;
  }

  asio::io_context io_{1};
  std::optional<MemoryCgroup> parent_;
  std::optional<MemoryCgroup> cgroup_;
  std::vector<uint64_t> kills_;
  std::vector<Explanation> explanations_;
};

// Checklist: O2.
TEST_F(OomWatch, TellsTheKillOfTheInitOnceAndEndsWithIt) {
  const auto before = OpenDescriptors();
  {
    Member init(*cgroup_, [] { EatMemory(kTooMuch); });
    auto inside = OpenDescriptors();
    auto watch = StartWatch();
    Settle();
    init.Go();
    // Without a call of Finish: `populated 0` alone must end it.
    EXPECT_TRUE(RunUntil(io_, [&] { return OpenDescriptors() == inside; }));
    EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
    watch->Finish();
    RunForAWhile();
    EXPECT_EQ(kills_.size(), 1u);
    EXPECT_EQ(watch->counters().oom_kill, 1u);
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(OomWatch, TellsTheKillOfAChildAtOnceWhileTheInitLives) {
  Member init(*cgroup_, [] { pause(); });
  init.Go();
  auto watch = StartWatch();
  Settle();
  for (uint64_t i = 1; i <= 3; ++i) {
    Member exec(*cgroup_, [] {
      test::EatMemoryInAChild(kTooMuch);
      pause();
    });
    exec.Go();
    EXPECT_TRUE(RunUntil(io_, [&] { return kills_.size() >= i; }));
  }
  RunForAWhile();
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1, 2, 3}));
}

TEST_F(OomWatch, HasCountedAKillByTheTimeOfTheExit) {
  Member init(*cgroup_, [] { pause(); });
  auto watch = StartWatch();
  for (uint64_t i = 1; i <= 10; ++i) {
    KillOne(*cgroup_);
    watch->Read();
    ASSERT_EQ(kills_.size(), i);
  }
  RunForAWhile();
  EXPECT_EQ(kills_.size(), 10u);
}

TEST_F(OomWatch, TellsAKillInACgroupBelow) {
  MemoryCgroup below(cgroup_->path(), "below");
  below.Limit(kLimit / 2);
  Member init(below, [] { pause(); });
  init.Go();
  auto watch = StartWatch();
  Member victim(below, [] { EatMemory(kTooMuch); });
  victim.Go();
  EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
  victim.Wait();
  init.Kill(SIGKILL);
  init.Wait();
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomWatch, TellsAKillByThePodsLimitToTheVictimOnly) {
  parent_->Limit(kLimit);
  cgroup_->Write("memory.max", "max");
  MemoryCgroup other(parent_->path(), "other");
  Member idle(other, [] { pause(); });
  auto watch = StartWatch();
  int others = 0;
  auto second = Watch::Start(io_, true, other.path(), [&others](const Counters&) { ++others; });
  ASSERT_TRUE(second.ok());
  Member victim(*cgroup_, [] { EatMemory(kTooMuch); });
  victim.Go();
  EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
  victim.Wait();
  RunForAWhile();
  watch->Finish();
  (*second)->Finish();
  EXPECT_EQ(kills_.size(), 1u);
  EXPECT_EQ(others, 0);
}

TEST_F(OomWatch, TellsNothingWhenMaxAndHighAreReachedWithoutAKill) {
  test::PageCache cache;
  cgroup_->Limit(4 * kMiB);
  Member init(*cgroup_, [] { pause(); });
  auto watch = StartWatch();
  Settle();
  Member reader(*cgroup_, [&cache] { cache.Fill(); });
  reader.Go();
  EXPECT_EQ(reader.Wait(), 0);
  EXPECT_GT(cgroup_->Value("memory.events", "max"), 0u);
  cgroup_->Write("memory.high", absl::StrCat(2 * kMiB));
  Member second(*cgroup_, [&cache] { cache.Fill(); });
  second.Go();
  EXPECT_EQ(second.Wait(), 0);
  EXPECT_GT(cgroup_->Value("memory.events", "high"), 0u);
  RunForAWhile();
  watch->Finish();
  EXPECT_TRUE(kills_.empty());
  EXPECT_GT(watch->counters().max, 0u);
  EXPECT_GT(watch->counters().high, 0u);
}

TEST_F(OomWatch, TellsAGroupKillOnceThoughTheKernelCountsEachProcess) {
  cgroup_->Write("memory.oom.group", "1");
  for (int round = 0; round < 3; ++round) {
    kills_.clear();
    const auto watch = KillAGroup();
    EXPECT_EQ(kills_.size(), 1u);
    EXPECT_GE(watch->counters().oom_kill, 11u * static_cast<uint64_t>(round + 1));
  }
}

// Its first victim is counted twice if it has not gone by then.
TEST_F(OomWatch, TellsAGroupKillOfOneProcessOnce) {
  cgroup_->Write("memory.oom.group", "1");
  uint64_t counted = 0;
  for (int round = 0; round < 20; ++round) {
    kills_.clear();
    Member init(*cgroup_, [] { EatMemory(kTooMuch); });
    auto watch = StartWatch();
    Settle();
    init.Go();
    EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
    init.Wait();
    watch->Finish();
    RunForAWhile();
    EXPECT_EQ(kills_.size(), 1u) << "round " << round;
    counted = watch->counters().oom_kill;
  }
  RecordProperty("counted", static_cast<int>(counted));
}

TEST_F(OomWatch, TellsAGroupKillOfThePodOnce) {
  parent_->Write("memory.oom.group", "1");
  parent_->Limit(kLimit);
  cgroup_->Write("memory.max", "max");
  const auto watch = KillAGroup();
  EXPECT_EQ(kills_.size(), 1u);
  EXPECT_EQ(watch->counters().oom_group_kill, 0u);
  EXPECT_GE(watch->counters().oom_kill, 11u);
}

TEST_F(OomWatch, ExplainsEachKillOnceWithTheVictimTheLimitAndTheCounters) {
  Member init(*cgroup_, [] { pause(); });
  auto watch = StartWatch();
  Settle();
  for (size_t i = 1; i <= 8; ++i) {
    Member victim(*cgroup_, [] { EatMemory(kTooMuch); });
    watch->Read();
    const pid_t pid = victim.pid();
    // It writes the lines of its kill itself: they are there by now.
    EXPECT_TRUE(victim.RunToItsKill());
    ASSERT_TRUE(RunUntil(io_, [&] { return explanations_.size() == i; }));
    EXPECT_EQ(kills_.size(), i);
    const Explanation& kill = explanations_.back();
    EXPECT_EQ(kill.cgroup, cgroup_->path());
    EXPECT_EQ(kill.limit, absl::StrCat(kLimit));
    EXPECT_EQ(kill.counters.oom_kill, i);
    ASSERT_EQ(kill.victims.size(), 1u) << i;
    EXPECT_EQ(kill.victims[0].pid, pid);
    EXPECT_EQ(kill.victims[0].name, "oom_watch_test");
  }
  RunForAWhile();
  watch->Finish();
  EXPECT_EQ(explanations_.size(), 8u);
}

// The log is read for the last time for the first kill when the second has happened, but has not
// been counted yet.
TEST_F(OomWatch, ExplainsAKillWhoseLineWasReadBeforeItsCount) {
  Member init(*cgroup_, [] { pause(); });
  for (size_t i = 1; i <= 5; ++i) {
    auto watch = StartWatch();
    Member first(*cgroup_, [] { EatMemory(kTooMuch); });
    Member second(*cgroup_, [] { EatMemory(kTooMuch); });
    Settle();
    watch->Read();
    const pid_t pid = second.pid();
    EXPECT_TRUE(first.RunToItsKill());
    ASSERT_TRUE(RunUntil(io_, [&] { return explanations_.size() == 2 * i - 1; }));
    std::this_thread::sleep_for(kPatience);
    // Of the timers that are due the earliest is first.
    asio::steady_timer timer(io_, asio::steady_timer::time_point::min());
    timer.async_wait([&](asio::error_code) { EXPECT_TRUE(second.RunToItsKill()); });
    ASSERT_TRUE(RunUntil(io_, [&] { return explanations_.size() == 2 * i; }));
    ASSERT_EQ(explanations_.back().victims.size(), 1u) << i;
    EXPECT_EQ(explanations_.back().victims[0].pid, pid);
  }
}

TEST_F(OomWatch, EndsWhenTheContainerHasMovedToAnotherCgroup) {
  Member init(*cgroup_, [] { pause(); });
  const auto before = OpenDescriptors();
  auto watch = StartWatch();
  Settle();
  MemoryCgroup elsewhere(parent_->path(), "elsewhere");
  elsewhere.Write("cgroup.procs", absl::StrCat(init.pid()));
  EXPECT_TRUE(RunUntil(io_, [&] { return OpenDescriptors() == before; }));
  EXPECT_TRUE(kills_.empty());
}

TEST_F(OomWatch, ANormalExitTellsNothingAndEndsTheWatch) {
  Member init(*cgroup_, [] {});
  const auto before = OpenDescriptors();
  auto watch = StartWatch();
  EXPECT_NE(OpenDescriptors(), before);
  init.Go();
  EXPECT_TRUE(RunUntil(io_, [&] { return OpenDescriptors() == before; }));
  EXPECT_TRUE(kills_.empty());
}

TEST_F(OomWatch, FinishAfterTheRemovalOfTheCgroupTellsNothing) {
  const auto before = OpenDescriptors();
  auto watch = StartWatch();
  Settle();
  ASSERT_TRUE(cgroup_->Remove());
  watch->Finish();
  Settle();
  EXPECT_TRUE(kills_.empty());
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(OomWatch, FailsToStartWithoutACgroupAndLeavesNothingOpen) {
  const auto before = OpenDescriptors();
  auto watch = Watch::Start(io_, true, cgroup_->path() + "/none", [](const Counters&) {});
  EXPECT_EQ(watch.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(OomWatch, DoesNotTellEarlierKillsUnlessAskedTo) {
  KillOne(*cgroup_);
  Member init(*cgroup_, [] { pause(); });
  auto watch = StartWatch();
  RunForAWhile();
  watch->Finish();
  EXPECT_TRUE(kills_.empty());
  auto asked = StartWatch(0);
  EXPECT_TRUE(kills_.empty());
  Settle();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomWatch, TellsAKillFromBeforeItsStartOfACgroupThatIsTheContainersOwn) {
  EXPECT_EQ(CountKills(/*unified=*/true, cgroup_->path()).value(), 0u);
  EXPECT_EQ(CountKills(/*unified=*/true, cgroup_->path() + "/none").value(), 0u);
  Member init(*cgroup_, [] { EatMemory(kTooMuch); });
  const KernelLogMark mark;
  Beginning beginning;
  beginning.kills = 0;
  beginning.log = &mark;
  beginning.init = init.pid();
  EXPECT_TRUE(init.RunToItsKill());
  auto watch = Watch::Start(
      io_, true, cgroup_->path(), [this](const Counters& c) { kills_.push_back(c.oom_kill); },
      beginning, [this](const Explanation& kill) { explanations_.push_back(kill); });
  ASSERT_TRUE(watch.ok()) << watch.status();
  (*watch)->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
  // Though the process was in no list of the cgroup's any more.
  ASSERT_EQ(explanations_.size(), 1u);
  ASSERT_EQ(explanations_[0].victims.size(), 1u);
  EXPECT_EQ(explanations_[0].victims[0].pid, beginning.init);
}

// Checklist: O6.
TEST_F(OomWatch, TwoHundredContainersLeaveNoDescriptorAndNeverAnInotifyInstance) {
  // Cgroups' notifications must not need what others use up.
  const std::string limit = "/proc/sys/fs/inotify/max_user_instances";
  auto allowed = ReadFile(limit);
  ASSERT_TRUE(allowed.ok());
  ASSERT_TRUE(WriteFile(limit, "0", 0).ok());
  const auto before = OpenDescriptors();
  for (int i = 0; i < 200; ++i) {
    MemoryCgroup container(parent_->path(), absl::StrCat("container", i));
    container.Limit(kLimit);
    int told = 0;
    auto watch = Watch::Start(io_, true, container.path(), [&told](const Counters&) { ++told; });
    ASSERT_TRUE(watch.ok()) << watch.status();
    Settle();
    const bool killed = i % 10 == 0;
    if (killed) KillOne(container);
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code ignored;
      EXPECT_FALSE(
          absl::StrContains(std::filesystem::read_symlink(entry, ignored).string(), "inotify"));
    }
    if (i % 3 == 0) (*watch)->Finish();
    if (i % 3 == 1) (*watch)->Read();
    if (killed) {
      EXPECT_TRUE(RunUntil(io_, [&told] { return told == 1; }));
    }
    EXPECT_EQ(told, killed ? 1 : 0);
  }
  Settle();
  EXPECT_EQ(OpenDescriptors(), before);
  EXPECT_TRUE(WriteFile(limit, *allowed, 0).ok());
}

// systemd removes a scope when it is empty, here before the watch has read again.
class OomScope : public OomWatch {
 protected:
  void SetUp() override {
    OomWatch::SetUp();
    if (IsSkipped()) return;
    ASSERT_TRUE(cgroup_->Remove());
    Make("scope");
    Begin();
  }

  void Begin() {
    watch_ = StartWatch();
    Settle();
  }

  // Another container's cgroup, with a kill.
  std::unique_ptr<MemoryCgroup> KilledSibling() {
    auto sibling = std::make_unique<MemoryCgroup>(parent_->path(), "sibling.scope");
    sibling->Limit(kLimit);
    KillOne(*sibling);
    return sibling;
  }

  // The container's init and the scope end, and the sibling with its kill is gone: the counters
  // cannot tell.
  void EndUnseen(Member& init) {
    init.Kill(SIGKILL);
    init.Wait();
    ASSERT_TRUE(cgroup_->Remove());
    watch_->Finish();
  }

  // The kernel names the cgroups of ten kills in five seconds. Until it would do so again.
  void AwaitNamesInTheLog() {
    bool named = false;
    for (int attempt = 0; attempt < 60 && !named; ++attempt) {
      MemoryCgroup cgroup(parent_->path(), "probe");
      cgroup.Limit(kLimit);
      LoggedKills log(cgroup.path());
      KillOne(cgroup);
      log.Read();
      named = !log.named().empty();
      if (!named) usleep(200'000);
    }
    ASSERT_TRUE(named);
  }
  std::unique_ptr<Watch> watch_;
};

// Checklist: O4.
TEST_F(OomScope, TellsTheKillOfAScopeThatIsGoneByItsParentsCount) {
  KillOne(*cgroup_);
  ASSERT_TRUE(cgroup_->Remove());
  watch_->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
  RunForAWhile();
  EXPECT_EQ(kills_.size(), 1u);
}

TEST_F(OomScope, DoesNotTellAgainWhatItHasReadAlready) {
  KillOne(*cgroup_);
  watch_->Read();
  EXPECT_EQ(kills_.size(), 1u);
  ASSERT_TRUE(cgroup_->Remove());
  watch_->Finish();
  EXPECT_EQ(kills_.size(), 1u);
}

TEST_F(OomScope, TellsTheKillsOfSiblingsFromItsOwn) {
  const auto sibling = KilledSibling();
  ASSERT_TRUE(cgroup_->Remove());
  watch_->Finish();
  EXPECT_TRUE(kills_.empty());
}

TEST_F(OomScope, TellsNothingWhenASiblingThatIsGoneMayHaveBeenTheVictim) {
  {
    MemoryCgroup sibling(parent_->path(), "sibling.scope");
    sibling.Limit(kLimit);
    KillOne(*cgroup_);
    watch_->Read();
    EXPECT_EQ(kills_.size(), 1u);
    KillOne(sibling);
  }
  ASSERT_TRUE(cgroup_->Remove());
  watch_->Finish();
  EXPECT_EQ(kills_.size(), 1u);
}

TEST_F(OomScope, TellsTheKillOfItsInitByTheKernelsLogWhenASiblingIsGoneToo) {
  Member init(*cgroup_, [] { EatMemory(kTooMuch); });
  Begin();
  {
    const auto sibling = KilledSibling();
    watch_->Read();
    EXPECT_TRUE(init.RunToItsKill());
  }
  ASSERT_TRUE(cgroup_->Remove());
  watch_->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomScope, TellsTheKillOfALaterProcessByTheKernelsLogWhenASiblingIsGoneToo) {
  LetTheLogSpeak();
  Member init(*cgroup_, [] { pause(); });
  AwaitNamesInTheLog();
  Begin();
  {
    const auto sibling = KilledSibling();
    watch_->Read();
    // Nobody has seen it in the cgroup.
    KillOne(*cgroup_);
  }
  EndUnseen(init);
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomScope, TellsTheKillOfAProcessItHasSeenByTheKernelsLogWhenASiblingIsGoneToo) {
  Member init(*cgroup_, [] { pause(); });
  Begin();
  {
    const auto sibling = KilledSibling();
    Member exec(*cgroup_, [] { EatMemory(kTooMuch); });
    watch_->Read();
    EXPECT_TRUE(exec.RunToItsKill());
  }
  EndUnseen(init);
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomScope, TheKernelsLogDoesNotTellAKillThatWasCounted) {
  LetTheLogSpeak();
  for (const bool long_ago : {false, true}) {
    kills_.clear();
    Member init(*cgroup_, [] { pause(); });
    AwaitNamesInTheLog();
    Begin();
    {
      const auto sibling = KilledSibling();
      KillOne(*cgroup_);
      watch_->Read();
      EXPECT_EQ(kills_.size(), 1u);
      io_.restart();
      if (long_ago) io_.run_for(2 * kPatience);
      KillOne(*sibling);
    }
    EndUnseen(init);
    EXPECT_EQ(kills_.size(), 1u);
    watch_.reset();
    Make("scope");
  }
}

// The rest of the group is counted after the scope has last been read, or not at all.
TEST_F(OomScope, TellsAGroupKillOnceThoughTheScopeIsGoneBeforeItWasCounted) {
  for (int round = 0; round < 20; ++round) {
    kills_.clear();
    cgroup_->Write("memory.oom.group", "1");
    Member init(*cgroup_, [] { EatMemory(kTooMuch); });
    Begin();
    init.Go();
    // Sometimes the loop is in time for the first of it.
    io_.restart();
    io_.run_for(std::chrono::milliseconds(round));
    init.Wait();
    ASSERT_TRUE(cgroup_->Remove());
    watch_->Finish();
    RunForAWhile();
    EXPECT_EQ(kills_.size(), 1u) << "round " << round;
    watch_.reset();
    Make("scope");
  }
}

TEST_F(OomScope, AForeignKillThatIsSeenInTimeIsNotTakenForItsOwnLater) {
  KilledSibling();
  // The loop turns: the parent's file wakes the watch while its own cgroup still answers.
  RunForAWhile();
  ASSERT_TRUE(cgroup_->Remove());
  watch_->Finish();
  EXPECT_TRUE(kills_.empty());
}

// The kernel counts in the victim's cgroup alone then.
class OomLocalEvents : public OomWatch {
 protected:
  void SetUp() override {
    OomWatch::SetUp();
    if (IsSkipped()) return;
    local_.emplace();
    ASSERT_TRUE(local_->mounted()) << strerror(errno);
  }

  std::unique_ptr<Watch> StartLocalWatch() {
    Beginning beginning;
    beginning.local_events = true;
    auto watch = Watch::Start(
        io_, true, cgroup_->path(), [this](const Counters& c) { kills_.push_back(c.oom_kill); },
        beginning);
    EXPECT_TRUE(watch.ok()) << watch.status();
    return watch.ok() ? *std::move(watch) : nullptr;
  }

  std::optional<test::LocalEvents> local_;
};

TEST_F(OomLocalEvents, TheKernelCountsAndSignalsAKillInTheVictimsCgroupAlone) {
  MemoryCgroup below(cgroup_->path(), "below");
  below.Limit(kLimit / 2);
  KillOne(below);
  EXPECT_EQ(below.Value("memory.events", "oom_kill"), 1u);
  EXPECT_EQ(below.Value("memory.events.local", "oom_kill"), 1u);
  EXPECT_EQ(cgroup_->Value("memory.events", "oom_kill"), 0u);
  EXPECT_EQ(CountKills(/*unified=*/true, cgroup_->path()).value(), 1u);
  local_.reset();
  KillOne(below);
  EXPECT_EQ(cgroup_->Value("memory.events", "oom_kill"), 1u);
  EXPECT_EQ(cgroup_->Value("memory.events.local", "oom_kill"), 0u);
  EXPECT_EQ(CountKills(/*unified=*/true, cgroup_->path()).value(), 2u);
}

TEST_F(OomLocalEvents, TellsTheKillOfAChildAtOnce) {
  Member init(*cgroup_, [] { pause(); });
  auto watch = StartLocalWatch();
  Settle();
  Member parent(*cgroup_, [] {
    test::EatMemoryInAChild(kTooMuch);
    pause();
  });
  parent.Go();
  EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomLocalEvents, TellsEachKillInACgroupBelowOnceWithTheNextReading) {
  LetTheLogSpeak();
  MemoryCgroup above(cgroup_->path(), "above"), below(above.path(), "below");
  MemoryCgroup goes(cgroup_->path(), "goes"), other(parent_->path(), "other");
  for (MemoryCgroup* cgroup : {&below, &goes, &other}) cgroup->Limit(kLimit / 2);
  auto watch = StartLocalWatch();
  Settle();
  KillOne(below);
  watch->Read();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
  KillOne(other);
  watch->Read();
  EXPECT_EQ(kills_.size(), 1u);
  RunForLongerThanAGroup();
  KillOne(goes);
  ASSERT_TRUE(goes.Remove());
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(watch->counters().oom_kill, 2u);
}

TEST_F(OomLocalEvents, TellsTheKillInACgroupBelowByTheContainersLimitAtOnce) {
  MemoryCgroup below(cgroup_->path(), "below");
  Member init(below, [] { pause(); });
  auto watch = StartLocalWatch();
  Settle();
  Member victim(below, [] { EatMemory(kTooMuch); });
  victim.Go();
  EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

// A kill's `oom` may come before the kill of an earlier one has been read.
TEST_F(OomLocalEvents, GoesOnReadingForTheLastSignalAfterTheKillOfAnother) {
  MemoryCgroup below(cgroup_->path(), "below"), beside(cgroup_->path(), "beside");
  below.Limit(kLimit / 2);
  // Raises the container's `oom` each time, with nobody to be killed.
  int gates[2];
  ASSERT_EQ(pipe(gates), 0) << strerror(errno);
  Member signaller(beside, [&gates] {
    const int score = open("/proc/self/oom_score_adj", O_WRONLY);
    if (write(score, "-1000", 5) != 5) _exit(1);
    void* memory =
        mmap(nullptr, kTooMuch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char go = 0;
    while (read(gates[0], &go, 1) == 1) {
      if (madvise(memory, kTooMuch, MADV_POPULATE_WRITE) == 0) _exit(2);
      madvise(memory, kTooMuch, MADV_DONTNEED);
    }
    _exit(3);
  });
  signaller.Go();
  const auto signal = [&] {
    const uint64_t before = cgroup_->Value("memory.events.local", "oom");
    ASSERT_EQ(write(gates[1], "", 1), 1);
    while (cgroup_->Value("memory.events.local", "oom") == before) usleep(100);
  };
  bool in_time = false;
  for (int i = 0; i < 20 && !in_time; ++i) {
    auto watch = StartLocalWatch();
    Settle();
    const uint64_t counted = watch->counters().oom_kill;
    signal();
    RunForAWhile();
    KillOne(below);
    const auto last = Clock::now();
    signal();
    EXPECT_TRUE(RunUntil(io_, [&] { return watch->counters().oom_kill == counted + 1; }));
    // For longer than the kernel's log is asked for that one.
    RunForAWhile();
    RunForAWhile();
    KillOne(below);
    in_time = Clock::now() - last < std::chrono::milliseconds(900);
    if (!in_time) continue;
    EXPECT_TRUE(RunUntil(
        io_, [&] { return watch->counters().oom_kill == counted + 2; }, std::chrono::seconds(10)));
  }
  EXPECT_TRUE(in_time);
  for (const int gate : gates) close(gate);
}

// It is signalled in the victim's cgroup and in the one at its limit, which is not the container's.
TEST_F(OomLocalEvents, TellsTheKillInACgroupBelowByThePodsLimitWithTheNextReading) {
  parent_->Limit(kLimit);
  cgroup_->Write("memory.max", "max");
  MemoryCgroup below(cgroup_->path(), "below");
  Member init(below, [] { pause(); });
  auto watch = StartLocalWatch();
  Settle();
  KillOne(below);
  EXPECT_EQ(cgroup_->Value("memory.events.local", "oom"), 0u);
  EXPECT_EQ(cgroup_->Value("memory.events.local", "oom_kill"), 0u);
  watch->Read();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomLocalEvents, TellsTheKillOfAProcessItHasSeenThoughTheScopeIsGone) {
  ASSERT_TRUE(cgroup_->Remove());
  Make("scope");
  Member init(*cgroup_, [] { EatMemory(kTooMuch); });
  auto watch = StartLocalWatch();
  Settle();
  EXPECT_TRUE(init.RunToItsKill());
  ASSERT_TRUE(cgroup_->Remove());
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

}  // namespace
}  // namespace feather::oom
