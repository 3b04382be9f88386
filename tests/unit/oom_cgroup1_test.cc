// The cgroup1 back end on this machine's own memory controller.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "oom/kernel_record.h"
#include "oom/logged_kills.h"
#include "oom/watch.h"
#include "runtime/base/directory_tree.h"
#include "runtime/base/file.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/mount_namespace.h"
#include "tests/support/shim_bundle.h"

namespace feather::oom {
namespace {

using test::EatMemory;
using test::Member;
using test::MemoryCgroup;
using test::OpenDescriptors;
using test::RunUntil;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kLimit = 8 * kMiB;
constexpr size_t kTooMuch = 64 * kMiB;

// While it lives this process can open nothing.
class NoDescriptors {
 public:
  NoDescriptors() {
    const std::vector<int> open = OpenDescriptors();
    EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &before_), 0);
    rlimit none = before_;
    for (none.rlim_cur = 0;
         std::count(open.begin(), open.end(), static_cast<int>(none.rlim_cur)) > 0;)
      ++none.rlim_cur;
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;
  ~NoDescriptors() { EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before_), 0); }

 private:
  rlimit before_{};
};

class OomCgroup1 : public testing::Test {
 protected:
  void SetUp() override {
    auto root = test::Cgroup1MemoryRoot();
    if (!root) GTEST_SKIP() << "no cgroup1 memory controller on this machine";
    // Under a name of its own: the kernel's log still has the kills of earlier tests.
    static int serial = 0;
    cgroup_.emplace(*root, absl::StrCat("feather-test-", getpid(), "-", ++serial));
    cgroup_->Limit(kLimit);
    // The loop's own descriptors, so that they are not taken for a watch's.
    asio::steady_timer timer(io_, std::chrono::seconds(0));
    timer.async_wait([](asio::error_code) {});
    asio::posix::stream_descriptor descriptor(io_);
    io_.run();
  }

  std::unique_ptr<Watch> StartWatch(std::optional<uint64_t> baseline = std::nullopt) {
    Beginning beginning;
    beginning.kills = baseline;
    auto watch = Watch::Start(
        io_, false, cgroup_->path(), [this](const Counters& c) { kills_.push_back(c.oom_kill); },
        beginning, [this](const Explanation& kill) { explanations_.push_back(kill); });
    EXPECT_TRUE(watch.ok()) << watch.status();
    return watch.ok() ? *std::move(watch) : nullptr;
  }

  // All that the loop has to do by now.
  void Settle() {
    io_.restart();
    io_.poll();
  }

  void KillOne(const MemoryCgroup& cgroup) {
    Member victim(cgroup, [] { EatMemory(kTooMuch); });
    EXPECT_TRUE(victim.RunToItsKill());
  }

  asio::io_context io_{1};
  std::optional<MemoryCgroup> cgroup_;
  std::vector<uint64_t> kills_;
  std::vector<Explanation> explanations_;
};

// Checklist: O8.
TEST_F(OomCgroup1, TellsAKillOfAChildOnceWhileItsInitLives) {
  Member init(*cgroup_, [] { pause(); });
  init.Go();
  auto watch = StartWatch();
  Member parent(*cgroup_, [] {
    test::EatMemoryInAChild(kTooMuch);
    pause();
  });
  parent.Go();
  EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
  watch->Read();
  watch->Finish();
  Settle();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomCgroup1, HasCountedAKillByTheTimeOfTheExit) {
  auto watch = StartWatch();
  for (uint64_t i = 1; i <= 20; ++i) {
    KillOne(*cgroup_);
    watch->Read();
    ASSERT_EQ(kills_.size(), i);
  }
  watch->Finish();
  Settle();
  EXPECT_EQ(kills_.size(), 20u);
}

TEST_F(OomCgroup1, TellsNothingWhenTheCgroupIsRemovedThoughTheKernelSignalsIt) {
  const auto before = OpenDescriptors();
  auto watch = StartWatch();
  // The kernel's signal, seen by an eventfd of the test's.
  UniqueFd signal(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  auto control = OpenFile(cgroup_->path() + "/memory.oom_control", O_RDONLY);
  ASSERT_TRUE(control.ok());
  cgroup_->Write("cgroup.event_control", absl::StrCat(signal.get(), " ", control->get()));
  ASSERT_TRUE(cgroup_->Remove());
  uint64_t signals = 0;
  EXPECT_TRUE(RunUntil(
      io_, [&] { return read(signal.get(), &signals, sizeof signals) == sizeof signals; }));
  char byte = 0;
  EXPECT_EQ(pread(control->get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ENODEV);
  signal.Reset();
  control->Reset();
  EXPECT_TRUE(RunUntil(io_, [&] { return OpenDescriptors() == before; }));
  EXPECT_TRUE(kills_.empty());
  watch->Read();
  watch->Finish();
  EXPECT_TRUE(kills_.empty());
}

TEST_F(OomCgroup1, TheKernelSignalsAllBelowALimitAndCountsInTheVictimsCgroupAlone) {
  MemoryCgroup below(cgroup_->path(), "below"), beside(cgroup_->path(), "beside");
  UniqueFd signal(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  auto control = OpenFile(beside.path() + "/memory.oom_control", O_RDONLY);
  ASSERT_TRUE(control.ok());
  beside.Write("cgroup.event_control", absl::StrCat(signal.get(), " ", control->get()));
  KillOne(below);
  uint64_t signals = 0;
  EXPECT_EQ(read(signal.get(), &signals, sizeof signals), static_cast<ssize_t>(sizeof signals));
  EXPECT_EQ(below.Value("memory.oom_control", "oom_kill"), 1u);
  EXPECT_EQ(beside.Value("memory.oom_control", "oom_kill"), 0u);
  EXPECT_EQ(cgroup_->Value("memory.oom_control", "oom_kill"), 0u);
}

// Both are signalled.
TEST_F(OomCgroup1, TellsAKillByThePodsLimitToTheVictimOnly) {
  MemoryCgroup victims(cgroup_->path(), "victims"), other(cgroup_->path(), "other");
  Member idle(other, [] { pause(); });
  std::vector<std::string> told;
  const auto watch = [&](const MemoryCgroup& cgroup) {
    auto started = Watch::Start(io_, false, cgroup.path(),
                                [&](const Counters&) { told.push_back(cgroup.path()); });
    EXPECT_TRUE(started.ok()) << started.status();
    return *std::move(started);
  };
  auto first = watch(victims), second = watch(other);
  Member parent(victims, [] {
    test::EatMemoryInAChild(kTooMuch);
    pause();
  });
  parent.Go();
  EXPECT_TRUE(RunUntil(io_, [&] { return !told.empty(); }));
  first->Finish();
  second->Finish();
  Settle();
  EXPECT_EQ(told, (std::vector<std::string>{victims.path()}));
}

TEST_F(OomCgroup1, TellsNothingWhenMemoryIsShortButNobodyIsKilled) {
  cgroup_->Write("memory.oom_control", "1");
  auto watch = StartWatch();
  Member hungry(*cgroup_, [] { EatMemory(kTooMuch); });
  hungry.Go();
  EXPECT_TRUE(
      RunUntil(io_, [this] { return cgroup_->Value("memory.oom_control", "under_oom") == 1; }));
  hungry.Kill(SIGKILL);
  hungry.Wait();
  Settle();
  watch->Finish();
  Settle();
  EXPECT_TRUE(kills_.empty());
}

TEST_F(OomCgroup1, TellsNothingWhenPageCacheIsReclaimedAtTheLimit) {
  test::PageCache cache;
  auto watch = StartWatch();
  Member reader(*cgroup_, [&cache] { cache.Fill(); });
  reader.Go();
  EXPECT_EQ(reader.Wait(), 0);
  // More went through than the limit holds.
  EXPECT_GT(std::stoull(cgroup_->Read("memory.max_usage_in_bytes")), kLimit - kMiB);
  Settle();
  watch->Finish();
  EXPECT_TRUE(kills_.empty());
}

// The log is read for the last time for the first kill when the second has happened, but has not
// been counted yet.
TEST_F(OomCgroup1, ExplainsAKillWhoseLineWasReadBeforeItsCount) {
  Member init(*cgroup_, [] { pause(); });
  auto watch = StartWatch();
  Member first(*cgroup_, [] { EatMemory(kTooMuch); });
  Member second(*cgroup_, [] { EatMemory(kTooMuch); });
  watch->Read();
  std::vector<pid_t> pids;
  for (Member* victim : {&first, &second}) pids.push_back(victim->pid());
  EXPECT_TRUE(first.RunToItsKill());
  ASSERT_TRUE(RunUntil(io_, [&] { return explanations_.size() == 1; }));
  std::this_thread::sleep_for(kPatience);
  // Of the timers that are due the earliest is first.
  asio::steady_timer timer(io_, asio::steady_timer::time_point::min());
  timer.async_wait([&](asio::error_code) { EXPECT_TRUE(second.RunToItsKill()); });
  ASSERT_TRUE(RunUntil(io_, [&] { return explanations_.size() == 2; }));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(explanations_[i].cgroup, cgroup_->path());
    EXPECT_EQ(explanations_[i].limit, absl::StrCat(kLimit));
    EXPECT_EQ(explanations_[i].counters.oom_kill, i + 1);
    ASSERT_EQ(explanations_[i].victims.size(), 1u);
    EXPECT_EQ(explanations_[i].victims[0].pid, pids[i]);
    EXPECT_EQ(explanations_[i].victims[0].name, "oom_cgroup1_tes");
  }
}

// Directories stand for cgroups: nothing signals, so that it is this reading which finds the second
// count.
TEST_F(OomCgroup1, ReadsOnceMoreWhenTheLinesOfAKillAreThere) {
  test::TestDirectory files;
  const auto count = [&files](int kills) {
    const std::string text = absl::StrCat("under_oom 0\noom_kill ", kills, "\n");
    EXPECT_TRUE(WriteFile(files.path() + "/memory.oom_control", text, 0644).ok());
  };
  count(0);
  EXPECT_TRUE(WriteFile(files.path() + "/cgroup.event_control", "", 0644).ok());
  auto watch = Watch::Start(io_, false, files.path(),
                            [this](const Counters& c) { kills_.push_back(c.oom_kill); });
  ASSERT_TRUE(watch.ok()) << watch.status();
  Settle();
  count(1);
  (*watch)->Read();
  count(2);
  EXPECT_TRUE(RunUntil(
      io_, [this] { return kills_.size() == 2; }, std::chrono::seconds(10)));
}

TEST_F(OomCgroup1, ALogThatIsOpenedLateTellsNobodyWhatWasBefore) {
  Member victim(*cgroup_, [] { EatMemory(kTooMuch); });
  EXPECT_TRUE(victim.RunToItsKill());
  std::optional<LoggedKills> first;
  {
    const NoDescriptors none;
    first.emplace(cgroup_->path());
  }
  LoggedKills second(cgroup_->path());
  for (LoggedKills* log : {&*first, &second}) {
    log->Read();
    EXPECT_TRUE(log->named().empty());
    for (const LoggedKills::Unnamed& kill : log->unnamed())
      EXPECT_NE(kill.victim.pid, victim.pid());
  }
}

TEST_F(OomCgroup1, KillsBetweenTwoReadingsShareOneReport) {
  auto watch = StartWatch();
  KillOne(*cgroup_);
  KillOne(*cgroup_);
  watch->Read();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{2}));
  Settle();
  watch->Finish();
  EXPECT_EQ(kills_.size(), 1u);
}

// A slow console keeps the kernel for long between signal and count. Files stand for the cgroup's,
// since its own kernel cannot be held up there.
TEST_F(OomCgroup1, TellsAKillThatWasSignalledBeforeTheOneBeforeItWasRead) {
  test::TestDirectory files;
  const auto count = [&files](int kills) {
    const std::string text =
        absl::StrCat("oom_kill_disable 0\nunder_oom 0\noom_kill ", kills, "\n");
    EXPECT_TRUE(WriteFile(files.path() + "/memory.oom_control", text, 0644).ok());
  };
  count(0);
  EXPECT_TRUE(WriteFile(files.path() + "/cgroup.event_control", "", 0644).ok());
  auto watch = Watch::Start(io_, false, files.path(),
                            [this](const Counters& c) { kills_.push_back(c.oom_kill); });
  ASSERT_TRUE(watch.ok()) << watch.status();
  const std::string registered = ReadFile(files.path() + "/cgroup.event_control").value_or("");
  const int signal = std::stoi(registered);
  Settle();
  ASSERT_EQ(eventfd_write(signal, 1), 0);
  count(1);
  ASSERT_EQ(eventfd_write(signal, 1), 0);
  ASSERT_TRUE(RunUntil(io_, [this] { return kills_.size() == 1; }));
  count(2);
  EXPECT_TRUE(RunUntil(io_, [this] { return kills_.size() == 2; }));
  // The next one's signal starts the readings anew.
  ASSERT_EQ(eventfd_write(signal, 1), 0);
  Settle();
  count(3);
  EXPECT_TRUE(RunUntil(io_, [this] { return kills_.size() == 3; }));
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1, 2, 3}));
}

TEST_F(OomCgroup1, CountsCgroupsBelowAndKeepsTheCountWhenTheyAreRemoved) {
  auto watch = StartWatch();
  {
    MemoryCgroup below(cgroup_->path(), "below");
    below.Limit(kLimit / 2);
    KillOne(below);
    watch->Read();
    EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
  }
  watch->Read();
  EXPECT_EQ(kills_.size(), 1u);
  {
    MemoryCgroup again(cgroup_->path(), "below");
    again.Limit(kLimit / 2);
    watch->Read();
    EXPECT_EQ(kills_.size(), 1u);
    KillOne(again);
    watch->Finish();
  }
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1, 2}));
}

TEST_F(OomCgroup1, TellsTheKillInACgroupBelowByTheContainersLimitAtOnce) {
  auto watch = StartWatch();
  Settle();
  // The watch has not seen it when it is signalled.
  MemoryCgroup below(cgroup_->path(), "below");
  Member parent(below, [] {
    test::EatMemoryInAChild(kTooMuch);
    pause();
  });
  parent.Go();
  EXPECT_TRUE(RunUntil(io_, [this] { return !kills_.empty(); }));
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

// Directories stand for cgroups, since a thousand of these take the kernel long.
TEST_F(OomCgroup1, TellsAKillOnceThoughItsCgroupIsLeftOutOfAReadingForWantOfRoom) {
  test::TestDirectory files;
  const auto make = [&files](const std::string& name, int kills) {
    const std::string directory = files.path() + name;
    mkdir(directory.c_str(), 0755);
    const std::string text = absl::StrCat("under_oom 0\noom_kill ", kills, "\n");
    EXPECT_TRUE(WriteFile(directory + "/memory.oom_control", text, 0644).ok());
  };
  make("", 0);
  EXPECT_TRUE(WriteFile(files.path() + "/cgroup.event_control", "", 0644).ok());
  auto watch = Watch::Start(io_, false, files.path(),
                            [this](const Counters& c) { kills_.push_back(c.oom_kill); });
  ASSERT_TRUE(watch.ok()) << watch.status();
  make("/near", 0);
  make("/near/far", 3);
  (*watch)->Read();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{3}));
  for (size_t i = 0; i < kMostCgroups; ++i) make(absl::StrCat("/", i), 0);
  (*watch)->Read();
  for (size_t i = 0; i < kMostCgroups; ++i)
    std::filesystem::remove_all(absl::StrCat(files.path(), "/", i));
  (*watch)->Read();
  EXPECT_EQ(kills_.size(), 1u);
  make("/near/far", 4);
  (*watch)->Read();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{3, 4}));
}

// The count of a cgroup that cannot be read once is not new to the reading after that.
TEST_F(OomCgroup1, TellsAKillOnceThoughThereAreNoDescriptorsForAWhile) {
  MemoryCgroup below(cgroup_->path(), "below"), deeper(below.path(), "deeper");
  auto watch = StartWatch();
  KillOne(below);
  KillOne(deeper);
  watch->Read();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{2}));
  KillOne(*cgroup_);
  {
    const NoDescriptors none;
    watch->Read();
  }
  EXPECT_EQ(kills_, (std::vector<uint64_t>{2, 3}));
  watch->Read();
  EXPECT_EQ(kills_.size(), 2u);
  KillOne(deeper);
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{2, 3, 4}));
}

// As of a kernel with PREEMPT_RT: whoever registers for the signal is refused.
class OomCgroup1WithoutSignal : public OomCgroup1 {
 protected:
  void SetUp() override {
    OomCgroup1::SetUp();
    if (IsSkipped()) return;
    ASSERT_TRUE(mounts_.entered()) << strerror(errno);
    const std::string control = cgroup_->path() + "/cgroup.event_control";
    Cover(control, control);
    ASSERT_EQ(mount(nullptr, control.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr),
              0)
        << strerror(errno);
  }

  static void Cover(const std::string& path, const std::string& by) {
    ASSERT_EQ(mount(by.c_str(), path.c_str(), nullptr, MS_BIND, nullptr), 0) << strerror(errno);
  }

  test::MountNamespace mounts_;
};

TEST_F(OomCgroup1WithoutSignal, TellsAKillWhenTheKernelsLogHasIt) {
  Member init(*cgroup_, [] { pause(); });
  init.Go();
  const auto before = OpenDescriptors();
  auto watch = StartWatch();
  Settle();
  for (uint64_t i = 1; i <= 3; ++i) {
    Member parent(*cgroup_, [] {
      test::EatMemoryInAChild(kTooMuch);
      pause();
    });
    parent.Go();
    EXPECT_TRUE(RunUntil(io_, [&] { return kills_.size() >= i; }));
  }
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1, 2, 3}));
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(OomCgroup1WithoutSignal, HasCountedAKillByTheTimeOfTheExitThoughThereIsNoLogEither) {
  Cover("/dev/kmsg", "/dev/null");
  const auto before = OpenDescriptors();
  auto watch = StartWatch();
  for (uint64_t i = 1; i <= 3; ++i) {
    KillOne(*cgroup_);
    Settle();
    watch->Read();
    ASSERT_EQ(kills_.size(), i);
  }
  watch->Finish();
  EXPECT_EQ(kills_.size(), 3u);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(OomCgroup1, TellsTheKillOfAProcessItHasSeenThoughTheCgroupIsGone) {
  Member init(*cgroup_, [] { EatMemory(kTooMuch); });
  auto watch = StartWatch();
  Settle();
  EXPECT_TRUE(init.RunToItsKill());
  ASSERT_TRUE(cgroup_->Remove());
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
  Settle();
  EXPECT_EQ(kills_.size(), 1u);
}

TEST_F(OomCgroup1, DoesNotTellAgainWhatItHasReadWhenTheCgroupIsGone) {
  Member init(*cgroup_, [] { EatMemory(kTooMuch); });
  auto watch = StartWatch();
  Settle();
  EXPECT_TRUE(init.RunToItsKill());
  watch->Read();
  EXPECT_EQ(kills_.size(), 1u);
  ASSERT_TRUE(cgroup_->Remove());
  watch->Finish();
  EXPECT_EQ(kills_.size(), 1u);
}

TEST_F(OomCgroup1, FindsTheKillOfAnInitWhoseCgroupIsGone) {
  for (const bool killed : {true, false}) {
    Member init(*cgroup_, [] { EatMemory(kTooMuch); });
    const pid_t pid = init.pid();
    KernelLogMark mark;
    if (killed) {
      EXPECT_TRUE(init.RunToItsKill());
    } else {
      // The log has another process' kill.
      KillOne(*cgroup_);
      init.Kill(SIGKILL);
      init.Wait();
    }
    const auto kill = FindKillOfInit(cgroup_->path(), mark, pid);
    ASSERT_EQ(kill.has_value(), killed);
    if (!killed) continue;
    ASSERT_EQ(kill->victims.size(), 1u);
    EXPECT_EQ(kill->victims[0].pid, pid);
    EXPECT_EQ(kill->victims[0].name, "oom_cgroup1_tes");
  }
}

// A cgroup below that is gone by the next reading.
class OomCgroup1Below : public OomCgroup1 {
 protected:
  void SetUp() override {
    OomCgroup1::SetUp();
    if (IsSkipped()) return;
    witness_.emplace(cgroup_->path());
    watch_ = StartWatch();
    Settle();
  }

  // The kernel names the cgroups of ten kills in five seconds on the whole machine: `kill` is done
  // again until it did. The watch has read when this ends.
  void UntilItIsNamed(const std::function<void()>& kill) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    while (!HasFailure() && std::chrono::steady_clock::now() < end) {
      witness_->named().clear();
      kills_.clear();
      kill();
      witness_->Read();
      watch_->Read();
      if (!witness_->named().empty()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
    ADD_FAILURE() << "the kernel has named none";
  }
  void ExpectToldOnce() {
    const std::vector<uint64_t> told = kills_;
    EXPECT_EQ(told.size(), 1u);
    watch_->Read();
    Settle();
    watch_->Finish();
    EXPECT_EQ(kills_, told);
  }

  std::optional<LoggedKills> witness_;
  std::unique_ptr<Watch> watch_;
};

TEST_F(OomCgroup1Below, TellsTheKillInOneThatWasNeverSeen) {
  UntilItIsNamed([this] {
    MemoryCgroup below(cgroup_->path(), "a\\x2db");
    KillOne(below);
  });
  ExpectToldOnce();
}

TEST_F(OomCgroup1Below, TellsTheKillInOneThatWasSeen) {
  UntilItIsNamed([this] {
    MemoryCgroup below(cgroup_->path(), "below"), deeper(below.path(), "deeper");
    watch_->Read();
    EXPECT_TRUE(kills_.empty());
    KillOne(deeper);
  });
  ExpectToldOnce();
}

// Whether the kernel names the cgroup or not.
TEST_F(OomCgroup1Below, TellsTheKillOfAProcessThatWasSeenThere) {
  for (uint64_t i = 1; i <= 15; ++i) {
    {
      MemoryCgroup below(cgroup_->path(), "below");
      Member victim(below, [] { EatMemory(kTooMuch); });
      watch_->Read();
      EXPECT_EQ(kills_.size(), i - 1);
      EXPECT_TRUE(victim.RunToItsKill());
    }
    watch_->Read();
    ASSERT_EQ(kills_.size(), i);
    watch_->Read();
    ASSERT_EQ(kills_.size(), i);
  }
}

TEST_F(OomCgroup1Below, TellsTheKillThoughAnotherHasTakenItsName) {
  std::optional<MemoryCgroup> again;
  UntilItIsNamed([&] {
    again.reset();
    {
      MemoryCgroup below(cgroup_->path(), "below");
      KillOne(below);
    }
    again.emplace(cgroup_->path(), "below");
  });
  EXPECT_EQ(kills_.size(), 1u);
  KillOne(*again);
  watch_->Read();
  EXPECT_EQ(kills_.size(), 2u);
  again.reset();
  watch_->Finish();
  EXPECT_EQ(kills_.size(), 2u);
}

// Of such a process the kernel's log names another thread as killed.
TEST_F(OomCgroup1Below, TellsTheKillOfAProcessWhoseFirstThreadHasEnded) {
  std::optional<MemoryCgroup> again;
  UntilItIsNamed([&] {
    again.reset();
    {
      MemoryCgroup below(cgroup_->path(), "below");
      Member victim(below, [] {
        std::thread([] {
          // Until the first thread has ended: it is no zombie before.
          char state = 0;
          while (state != 'Z') {
            const std::string stat =
                ReadFile(absl::StrCat("/proc/", getpid(), "/stat")).value_or("");
            state = stat[stat.rfind(") ") + 2];
          }
          EatMemory(kTooMuch);
        }).detach();
        syscall(SYS_exit, 0);
      });
      EXPECT_TRUE(victim.RunToItsKill());
    }
    again.emplace(cgroup_->path(), "below");
  });
  ExpectToldOnce();
}

TEST_F(OomCgroup1Below, TellsAKillOnceThatItHasCountedWhenItIsGone) {
  for (uint64_t i = 1; i <= 15; ++i) {
    {
      MemoryCgroup below(cgroup_->path(), "below");
      KillOne(below);
      watch_->Read();
      ASSERT_EQ(kills_.size(), i);
    }
    watch_->Read();
    ASSERT_EQ(kills_.size(), i);
  }
}

TEST_F(OomCgroup1Below, TellsAKillOnceThoughItIsRenamed) {
  MemoryCgroup below(cgroup_->path(), "below");
  KillOne(below);
  watch_->Read();
  EXPECT_EQ(kills_.size(), 1u);
  const std::string renamed = cgroup_->path() + "/renamed";
  ASSERT_EQ(rename(below.path().c_str(), renamed.c_str()), 0) << strerror(errno);
  watch_->Read();
  EXPECT_EQ(kills_.size(), 1u);
  ASSERT_EQ(rename(renamed.c_str(), below.path().c_str()), 0) << strerror(errno);
  ExpectToldOnce();
}

TEST_F(OomCgroup1Below, TellsNothingOfKillsFromBeforeItsStartOrOfOneThatGoesWithoutAny) {
  UntilItIsNamed([this] {
    watch_.reset();
    {
      MemoryCgroup below(cgroup_->path(), "below");
      KillOne(below);
    }
    watch_ = StartWatch();
  });
  {
    MemoryCgroup below(cgroup_->path(), "below");
    watch_->Read();
  }
  watch_->Finish();
  EXPECT_TRUE(kills_.empty());
}

TEST_F(OomCgroup1Below, TellsTheKillOfAProcessItHasNotSeenThoughTheContainersOwnIsGone) {
  UntilItIsNamed([this] {
    watch_.reset();
    cgroup_.reset();
    static int serial = 0;
    cgroup_.emplace(*test::Cgroup1MemoryRoot(),
                    absl::StrCat("feather-test-", getpid(), "-own-", ++serial));
    cgroup_->Limit(kLimit);
    witness_.emplace(cgroup_->path());
    watch_ = StartWatch();
    watch_->Read();
    KillOne(*cgroup_);
    EXPECT_TRUE(cgroup_->Remove());
  });
  ExpectToldOnce();
}

TEST_F(OomCgroup1, CountsTheKillsOfACgroupAndThoseBelowIt) {
  const auto count = [this](const std::string& below = "") {
    return CountKills(/*unified=*/false, cgroup_->path() + below);
  };
  EXPECT_EQ(count("/none").value(), 0u);
  KillOne(*cgroup_);
  MemoryCgroup below(cgroup_->path(), "below");
  KillOne(below);
  EXPECT_EQ(count().value(), 2u);
  // It is not taken for none where it cannot be known.
  const NoDescriptors none;
  EXPECT_FALSE(count().ok());
  EXPECT_FALSE(count("/below").ok());
}

// Checklist: R6.
TEST_F(OomCgroup1, KeepsTheCountersAfterItsEndAndHoldsNoDescriptor) {
  const auto before = OpenDescriptors();
  auto watch = StartWatch();
  KillOne(*cgroup_);
  watch->Finish();
  EXPECT_EQ(OpenDescriptors(), before);
  ASSERT_TRUE(cgroup_->Remove());
  watch->Finish();
  watch->Read();
  Settle();
  EXPECT_EQ(watch->counters().oom_kill, 1u);
  EXPECT_EQ(kills_.size(), 1u);
}

// Checklist: O7.
TEST_F(OomCgroup1, DoesNotTellTheKillsOfAnEarlierContainerInTheSameCgroup) {
  KillOne(*cgroup_);
  auto watch = StartWatch();
  Settle();
  watch->Read();
  EXPECT_TRUE(kills_.empty());
  KillOne(*cgroup_);
  watch->Finish();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{2}));
}

TEST_F(OomCgroup1, TellsWhatAnEarlierWatchHadNotToldButNotInsideStart) {
  KillOne(*cgroup_);
  auto watch = StartWatch(0);
  EXPECT_TRUE(kills_.empty());
  Settle();
  EXPECT_EQ(kills_, (std::vector<uint64_t>{1}));
}

TEST_F(OomCgroup1, FailsToStartWithoutACgroupAndLeavesNothingOpen) {
  const auto before = OpenDescriptors();
  auto watch = Watch::Start(io_, false, cgroup_->path() + "/none", [](const Counters&) {});
  EXPECT_EQ(watch.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(OomCgroup1, ManyWatchesDestroyedOrFinishedLeaveNoDescriptor) {
  const auto before = OpenDescriptors();
  for (int round = 0; round < 10; ++round) {
    std::vector<std::unique_ptr<Watch>> watches;
    for (int i = 0; i < 20; ++i) watches.push_back(StartWatch());
    if (round % 2 == 0) Settle();
    for (auto& watch : watches)
      if (round % 3 == 0) watch->Finish();
    if (round % 3 == 1) Settle();
  }
  EXPECT_EQ(OpenDescriptors(), before);
  Settle();
  EXPECT_TRUE(kills_.empty());
}

}  // namespace
}  // namespace feather::oom
