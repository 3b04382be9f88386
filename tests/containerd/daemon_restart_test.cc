// containerd killed while containers run, and started again, with each version.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

class DaemonRestart : public DaemonTest {
 protected:
  void SetUp() override {
    DaemonTest::SetUp();
    if (daemon_ == nullptr) return;
    go_ = daemon_->directory() + "/go";
    ASSERT_EQ(mkdir(go_.c_str(), 0755), 0);
  }

  // `ctr run` of a script that finds go_ at /tmp.
  std::unique_ptr<Subprocess> RunScript(const std::string& script) {
    return daemon_->StartCtr(daemon_->Run("a", {"--mount", Shared()}, {"sh", "-c", script}));
  }
  std::string Shared() const {
    return absl::StrCat("type=bind,src=", go_, ",dst=/tmp,options=rbind:rw");
  }
  void Touch(const std::string& name) const {
    EXPECT_TRUE(WriteFile(absl::StrCat(go_, "/", name), "", 0644).ok());
  }
  bool Touched(const std::string& name) const {
    return Eventually([&] { return access(absl::StrCat(go_, "/", name).c_str(), F_OK) == 0; });
  }

  std::string go_;
};
FEATHER_EVERY_DAEMON(DaemonRestart);

// Checklist: E9, G6.
TEST_P(DaemonRestart, FindsItsRunningContainersAgain) {
  for (const char* id : {"a", "b"}) {
    const CommandResult run =
        daemon_->Ctr(daemon_->Run(id, {"--detach", "--null-io"}, {"sleep", "1000"}));
    ASSERT_EQ(run.code, 0) << run.err;
  }
  const pid_t shim = daemon_->ShimPid("a");
  ASSERT_TRUE(daemon_->Restart()) << daemon_->Log();
  daemon_->FollowEvents();
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
  EXPECT_EQ(daemon_->TaskStatus("b"), "RUNNING");
  EXPECT_EQ(daemon_->ShimPid("a"), shim);
  EXPECT_EQ(daemon_->Ctr(daemon_->Exec("a", "e", {}, {"sh", "-c", "exit 3"})).code, 3);
  EXPECT_EQ(daemon_->Ctr({"task", "kill", "--signal", "SIGKILL", "a"}).code, 0);
  EXPECT_TRUE(daemon_->WaitEvent("/tasks/exit a"));
  EXPECT_EQ(ExitStatus("a"), "137");
  daemon_->Remove("a");
  daemon_->Remove("b");
}

TEST_P(DaemonRestart, LearnsOfAnExitThatHappenedWhileItWasAway) {
  const CommandResult run = daemon_->Ctr(daemon_->Run(
      "a", {"--detach", "--null-io", "--mount", Shared()},
      {"sh", "-c", "trap 'exit 23' TERM; touch /tmp/ready; while :; do sleep 0.05; done"}));
  ASSERT_EQ(run.code, 0) << run.err;
  const pid_t init = daemon_->InitPid("a");
  // Before that it may be the OCI runtime still, which ends with 2 for a signal.
  ASSERT_TRUE(Touched("ready"));
  daemon_->Kill();
  ASSERT_EQ(kill(init, SIGTERM), 0);
  EXPECT_TRUE(Eventually([init] { return kill(init, 0) != 0; }));
  ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
  daemon_->FollowEvents();
  ExpectExited("a", "23");
}

TEST_P(DaemonRestart, KeepsWhatAContainerWroteWhileNobodyRead) {
  // `ctr run` is the reader; it ends with its daemon, as CRI's log reader does.
  std::unique_ptr<Subprocess> run = RunScript(
      "echo before; until [ -e /tmp/now ]; do sleep 0.05; done; seq 1 3000; touch /tmp/written; "
      "until [ -e /tmp/end ]; do sleep 0.05; done; echo after; exit 14");
  ASSERT_TRUE(run->WaitOutput("before\n")) << run->err();
  run.reset();  // First: losing its daemon it would remove the FIFOs, as CRI does not.
  daemon_->Kill();
  Touch("now");
  ASSERT_TRUE(Touched("written"));
  ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
  daemon_->FollowEvents();

  const std::unique_ptr<Subprocess> attach = daemon_->StartCtr({"task", "attach", "a"});
  EXPECT_TRUE(attach->WaitOutput("3000\n")) << attach->err();
  Touch("end");
  EXPECT_EQ(attach->Wait(), 14) << attach->err();
  std::string expected;
  for (int i = 1; i <= 3000; ++i) absl::StrAppend(&expected, i, "\n");
  EXPECT_EQ(attach->out(), expected + "after\n");
  if (!daemon_->TaskStatus("a").empty()) daemon_->Ctr({"task", "delete", "a"});
  EXPECT_EQ(daemon_->Ctr({"container", "delete", "a"}).code, 0);
}

TEST_P(DaemonRestart, KeepsTheOutputOfAContainerThatEndedWhileNobodyRead) {
  if (!Daemon::TestsFeather()) GTEST_SKIP() << "the stock shim drops it at the container's end";
  std::unique_ptr<Subprocess> run =
      RunScript("echo before; until [ -e /tmp/now ]; do sleep 0.05; done; seq 1 3000; exit 15");
  ASSERT_TRUE(run->WaitOutput("before\n")) << run->err();
  const pid_t init = daemon_->InitPid("a");
  ASSERT_TRUE(daemon_->WaitEvent("/tasks/start a"));
  const std::string fifo = daemon_->TaskEvents("a")[0].Field("stdout");
  run.reset();  // First: losing its daemon it would remove the FIFOs, as CRI does not.
  daemon_->Kill();
  Touch("now");
  ASSERT_TRUE(Eventually([init] { return kill(init, 0) != 0; }));

  // Any reader will do; containerd's next start may delete the task at once, and its output with
  // it.
  const CommandResult reader = RunCommand({.argv = {"cat", fifo}});
  EXPECT_EQ(reader.code, 0);
  std::string expected;
  for (int i = 1; i <= 3000; ++i) absl::StrAppend(&expected, i, "\n");
  EXPECT_EQ(reader.out, expected);
  ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
  daemon_->FollowEvents();
  ExpectExited("a", "15");
  daemon_->RemoveClientFifos();
}

// What Debian 12's daemon has begun, each daemon after it finds.
class DaemonUpgrade : public DaemonRestart {
 protected:
  void SetUp() override {
    const std::string reason = Daemon::Unavailable("bookworm") + Daemon::Unavailable(GetParam());
    if (!reason.empty()) GTEST_SKIP() << reason;
    daemon_ = std::make_unique<Daemon>("bookworm");
    go_ = daemon_->directory() + "/go";
    ASSERT_EQ(mkdir(go_.c_str(), 0755), 0);
    ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
  }
};
FEATHER_EVERY_DAEMON(DaemonUpgrade);

TEST_P(DaemonUpgrade, LearnsOfTheOomKillOfAContainerFromBefore) {
  std::vector<std::string> run = daemon_->Run(
      "a",
      {"--detach", "--null-io", "--memory-limit", "16777216", "--mount",
       absl::StrCat("type=bind,src=", go_, ",dst=/tmp,options=rbind:rw")},
      {"sh", "-c",
       "while [ ! -e /tmp/go ]; do sleep 0.1; done; x=0123456789; while :; do x=$x$x; done"});
  const CommandResult started = daemon_->Ctr(run);
  ASSERT_EQ(started.code, 0) << started.err;
  daemon_->Kill();
  daemon_->Upgrade(GetParam());
  ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
  daemon_->FollowEvents();
  ASSERT_EQ(daemon_->TaskStatus("a"), "RUNNING");
  Touch("go");
  EXPECT_TRUE(daemon_->WaitEvent("/tasks/exit a"));
  ExpectEvents("a", {"/tasks/oom a", "/tasks/exit a"});
  EXPECT_EQ(ExitStatus("a"), "137");
  daemon_->Remove("a");
}

}  // namespace
}  // namespace feather::test
