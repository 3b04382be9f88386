// containerd that does not take events, in each of the ways in which that happens: stopped, without
// its socket, killed at any moment. No exit and no OOM kill is lost, and an OOM kill is told before
// the exit that it caused.

#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <optional>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/daemon_test.h"
#include "tests/support/injected_failure.h"

namespace feather::test {
namespace {

bool Long() { return getenv("FEATHER_TEST_LONG") != nullptr; }

class DaemonAway : public DaemonTest {
 protected:
  void SetUp() override {
    DaemonTest::SetUp();
    if (daemon_ == nullptr) return;
    go_ = daemon_->directory() + "/go";
    ASSERT_EQ(mkdir(go_.c_str(), 0755), 0);
  }

  static bool LimitsMemory() {
    return access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) == 0 ||
           absl::StrContains(ReadFile("/sys/fs/cgroup/cgroup.controllers").value_or(""), "memory");
  }
  // `ctr run` of a script that finds go_ at /tmp.
  std::vector<std::string> Script(const std::string& id, std::vector<std::string> flags,
                                  const std::string& script) const {
    flags.insert(flags.end(), {"--detach", "--null-io", "--mount",
                               absl::StrCat("type=bind,src=", go_, ",dst=/tmp,options=rbind:rw")});
    return daemon_->Run(id, flags, {"sh", "-c", script});
  }
  void Run(const std::vector<std::string>& arguments) {
    const CommandResult run = daemon_->Ctr(arguments);
    ASSERT_EQ(run.code, 0) << run.err;
  }
  // Its init ends with this status when it gets SIGTERM. Returns when it does so.
  void RunUntilTerm(const std::string& id, int status) {
    Run(Script(id, {},
               absl::StrCat("trap 'exit ", status, "' TERM; touch /tmp/", id,
                            "; while :; do sleep 0.05; done")));
    EXPECT_TRUE(Eventually([&] { return access(absl::StrCat(go_, "/", id).c_str(), F_OK) == 0; }));
  }
  // Its init takes more memory than it may have once it is told to.
  void RunEater(const std::string& id) {
    Run(Script(id, {"--memory-limit", "50331648"},
               absl::StrCat("until [ -e /tmp/eat-", id,
                            " ]; do sleep 0.05; done; "
                            "exec dd if=/dev/zero of=/dev/null bs=200M count=1")));
  }
  void LetEat(const std::string& id) const {
    EXPECT_TRUE(WriteFile(absl::StrCat(go_, "/eat-", id), "", 0644).ok());
  }
  bool AwaitEnd(pid_t pid) const {
    return pid > 0 && Eventually([&] { return kill(pid, 0) != 0; });
  }
  bool End(pid_t pid) const { return pid > 0 && kill(pid, SIGTERM) == 0 && AwaitEnd(pid); }
  // The OOM kill was told, and before the exit.
  void ExpectOomBeforeExit(const std::string& id) {
    EXPECT_TRUE(daemon_->WaitEvent("/tasks/exit " + id));
    std::vector<std::string> told;
    for (const DaemonEvent& event : daemon_->TaskEvents(id)) told.push_back(event.Summary());
    auto oom = std::find(told.begin(), told.end(), "/tasks/oom " + id);
    auto exit = std::find(told.begin(), told.end(), "/tasks/exit " + id);
    EXPECT_LT(oom - told.begin(), exit - told.begin());
    EXPECT_EQ(ExitStatus(id), "137");
  }

  std::string go_;
};
FEATHER_EVERY_DAEMON(DaemonAway);

TEST_P(DaemonAway, LosesNothingWhileItIsStopped) {
  const std::vector<std::string> ids = {"a", "b", "c"};
  std::vector<pid_t> inits;
  for (size_t i = 0; i < ids.size(); ++i) {
    RunUntilTerm(ids[i], static_cast<int>(21 + i));
    inits.push_back(daemon_->InitPid(ids[i]));
  }
  const bool eats = LimitsMemory();
  if (eats) {
    RunEater("eater");
    inits.push_back(daemon_->InitPid("eater"));
  }
  // Longer than the shim waits for an answer before it repeats an event.
  const auto stopped = std::chrono::steady_clock::now();
  daemon_->Signal(SIGSTOP);
  if (eats) LetEat("eater");
  for (size_t i = 0; i < inits.size(); ++i)
    EXPECT_TRUE(i < ids.size() ? End(inits[i]) : AwaitEnd(inits[i]));
  std::this_thread::sleep_until(stopped + std::chrono::seconds(Long() ? 180 : 7));
  daemon_->Signal(SIGCONT);
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_TRUE(daemon_->WaitEvent("/tasks/exit " + ids[i])) << ids[i];
    EXPECT_EQ(ExitStatus(ids[i]), absl::StrCat(21 + i));
    daemon_->Remove(ids[i]);
  }
  if (!eats) return;
  ExpectOomBeforeExit("eater");
  daemon_->Remove("eater");
}

TEST_P(DaemonAway, LosesNothingWhileItsEventSocketIsDeletedUntilItIsMadeAgain) {
  const std::string away = daemon_->EventSocket() + ".away";
  ASSERT_EQ(rename(daemon_->EventSocket().c_str(), away.c_str()), 0) << strerror(errno);
  RunUntilTerm("a", 31);
  EXPECT_TRUE(End(daemon_->InitPid("a")));
  const bool eats = LimitsMemory();
  if (eats) {
    RunEater("eater");
    LetEat("eater");
    EXPECT_TRUE(AwaitEnd(daemon_->InitPid("eater")));
  }
  EXPECT_TRUE(daemon_->TaskEvents("a").empty() ||
              daemon_->TaskEvents("a").back().topic != "/tasks/exit");
  ASSERT_EQ(rename(away.c_str(), daemon_->EventSocket().c_str()), 0) << strerror(errno);
  EXPECT_TRUE(daemon_->WaitEvent("/tasks/exit a"));
  EXPECT_EQ(ExitStatus("a"), "31");
  daemon_->Remove("a");
  if (!eats) return;
  ExpectOomBeforeExit("eater");
  daemon_->Remove("eater");
}

// An exit before its end, right beside it, or after it; an OOM kill before its next start, or amid
// that.
TEST_P(DaemonAway, LosesNoExitWhenItIsKilledAtAnyMoment) {
  std::minstd_rand random(4711);
  const auto pause = [&random] {
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 200));
  };
  const bool eats = LimitsMemory();
  for (int i = 1; i <= (Long() ? 30 : 4) && !HasFailure(); ++i) {
    const std::string id = absl::StrCat("r", i);
    const std::string eater = absl::StrCat("eater", i);
    RunUntilTerm(id, i);
    const pid_t init = daemon_->InitPid(id);
    if (eats) RunEater(eater);
    const pid_t eaters_shim = eats ? daemon_->ShimPid(eater) : 0;
    pause();
    if (i % 2 == 0) {
      EXPECT_EQ(kill(init, SIGTERM), 0);
      pause();
    }
    daemon_->Kill();
    // What containerd takes before somebody follows its events, nobody sees.
    std::optional<InjectedFailure> unheard;
    if (eats) {
      unheard.emplace(eaters_shim, "connect", "error=ECONNREFUSED", go_ + "/strace");
      ASSERT_TRUE(unheard->attached());
      LetEat(eater);
    }
    pause();
    EXPECT_TRUE(i % 2 == 0 ? AwaitEnd(init) : End(init));
    ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
    daemon_->FollowEvents();
    if (eats) {
      unheard->End();
      ExpectOomBeforeExit(eater);
      daemon_->Remove(eater);
    }
    ExpectExited(id, absl::StrCat(i));
  }
}

}  // namespace
}  // namespace feather::test
