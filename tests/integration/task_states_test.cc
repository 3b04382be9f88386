// The state machines of init and exec (contract section 4.2): every operation in every state.

#include <signal.h>

#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using containerd::v1::types::CREATED;
using containerd::v1::types::RUNNING;
using containerd::v1::types::STOPPED;

class States : public RuntimeTest {
 protected:
  absl::Status TryExec(Container& c, const std::string& exec = "probe") {
    return c.Exec(exec, {"true"});
  }
};
INSTANTIATE_TEST_SUITE_P(Runtimes, States, kRuntimes, RuntimeName);

// Checklist: K4.
TEST_P(States, OfAnInit) {
  Container& c = New("a");
  ASSERT_THAT(c.Create(), IsOk());
  EXPECT_EQ(c.State()->status(), CREATED);
  EXPECT_THAT(c.ResizePty(80, 24), IsOk()) << "no terminal: nothing to do";
  EXPECT_THAT(c.CloseIO(), IsOk());
  EXPECT_THAT(TryExec(c, "early"), IsOk()) << "an exec may be added to a created container";
  EXPECT_THAT(c.Delete("early"), IsOk());
  EXPECT_THAT(c.Create(), IsError(kAlreadyExists, ""));

  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_EQ(c.State()->status(), RUNNING);
  EXPECT_THAT(c.Start(), IsError(kUnknown, "cannot start a running process"));
  EXPECT_THAT(c.Delete(), IsError(kUnknown, "cannot delete a running process"));
  EXPECT_THAT(c.Create(), IsError(kAlreadyExists, ""));
  EXPECT_THAT(c.CloseIO(), IsOk());
  EXPECT_THAT(c.Kill(SIGKILL), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());

  EXPECT_EQ(c.State()->status(), STOPPED);
  // Without a process containerd would take it for a leaked one when it restarts.
  auto pids = c.Pids();
  ASSERT_THAT(pids, IsOk());
  ASSERT_EQ(pids->processes_size(), 1);
  EXPECT_EQ(pids->processes(0).pid(), c.State()->pid());
  EXPECT_THAT(c.Start(), IsError(kUnknown, "cannot start a stopped process"));
  EXPECT_THAT(TryExec(c), IsError(kUnknown, "cannot exec in a stopped state"));
  EXPECT_THAT(c.Kill(SIGKILL), IsError(kNotFound, "process already finished"));
  EXPECT_THAT(c.ResizePty(80, 24), IsOk());
  EXPECT_THAT(c.CloseIO(), IsOk());
  EXPECT_THAT(c.Create(), IsError(kAlreadyExists, ""));
  ASSERT_THAT(c.Delete(), IsOk());

  EXPECT_THAT(c.State(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Start(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Delete(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Kill(SIGKILL), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Wait(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Pids(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.CloseIO(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.ResizePty(80, 24), IsError(kNotFound, "container not created"));
  EXPECT_THAT(TryExec(c), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// Checklist: K3.
TEST_P(States, OfAnExec) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  EXPECT_EQ(c.State("x")->status(), CREATED);
  EXPECT_EQ(c.State("x")->pid(), 0u);
  EXPECT_THAT(c.ResizePty(80, 24, "x"), IsOk());
  EXPECT_THAT(c.CloseIO("x"), IsOk());
  EXPECT_THAT(c.Kill(SIGKILL, "x"), IsError(kFailedPrecondition, "process not created"));
  EXPECT_THAT(TryExec(c, "x"), IsError(kAlreadyExists, "id x"));

  auto pid = c.Start("x");
  ASSERT_THAT(pid, IsOk());
  EXPECT_EQ(c.State("x")->status(), RUNNING);
  EXPECT_EQ(c.State("x")->pid(), *pid);
  EXPECT_EQ(c.State("x")->id(), "x");
  EXPECT_EQ(c.State("x")->exec_id(), "");
  EXPECT_THAT(c.Start("x"), IsError(kUnknown, "cannot start a running process"));
  EXPECT_THAT(c.Delete("x"), IsError(kUnknown, "cannot delete a running process"));
  EXPECT_THAT(TryExec(c, "x"), IsError(kAlreadyExists, "id x"));
  EXPECT_THAT(c.Kill(SIGTERM, "x"), IsOk());
  auto exit = c.Wait("x");
  ASSERT_THAT(exit, IsOk());
  EXPECT_EQ(exit->exit_status(), 128u + SIGTERM);

  EXPECT_EQ(c.State("x")->status(), STOPPED);
  EXPECT_EQ(c.State("x")->exit_status(), 128u + SIGTERM);
  EXPECT_THAT(c.Start("x"), IsError(kUnknown, "cannot start a stopped process"));
  EXPECT_THAT(c.ResizePty(80, 24, "x"), IsError(kUnknown, "cannot resize a stopped container"));
  EXPECT_THAT(c.Kill(SIGKILL, "x"), IsError(kNotFound, "process already finished"));
  auto deleted = c.Delete("x");
  ASSERT_THAT(deleted, IsOk());
  EXPECT_EQ(deleted->pid(), *pid);
  EXPECT_EQ(deleted->exit_status(), 128u + SIGTERM);

  EXPECT_THAT(c.State("x"), IsError(kNotFound, "process does not exist x"));
  EXPECT_THAT(c.Start("x"), IsError(kNotFound, "process does not exist x"));
  EXPECT_THAT(c.Delete("x"), IsError(kNotFound, "process does not exist x"));
  EXPECT_THAT(c.Kill(SIGKILL, "x"), IsError(kNotFound, "process does not exist x"));
  EXPECT_THAT(c.Wait("x"), IsError(kNotFound, "process does not exist x"));
  EXPECT_THAT(c.CloseIO("x"), IsError(kNotFound, "process does not exist x"));
  EXPECT_THAT(c.ResizePty(80, 24, "x"), IsError(kNotFound, "process does not exist x"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: K10.
TEST_P(States, OfAnExecThatIsNeverStarted) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(TryExec(c, "x"), IsOk());
  auto wait = c.WaitAsync("x");
  auto deleted = c.Delete("x");
  ASSERT_THAT(deleted, IsOk());
  EXPECT_EQ(deleted->pid(), 0u);
  EXPECT_THAT(wait.Get(), IsOk());
  ASSERT_THAT(TryExec(c, "x"), IsOk()) << "a deleted exec's id is free again";
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: X5.
TEST_P(States, AnExecIsNotStartedOnceTheInitHasEnded) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(TryExec(c, "x"), IsOk());
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Start("x"), IsError(kFailedPrecondition, "init process is not running"));
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: S3.
TEST_P(States, ShutdownDoesNothingWhileAContainerIsThere) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_THAT(c.Shutdown(), IsOk());
  EXPECT_EQ(c.State()->status(), RUNNING);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
