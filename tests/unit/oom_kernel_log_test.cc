// The kernel's log as its listeners hear it, and what is told of a victim by it. A pipe stands for
// /dev/kmsg, of which each write is one record; the records are as Linux 6.1 and 6.18 write them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "oom/explainer.h"
#include "oom/kernel_log.h"
#include "oom/kernel_record.h"
#include "oom/logged_kills.h"
#include "tests/support/mount_namespace.h"
#include "tests/support/shim_bundle.h"

namespace feather::oom {
namespace {

using Words = std::vector<std::string>;

class Listener : public KernelLogListener {
 public:
  Listener() { Listen(); }
  void Hear(absl::string_view line) override {
    if (line == refused) throw std::bad_alloc();
    heard.emplace_back(line);
  }

  Words heard;
  std::string refused = "no such line";
};

class OomKernelLog : public testing::Test {
 protected:
  void SetUp() override {
    if (LogNameOf(files_.path()).empty() || !KnowsPidsOfLog())
      GTEST_SKIP() << "in namespaces of its own";
    ASSERT_TRUE(mounts_.entered()) << strerror(errno);
    int pipe[2];
    ASSERT_EQ(pipe2(pipe, O_DIRECT | O_CLOEXEC), 0) << strerror(errno);
    // Each record takes a page; a write fails where there is no room.
    ASSERT_GT(fcntl(pipe[1], F_SETPIPE_SZ, 1 << 20), 0) << strerror(errno);
    ASSERT_EQ(fcntl(pipe[1], F_SETFL, O_DIRECT | O_NONBLOCK), 0) << strerror(errno);
    reader_.Reset(pipe[0]);
    log_.Reset(pipe[1]);
    std::filesystem::create_symlink(absl::StrCat("/proc/self/fd/", pipe[0]), dev_.path() + "/kmsg");
    ASSERT_EQ(mount(dev_.path().c_str(), "/dev", nullptr, MS_BIND, nullptr), 0) << strerror(errno);
  }

  void WriteRecord(const std::string& record) {
    EXPECT_EQ(write(log_.get(), record.data(), record.size()), static_cast<ssize_t>(record.size()));
  }
  void Write(const std::string& line, int priority = 3) {
    WriteRecord(absl::StrCat(priority, ",", ++sequence_, ",123456,-;", line, "\n SUBSYSTEM=x\n"));
  }
  void Choose(int pid, const std::string& cgroup, const std::string& name = "dd",
              const std::string& cpuset = "/") {
    Write(absl::StrCat("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=", cpuset,
                       ",mems_allowed=0,oom_memcg=/pod,task_memcg=", cgroup, ",task=", name,
                       ",pid=", pid, ",uid=0"));
  }
  void Kill(int pid, const std::string& name = "dd") {
    Write(absl::StrCat("Memory cgroup out of memory: Killed process ", pid, " (", name,
                       ") total-vm:206680kB, anon-rss:48000kB, file-rss:8kB, UID:0"));
  }

  test::TestDirectory files_, dev_;
  test::MountNamespace mounts_;
  UniqueFd reader_, log_;
  int sequence_ = 0;
};

TEST_F(OomKernelLog, IsHeardByAllFromWhereEachBegan) {
  Listener first;
  Write("a");
  Write("b");
  Listener second;
  EXPECT_EQ(first.heard, (Words{"a", "b"}));
  Write("c");
  second.Read();
  EXPECT_EQ(first.heard, (Words{"a", "b", "c"}));
  EXPECT_EQ(second.heard, (Words{"c"}));
}

TEST_F(OomKernelLog, IsHeardWithItsGapsAndWithoutWhatTheKernelHasNotWritten) {
  Listener listener;
  Write("a");
  ++sequence_;
  Write("b");
  Write("another's", 11);
  Write("c");
  listener.Read();
  EXPECT_EQ(listener.heard, (Words{"a", "", "b", "c"}));
}

TEST_F(OomKernelLog, IsHeardByTheOthersWhereOneHasNoMemoryForALine) {
  Listener first, second;
  first.refused = second.refused = "b";
  Listener third;
  for (const char* line : {"a", "b", "c"}) Write(line);
  first.Read();
  EXPECT_EQ(first.heard, (Words{"a", "c"}));
  EXPECT_EQ(second.heard, (Words{"a", "c"}));
  EXPECT_EQ(third.heard, (Words{"a", "b", "c"}));
}

TEST_F(OomKernelLog, IsNotHeardWhereItIsRubbish) {
  Listener listener;
  for (const char* record : {",", ";", ",,,;", "3,x,5,-;a", "x", "\n", "3"}) WriteRecord(record);
  listener.Read();
  EXPECT_EQ(listener.heard, Words{});
}

// What the kills of a container are taken from.
class OomLoggedVictims : public OomKernelLog {
 protected:
  void SetUp() override {
    OomKernelLog::SetUp();
    if (IsSkipped()) return;
    name_ = LogNameOf(files_.path());
    kills_.emplace(files_.path());
  }

  // "PID NAME LIMIT_OF" of each that is counted.
  Words Named() {
    kills_->Read();
    Words named;
    for (const LoggedKills::Named& kill : kills_->named())
      if (kill.counted)
        named.push_back(
            absl::StrCat(kill.victim.pid, " ", kill.victim.name, " ", kill.victim.limit_of));
    return named;
  }
  std::vector<pid_t> Unnamed() {
    kills_->Read();
    std::vector<pid_t> pids;
    for (const LoggedKills::Unnamed& kill : kills_->unnamed()) pids.push_back(kill.victim.pid);
    return pids;
  }

  std::string name_;
  std::optional<LoggedKills> kills_;
};

TEST_F(OomLoggedVictims, AreNamedInTheCgroupAndBelow) {
  Choose(7, name_);
  Kill(7);
  Choose(8, name_ + "/below");
  Kill(8);
  EXPECT_EQ(Named(), (Words{"7 dd /pod", "8 dd /pod"}));
  EXPECT_EQ(kills_->named()[1].directory, files_.path() + "/below");
  EXPECT_TRUE(Unnamed().empty());
}

// The log has what is not printable ASCII, and a backslash, as \xNN.
TEST_F(OomLoggedVictims, AreNamedAsTheLogWritesIt) {
  const std::string directory = files_.path() + "/a\\x2db\xc3\xa9";
  std::filesystem::create_directory(directory);
  kills_.emplace(directory);
  Choose(7, name_ + "/a\\x5cx2db\\xc3\\xa9");
  Kill(7);
  EXPECT_EQ(Named(), (Words{"7 dd /pod"}));
}

TEST_F(OomLoggedVictims, AreNotThoseOfOtherCgroups) {
  for (const std::string& other : {name_ + "x", "/x" + name_, std::string("/"), std::string("")}) {
    Choose(7, other);
    Kill(7);
  }
  EXPECT_EQ(Named(), Words{});
  EXPECT_TRUE(Unnamed().empty());
}

// Names are the container's own choice.
TEST_F(OomLoggedVictims, AreNotMistakenForTheNamesOfProcessesAndCgroups) {
  Choose(7, "/evil", absl::StrCat("a,task_memcg=", name_, ",task=b,pid=7,uid=0"));
  Kill(7);
  Choose(8, absl::StrCat("/evil/a,task_memcg=", name_, ",task=b,pid=8"));
  Kill(8);
  Choose(9, "/evil", "dd", absl::StrCat("a,task_memcg=", name_, ",task=b,pid=9,uid=0"));
  Kill(9);
  Write("Tasks in /evil/Memory cgroup out of memory: Killed process 41 (a) total-vm:1kB are going");
  Write("x: Killed process 41 (a) total-vm:1kB");
  EXPECT_EQ(Named(), Words{});
  EXPECT_TRUE(Unnamed().empty());
  Choose(10, name_, "a,pid=1,uid=0");
  Kill(10, "a) total-vm:1 (");
  EXPECT_EQ(Named(), (Words{"10 a) total-vm:1 ( /pod"}));
}

// The second line names a thread where the process' first one has ended.
TEST_F(OomLoggedVictims, AreTheProcessesWhoseFirstThreadHasEnded) {
  Choose(7, name_);
  Kill(70);
  EXPECT_EQ(Named(), (Words{"7 dd /pod"}));
}

TEST_F(OomLoggedVictims, AreNotTheChosenAfterOneThatWasSkipped) {
  Choose(7, name_);
  Write("Memory cgroup out of memory: OOM victim 7 (dd) is already exiting. Skip");
  Kill(9);
  EXPECT_EQ(Named(), Words{});
  EXPECT_EQ(Unnamed(), (std::vector<pid_t>{9}));
}

// What was lost may have been the line of its kill; the next is another's.
TEST_F(OomLoggedVictims, AreTheChosenBeforeAGapAndNotThoseAfterIt) {
  Choose(7, name_);
  ++sequence_;
  Kill(8, "other");
  EXPECT_EQ(Named(), (Words{"7 dd /pod"}));
  EXPECT_EQ(Unnamed(), (std::vector<pid_t>{8}));
}

TEST_F(OomLoggedVictims, AreNotTheChosenOfBeforeTheLastChoice) {
  Choose(7, name_);
  Choose(8, "/other");
  Kill(7);
  Kill(8);
  EXPECT_EQ(Named(), Words{});
}

TEST_F(OomLoggedVictims, AreNoneOfBrokenLines) {
  const std::string line = "Memory cgroup out of memory: Killed process 42 (dd) total-vm:1kB";
  for (size_t size = 0; size <= line.find("42"); ++size) Write(line.substr(0, size));
  Write("Memory cgroup out of memory: Killed process x");
  for (const char* end : {",task=,pid=,uid=", ",task=", ""})
    Write(absl::StrCat("oom-kill:,task_memcg=", name_, end));
  Write("oom-kill:");
  EXPECT_EQ(Named(), Words{});
  EXPECT_TRUE(Unnamed().empty());
}

TEST_F(OomLoggedVictims, AreThoseSinceTheMarkAndNoneFromBefore) {
  kills_.reset();
  const Listener listener;
  Choose(6, name_);
  Kill(6);
  const KernelLogMark mark;
  Choose(7, name_);
  Kill(7);
  Write("another line");
  Choose(8, name_);
  kills_.emplace(files_.path(), &mark);
  Kill(8);
  EXPECT_EQ(Named(), (Words{"7 dd /pod", "8 dd /pod"}));
  EXPECT_EQ(mark.lines().size(), 4u);
}

TEST_F(OomLoggedVictims, AreTheLastOnesOfAMarkThatNobodyAskedForLong) {
  KernelLogMark mark;
  for (int pid = 1; pid <= 2000; ++pid) {
    Kill(pid);
    mark.Read();
  }
  kills_.emplace(files_.path(), &mark);
  ASSERT_FALSE(Unnamed().empty());
  EXPECT_EQ(mark.lines().size(), 1024u);
  EXPECT_EQ(Unnamed().back(), 2000);
}

// By its pid alone: its cgroup may be gone.
TEST_F(OomLoggedVictims, MayBeAnInitThatNobodyWatched) {
  Kill(7);
  KernelLogMark mark;
  Choose(7, "/other");
  Write("Memory cgroup out of memory: OOM victim 7 (dd) is already exiting. Skip");
  Kill(8);
  EXPECT_FALSE(FindKillOfInit("/gone", mark, 7));
  const auto told = [&mark] {
    const auto kill = FindKillOfInit("/gone", mark, 7);
    if (!kill || kill->victims.size() != 1 || kill->counters.oom_kill != 1) return std::string();
    return absl::StrCat(kill->victims[0].pid, " ", kill->victims[0].name, " ",
                        kill->victims[0].limit_of);
  };
  Choose(7, "/gone");
  Kill(70);
  // Somebody else's group, by a line each.
  for (int pid = 100; pid < 200; ++pid) Kill(pid);
  EXPECT_EQ(told(), "7 dd /pod");
  KernelLogMark later;
  Kill(7);
  EXPECT_EQ(told(), "7 dd /pod");
  EXPECT_TRUE(FindKillOfInit("/gone", later, 7));
}

TEST_F(OomKernelLog, IsOpenedLaterIfThereWasNoDescriptorForIt) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{.rlim_cur = 3, .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  Listener listener;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  listener.Read();
  Write("a");
  listener.Read();
  EXPECT_EQ(listener.heard, (Words{"a"}));
}

// In a process of its own, which remembers it.
TEST_F(OomKernelLog, IsNotAskedForAgainWhereItIsRefused) {
  const auto hears_nothing = [this] {
    ASSERT_EQ(unlink("/dev/kmsg"), 0);
    ASSERT_EQ(mount(nullptr, "/dev", nullptr, MS_REMOUNT | MS_BIND | MS_NODEV, nullptr), 0);
    ASSERT_EQ(mknod("/dev/kmsg", S_IFCHR | 0600, makedev(1, 11)), 0);
    Listener listener;
    ASSERT_EQ(unlink("/dev/kmsg"), 0);
    std::filesystem::create_symlink(absl::StrCat("/proc/self/fd/", reader_.get()), "/dev/kmsg");
    listener.Read();
    Write("a");
    listener.Read();
    EXPECT_EQ(listener.heard, Words{});
  };
  EXPECT_EXIT((hears_nothing(), _exit(HasFailure() ? 1 : 0)), testing::ExitedWithCode(0), "");
}

// What people are told, by the readings that have counted it.
class OomExplainer : public testing::Test {
 protected:
  OomExplainer()
      : explainer_(std::make_shared<Explainer>(
            io_, files_.path(), "limit", [this](const Explanation& explanation) {
              told_.emplace_back();
              for (const Victim& victim : explanation.victims)
                absl::StrAppend(&told_.back(), told_.back().empty() ? "" : " ", victim.name);
            })) {
    explainer_->SetReadCounters([this] { ++readings_; });
  }
  void Rise(bool told, std::vector<Victim> victims) {
    explainer_->Counted(Counters{}, /*rose=*/true, told, std::move(victims));
  }
  void Find(std::vector<Victim> victims) {
    explainer_->Counted(Counters{}, /*rose=*/false, /*told=*/false, std::move(victims));
  }

  test::TestDirectory files_;
  asio::io_context io_;
  std::shared_ptr<Explainer> explainer_;
  int readings_ = 0;
  Words told_;
};

TEST_F(OomExplainer, TellsAtOnceWhomItKnows) {
  Rise(true, {{7, "a", ""}});
  EXPECT_EQ(told_, (Words{"a"}));
  io_.run();
  EXPECT_EQ(told_.size(), 1u);
  EXPECT_GE(readings_, 2);
}

TEST_F(OomExplainer, TellsWhenItKnowsAndOtherwiseInTheEnd) {
  Rise(true, {});
  Find({});
  EXPECT_EQ(told_, Words{});
  Find({{7, "a", ""}});
  EXPECT_EQ(told_, (Words{"a"}));
  Rise(true, {});
  io_.run();
  EXPECT_EQ(told_, (Words{"a", ""}));
}

TEST_F(OomExplainer, NamesTheFirstVictimOfAGroupOnceAndTheRestOfItNotLater) {
  Rise(true, {{7, "a", ""}});
  Rise(false, {{7, "a", ""}, {8, "b", ""}});
  io_.run();
  io_.restart();
  Find({{9, "c", ""}});
  Rise(true, {});
  io_.run();
  EXPECT_EQ(told_, (Words{"a", ""}));
}

TEST_F(OomExplainer, NamesAPidThatIsGivenAnewThoughTheContainerIsNeverAtRest) {
  for (int i = 0; i < 1000; ++i) Rise(true, {{i % 500 + 1, "a", ""}});
  EXPECT_EQ(told_, Words(1000, "a"));
}

TEST_F(OomExplainer, TellsNothingOfWhatIsDropped) {
  Rise(true, {});
  explainer_->Drop();
  io_.run();
  EXPECT_EQ(told_, Words{});
  EXPECT_EQ(readings_, 0);
}

}  // namespace
}  // namespace feather::oom
