// Creations and starts whose client is gone or silent, or whose OCI runtime leaves no pid.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

class Unserved : public ShimTest {
 protected:
  // A FIFO that nobody reads.
  std::string Unread() {
    std::string path = ctrd().directory() + "/unread";
    MakeFifo(path);
    return path;
  }
};

// The streams alone would be waited for half a minute.
TEST_F(Unserved, ACreationWhoseCallerHasGoneIsUndoneAtOnce) {
  Container& c = New("a");
  task::CreateTaskRequest request = c.CreateRequest();
  request.set_stdout(Unread());
  auto create = c.Send<task::CreateTaskResponse>("Create", request);
  std::string pid_file = c.bundle() + "/init.pid";
  ASSERT_TRUE(RunUntil([&] { return access(pid_file.c_str(), F_OK) == 0; }));
  auto gone = Clock::now();
  c.Disconnect();
  ASSERT_THAT(c.Connect(), IsOk());
  absl::Status again;
  do {
    ctrd().loop().RunFor(std::chrono::milliseconds(20));
    again = c.Create().status();
  } while (absl::IsAlreadyExists(again) && Clock::now() - gone < kLimit);
  EXPECT_LT(Clock::now() - gone, std::chrono::seconds(25));
  ASSERT_THAT(again, IsOk());
  EXPECT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(ctrd().events().Summaries("a"),
              ::testing::ElementsAre("/tasks/create a", "/tasks/start a", "/tasks/exit a 137",
                                     "/tasks/delete a 137"));
}

// A containerd that tries the socket first, as over gRPC, may be slow to connect again.
TEST_F(Unserved, AShimWithoutContainersEndsSoonOnlyIfItHasHadOne) {
  Container& unused = New("unused");
  Container& used = New("used");
  ASSERT_THAT(used.Run(), IsOk());
  auto wait = used.WaitAsync();
  EXPECT_THAT(used.Kill(SIGKILL), IsOk());
  EXPECT_THAT(wait.Get(), IsOk());
  EXPECT_THAT(used.Delete(), IsOk());
  unused.Disconnect();
  used.Disconnect();
  EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(used.shim_pid()).has_value(); }));
  EXPECT_THAT(used.RemoveBundle(), IsOk());
  ASSERT_THAT(unused.Connect(), IsOk());
  ASSERT_THAT(unused.Run(), IsOk());
  EXPECT_THAT(unused.KillAndRemove(), IsOk());
}

// A restarted containerd got no answer in time: it runs `delete`, removes the bundle and never
// comes back.
TEST_F(Unserved, AShimThatWasGivenUpEndsThoughNobodyDeletesItsContainer) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.RunDelete().helper.err, "");
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  c.Disconnect();
  EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(c.shim_pid()).has_value(); }));
}

TEST_F(Unserved, OrphansAreReapedWhileAnExecWaitsForItsStreams) {
  ContainerOptions options;
  // Orphans of a container that shares the machine's pid namespace come to the shim.
  options.spec.patch =
      R"({"linux": {"namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]}})";
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  auto request = c.ExecRequest("x", {"true"});
  request.set_stdout(Unread());
  ASSERT_THAT(c.Exec(request), IsOk());
  task::StartRequest start_request;
  start_request.set_id("a");
  start_request.set_exec_id("x");
  auto start = c.Send<task::StartResponse>("Start", start_request);
  ASSERT_TRUE(RunUntil([&] { return access((c.bundle() + "/x.pid").c_str(), F_OK) == 0; }));

  ASSERT_THAT(c.Exec("y", {"sh", "-c", "sh -c 'echo $$; exit 0' & exit 0"}), IsOk());
  ASSERT_THAT(c.Start("y"), IsOk());
  ASSERT_THAT(c.Wait("y"), IsOk());
  ASSERT_TRUE(WaitForEof(c.exec_stdio("y")));
  std::string orphan = c.exec_stdio("y").out->data();
  orphan.resize(orphan.find('\n'));
  EXPECT_TRUE(RunUntil([&] { return access(("/proc/" + orphan).c_str(), F_OK) != 0; }));
  EXPECT_FALSE(start.done()) << "reaped only at the end";
  FifoReader late(ctrd().io(), request.stdout());
  EXPECT_THAT(start.Get(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Unserved, AnExecWithoutAPidFileIsFoundKilledAndReported) {
  settings_.runtime = WriteRuntime("runc-no-pid", R"(
case "$*" in *' exec '*)
  runc "$@" || exit $?
  while [ $# -gt 1 ]; do [ "$1" = --pid-file ] && rm -f "$2"; shift; done
  exit 0;;
esac
exec runc "$@"
)");
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  EXPECT_THAT(c.Start("x"), IsError(kUnknown, "x.pid"));
  auto exit = c.Wait("x");
  ASSERT_THAT(exit, IsOk());
  EXPECT_EQ(exit->exit_status(), 137u);
  auto pids = c.Pids();
  ASSERT_THAT(pids, IsOk());
  EXPECT_EQ(pids->processes_size(), 1);
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Unserved, ARuntimeThatFailsAfterItsContainerWasMadeLeavesNothing) {
  settings_.runtime = WriteRuntime("runc-made-and-failed", R"(
case "$*" in *' create '*)
  runc "$@" || exit $?
  echo made, and failed >&2
  exit 1;;
esac
exec runc "$@"
)");
  Container& c = New("a");
  EXPECT_THAT(c.Create(), IsError(kUnknown, "OCI runtime create failed"));
  // What is left, a container of the OCI runtime above all, is looked for behind each test.
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Unserved, AContainerThatTheRuntimeHadBeforeIsNotTouchedByACreationThatFails) {
  Container& c = New("a");
  std::string foreign =
      absl::StrCat(ctrd().runtime_root(), "/", ctrd().settings().name_space, "/a");
  std::filesystem::create_directories(foreign);
  EXPECT_THAT(c.Create(), IsError(kUnknown, "OCI runtime create failed"));
  EXPECT_EQ(access(foreign.c_str(), F_OK), 0);
  std::filesystem::remove(foreign);
  EXPECT_THAT(c.Run(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Nobody but the shim knows of it by then.
TEST_F(Unserved, WhatAFailedCreationHasLeftIsDeletedAsSoonAsTheRuntimeCan) {
  settings_.runtime = WriteRuntime("runc-will-not-delete", R"(
case " $* " in
*' create '*)
  runc "$@" || exit $?
  touch "$0.made"
  exit 1;;
*' delete '*)
  [ -e "$0.can" ] || { echo cannot >&2; exit 1; };;
esac
exec runc "$@"
)");
  Container& c = New("a");
  EXPECT_THAT(c.Create(), IsError(kUnknown, "OCI runtime create failed"));
  EXPECT_EQ(access((ctrd().settings().runtime + ".made").c_str(), F_OK), 0);
  EXPECT_THAT(c.Create(), IsError(kAlreadyExists, "a"));
  EXPECT_THAT(c.Shutdown(), IsOk());
  EXPECT_THAT(c.ConnectTask(), IsOk()) << "the shim must not end before it is gone";
  EXPECT_THAT(ctrd().log(),
              ::testing::HasSubstr("cannot delete a container whose creation failed"));
  ASSERT_THAT(WriteFile(ctrd().settings().runtime + ".can", "", 0644), IsOk());
  absl::Status again;
  ASSERT_TRUE(RunUntil([&] {
    again = c.Create().status();
    return !absl::IsAlreadyExists(again);
  }));
  EXPECT_THAT(again, IsError(kUnknown, "OCI runtime create failed"));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// What the first has left is in the way of the second; its deletion must not be left to nobody.
TEST_F(Unserved, WhatAFailedRestorationHasLeftIsDeletedAfterAnotherOneThatFails) {
  settings_.runtime = WriteRuntime("runc-cannot-restore", R"(
case " $* " in
*' restore '*)
  runc --root "$2" create a </dev/null >/dev/null 2>&1 && touch "$0.made"
  exit 1;;
*' delete '*)
  [ -e "$0.can" ] || { touch "$0.can"; echo cannot >&2; exit 1; };;
esac
exec runc "$@"
)");
  Container& c = New("a");
  task::CreateTaskRequest request = c.CreateRequest();
  request.set_checkpoint("/image");
  ASSERT_THAT(c.Create(request), IsOk());
  EXPECT_THAT(c.Start(), IsError(kUnknown, "OCI runtime restore failed"));
  for (const char* file : {".made", ".can"})
    EXPECT_EQ(access((settings_.runtime + file).c_str(), F_OK), 0) << file;
  EXPECT_THAT(c.Start(), IsError(kUnknown, "OCI runtime restore failed"));
  // A container of the OCI runtime, if it is there still, is found behind the test.
  EXPECT_THAT(c.Delete(), IsOk());
  EXPECT_THAT(c.Shutdown(), IsOk());
}

class ExecWithoutAClient : public Unserved {
 protected:
  // Its start waits for the client.
  void Begin(const std::string& script) {
    c_ = &New("a");
    ASSERT_THAT(c_->Run(), IsOk());
    request_ = c_->ExecRequest("x", {"sh", "-c", script});
    request_.set_stdout(Unread());
    ASSERT_THAT(c_->Exec(request_), IsOk());
    task::StartRequest start;
    start.set_id("a");
    start.set_exec_id("x");
    start_.emplace(c_->Send<task::StartResponse>("Start", start));
    ASSERT_TRUE(RunUntil([&] { return access((c_->bundle() + "/x.pid").c_str(), F_OK) == 0; }));
  }
  Container* c_ = nullptr;
  task::ExecProcessRequest request_;
  std::optional<Pending<task::StartResponse>> start_;
};

// With containerd's own shim it takes the half minute in which the client could still come.
TEST_F(ExecWithoutAClient, DoesNotHoldUpTheEndOfTheInit) {
  Begin("sleep 1000");
  auto begin = Clock::now();
  ASSERT_THAT(c_->Kill(SIGKILL), IsOk());
  EXPECT_EQ(c_->Wait()->exit_status(), 137u);
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(25));
  EXPECT_THAT(start_->Get(), IsError(kFailedPrecondition, "init process is not running"));
  EXPECT_THAT(c_->Wait("x"), IsOk());
  EXPECT_THAT(c_->Delete("x"), IsOk());
  EXPECT_THAT(c_->Remove(), IsOk());
}

TEST_F(ExecWithoutAClient, CanBeKilledAndStillDeliversWhatItWrote) {
  Begin("echo said; exec sleep 1000");
  EXPECT_THAT(c_->Kill(SIGTERM, "x"), IsOk());
  EXPECT_FALSE(start_->done()) << "the kill must not have waited for the start";
  FifoReader late(ctrd().io(), request_.stdout());
  EXPECT_THAT(start_->Get(), IsOk());
  EXPECT_EQ(c_->Wait("x")->exit_status(), 128u + SIGTERM);
  EXPECT_TRUE(RunUntil([&] { return late.eof(); }));
  EXPECT_THAT(c_->Delete("x"), IsOk());
  EXPECT_THAT(c_->KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
