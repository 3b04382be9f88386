// Additional processes in a running container, with each containerd.

#include <signal.h>

#include "absl/strings/str_cat.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

class DaemonExec : public DaemonTest {
 protected:
  void SetUp() override {
    DaemonTest::SetUp();
    if (daemon_ == nullptr || HasFatalFailure()) return;
    const CommandResult run = daemon_->Ctr(daemon_->Run("a", {"--detach"}, {"sleep", "1000"}));
    ASSERT_EQ(run.code, 0) << run.err;
  }
  void TearDown() override {
    if (daemon_ != nullptr && !daemon_->TaskStatus("a").empty()) daemon_->Remove("a");
    DaemonTest::TearDown();
  }
};
FEATHER_EVERY_DAEMON(DaemonExec);

TEST_P(DaemonExec, RunsAProgramAndPassesItsExitStatusOn) {
  const CommandResult result =
      daemon_->Ctr(daemon_->Exec("a", "e", {}, {"sh", "-c", "echo out; echo err >&2; exit 3"}));
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.out, "out\n");
  EXPECT_THAT(result.err, HasSubstr("err\n"));
  ExpectEvents("a", {"/tasks/create a", "/tasks/start a", "/tasks/exec-added a/e",
                     "/tasks/exec-started a/e", "/tasks/exit a/e"});
  EXPECT_EQ(ExitStatus("a"), "3");
}

TEST_P(DaemonExec, UsesAnExecIdAgainAfterItsEnd) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(
        daemon_->Ctr(daemon_->Exec("a", "again", {}, {"sh", "-c", absl::StrCat("exit ", i)})).code,
        i);
  }
}

TEST_P(DaemonExec, PipesIntoAProgram) {
  const std::unique_ptr<Subprocess> exec =
      daemon_->StartCtr(daemon_->Exec("a", "e", {}, {"cat"}), {.input = true});
  ASSERT_TRUE(exec->Send("in and out\n"));
  ASSERT_TRUE(exec->WaitOutput("in and out\n")) << exec->err();
  exec->CloseInput();
  EXPECT_EQ(exec->Wait(), 0) << exec->err();
}

TEST_P(DaemonExec, GivesAProgramATerminal) {
  const std::unique_ptr<Subprocess> exec =
      daemon_->StartCtr(daemon_->Exec("a", "e", {"--tty"}, {"sh"}), {.terminal = true});
  ASSERT_TRUE(exec->WaitOutput("# ")) << exec->out();
  ASSERT_TRUE(exec->Send("tty; exit 6\n"));
  EXPECT_EQ(exec->Wait(), 6);
  EXPECT_THAT(exec->out(), HasSubstr("/dev/pts/"));
}

TEST_P(DaemonExec, ReportsTheSignalThatEndedAProgram) {
  const std::unique_ptr<Subprocess> exec =
      daemon_->StartCtr(daemon_->Exec("a", "e", {}, {"sh", "-c", "echo ready; exec sleep 1000"}));
  ASSERT_TRUE(exec->WaitOutput("ready"));
  const CommandResult kill =
      daemon_->Ctr({"task", "kill", "--exec-id", "e", "--signal", "SIGTERM", "a"});
  EXPECT_EQ(kill.code, 0) << kill.err;
  EXPECT_EQ(exec->Wait(), 128 + SIGTERM);
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
}

TEST_P(DaemonExec, TellsWhyAProgramCannotBeStarted) {
  const CommandResult result = daemon_->Ctr(daemon_->Exec("a", "e", {}, {"/no/such/program"}));
  EXPECT_NE(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("OCI runtime exec failed"));
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
}

TEST_P(DaemonExec, EndsTheStreamOfAnExecWhoseBackgroundChildStillHoldsIt) {
  if (!daemon_->OlderThan(2, 4))
    GTEST_SKIP() << "ctr of 2.4 deletes when its streams have ended, that is with the child's end";
  // The shell ends, its child keeps stdout: Delete waits for the stream 10 s and no longer, then
  // ctr, which reads on after Delete, gets the end of file.
  const auto begin = std::chrono::steady_clock::now();
  const CommandResult result =
      daemon_->Ctr(daemon_->Exec("a", "e", {}, {"sh", "-c", "sleep 1000 & echo started; exit 8"}));
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(result.code, 8) << result.err;
  EXPECT_EQ(result.out, "started\n");
  GTEST_LOG_(INFO) << "Delete and end of file after "
                   << std::chrono::duration_cast<Milliseconds>(took).count() << " ms";
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
}

TEST_P(DaemonExec, EndsEveryExecBeforeTheContainersEnd) {
  std::vector<std::unique_ptr<Subprocess>> execs;
  for (int i = 0; i < 4; ++i) {
    execs.push_back(daemon_->StartCtr(
        daemon_->Exec("a", absl::StrCat("e", i), {}, {"sh", "-c", "echo ready; exec sleep 1000"})));
    ASSERT_TRUE(execs.back()->WaitOutput("ready")) << execs.back()->err();
  }
  EXPECT_EQ(daemon_->Ctr({"task", "kill", "--signal", "SIGKILL", "a"}).code, 0);
  for (const auto& exec : execs) EXPECT_EQ(exec->Wait(), 137) << exec->err();
  ASSERT_TRUE(daemon_->WaitEvent("/tasks/exit a"));
  int exec_exits = 0;
  for (const DaemonEvent& event : daemon_->TaskEvents("a")) {
    if (event.topic != "/tasks/exit") continue;
    if (event.Field("id") == "a") break;
    ++exec_exits;
  }
  EXPECT_EQ(exec_exits, 4) << "before the container's own exit";
}

}  // namespace
}  // namespace feather::test
