// Delete, and operations while another one of the same container hangs.

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

class Delete : public ShimTest {
 protected:
  // A runtime that, before `command`, waits until the gate's FIFO has been opened and closed.
  void HangIn(const std::string& command) {
    MakeFifo(gate());
    settings_.runtime = WriteRuntime(
        "runc-hangs", absl::StrCat("for a in \"$@\"; do [ \"$a\" = ", command, " ] && : >", gate(),
                                   ".reached && cat ", gate(), "; done\nexec runc \"$@\"\n"));
  }
  void Open() { FifoOpener(); }
  std::string gate() const { return gate_.path() + "/gate"; }
  Pending<task::DeleteResponse> SendDelete(Container& c, const std::string& exec = "") {
    task::DeleteRequest request;
    request.set_id(c.id());
    request.set_exec_id(exec);
    return c.Send<task::DeleteResponse>("Delete", request);
  }
  // While the runtime waits at the gate.
  void CreateAndLeave(Container& c) {
    auto create = c.Send<task::CreateTaskResponse>("Create", c.CreateRequest());
    ASSERT_TRUE(RunUntil([&] { return access((gate() + ".reached").c_str(), F_OK) == 0; }));
    c.Disconnect();
  }
  void ShutDownOnceItsContainerIsGone(Container& c) {
    auto begin = Clock::now();
    do {
      c.Shutdown().IgnoreError();  // does nothing while there is a container
      ctrd().loop().RunFor(std::chrono::milliseconds(20));
      ctrd().Reap();
    } while (!ctrd().ExitOf(c.shim_pid()) && Clock::now() - begin < kLimit);
    EXPECT_EQ(ctrd().ExitOf(c.shim_pid()), 0);
  }

  // The deletion is done, and told, after its caller's time was over.
  void LoseTheAnswer(Container& c) {
    task::DeleteRequest request;
    request.set_id(c.id());
    auto deleted =
        c.Send<task::DeleteResponse>("Delete", request, std::chrono::milliseconds(50)).Get();
    EXPECT_THAT(deleted, IsError(kDeadlineExceeded, ""));
    Open();
    ASSERT_TRUE(ctrd().WaitForDelete(c.id()));
  }
  // With status 6.
  Container& EndedBeforeADeletionThatHangs() {
    HangIn("delete");
    Container& c = New("a", Shell("exit 6"));
    EXPECT_THAT(c.Run(), IsOk());
    EXPECT_THAT(c.Wait(), IsOk());
    return c;
  }
  // Events come in order: what had been told by now is there when the next one is.
  int DeletionsTold() {
    EXPECT_TRUE(ctrd().WaitForDelete("a"));
    int told = 0;
    for (const RecordedEvent& event : ctrd().events().events())
      told += event.topic == "/tasks/delete";
    return told;
  }

 private:
  void FifoOpener() {
    opener_ = std::make_unique<FifoWriter>(ctrd().io(), gate());
    opener_->Close();
  }
  TestDirectory gate_;
  std::unique_ptr<FifoWriter> opener_;
};

// Checklist: K9.
TEST_F(Delete, TwiceIsNotFoundTheSecondTime) {
  Container& c = New("a", Shell("exit 0"));
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Delete(), IsOk());
  EXPECT_THAT(c.Delete(), IsError(kNotFound, ""));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Delete, TwoAtOnceDeleteOnceAndBothAreAnswered) {
  Container& c = EndedBeforeADeletionThatHangs();
  auto first = SendDelete(c);
  auto second = SendDelete(c);
  EXPECT_THAT(c.ConnectTask(), IsOk());
  EXPECT_THAT(c.State(), IsOk()) << "State waits for nothing";
  EXPECT_FALSE(first.done());
  Open();
  auto a = first.Get();
  auto b = second.Get();
  ASSERT_THAT(a, IsOk());
  ASSERT_THAT(b, IsOk());
  EXPECT_EQ(a->exit_status(), 6u);
  EXPECT_EQ(a->SerializeAsString(), b->SerializeAsString());
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  EXPECT_THAT(c.Delete(), IsError(kNotFound, ""));
  EXPECT_EQ(DeletionsTold(), 1);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Delete, GoesOnWhenTheCallerIsGoneAndKeepsItsAnswer) {
  Container& c = EndedBeforeADeletionThatHangs();
  SendDelete(c);
  EXPECT_THAT(c.State(), IsOk());  // the Delete has arrived
  c.Disconnect();
  ASSERT_THAT(c.Connect(), IsOk());
  Open();
  EXPECT_EQ(DeletionsTold(), 1);
  EXPECT_EQ(c.State()->status(), containerd::v1::types::STOPPED);
  auto again = c.Delete();
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->exit_status(), 6u);
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  EXPECT_THAT(c.Delete(), IsError(kNotFound, ""));
  EXPECT_EQ(DeletionsTold(), 1);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// The same for a caller whose time is over, and who has not gone.
TEST_F(Delete, GoesOnWhenTheCallersTimeIsOverAndKeepsItsAnswer) {
  Container& c = EndedBeforeADeletionThatHangs();
  LoseTheAnswer(c);
  EXPECT_EQ(c.State()->status(), containerd::v1::types::STOPPED);
  EXPECT_EQ(c.State()->exit_status(), 6u);
  auto again = c.Delete();
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->exit_status(), 6u);
  EXPECT_THAT(c.Delete(), IsError(kNotFound, ""));
  EXPECT_EQ(DeletionsTold(), 1);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// A containerd that was killed meanwhile is back after five seconds (RestartSec) or more, and has
// to learn what the container ended with.
TEST_F(Delete, KeepsItsAnswerAndTheShimWhileContainerdIsAway) {
  Container& c = EndedBeforeADeletionThatHangs();
  SendDelete(c);
  EXPECT_THAT(c.State(), IsOk());  // the Delete has arrived
  c.Disconnect();
  Open();
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_FALSE(ctrd().loop().RunUntil([&] { return ctrd().ExitOf(c.shim_pid()).has_value(); },
                                      std::chrono::seconds(7)));
  ASSERT_THAT(c.Connect(), IsOk());
  auto again = c.Delete();
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->exit_status(), 6u);
  EXPECT_EQ(DeletionsTold(), 1);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Delete, ACreationDropsTheAnswerThatNobodyHasHeard) {
  Container& c = EndedBeforeADeletionThatHangs();
  LoseTheAnswer(c);
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 6u);
  auto deleted = SendDelete(c);
  Open();
  EXPECT_THAT(deleted.Get(), IsOk());
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  EXPECT_EQ(DeletionsTold(), 2);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// containerd has buried it by then: nobody asks for the answer any more.
TEST_F(Delete, AnAnswerThatNobodyHasHeardGoesWithTheBundle) {
  Container& c = EndedBeforeADeletionThatHangs();
  LoseTheAnswer(c);
  EXPECT_THAT(c.State(), IsOk());
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(c.State(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Delete(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// Checklist: K8.
TEST_F(Delete, FailureOfTheRuntimeIsToldAndCanBeRetried) {
  TestDirectory flag;
  settings_.runtime = WriteRuntime(
      "runc-fails",
      absl::StrCat("case \"$*\" in *' delete a') [ -e ", flag.path(), "/ok ] || { touch ",
                   flag.path(), "/ok; echo broken >&2; exit 1; };; esac\nexec runc \"$@\"\n"));
  Container& c = New("a", Shell("exit 6"));
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Delete(), IsError(kUnknown, "failed to delete task: "));
  EXPECT_EQ(c.State()->status(), containerd::v1::types::STOPPED);
  auto deleted = c.Delete();
  ASSERT_THAT(deleted, IsOk());
  EXPECT_EQ(deleted->exit_status(), 6u);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Delete, OfACreatedContainerDoesNotWaitForAStartThatWaitsForIt) {
  HangIn("delete");
  Container& c = New("a");
  ASSERT_THAT(c.Create(), IsOk());
  auto deleted = SendDelete(c);
  task::StartRequest request;
  request.set_id("a");
  auto started = c.Send<task::StartResponse>("Start", request);
  EXPECT_THAT(c.State(), IsOk());  // both have arrived
  Open();
  EXPECT_THAT(deleted.Get(), IsOk());
  EXPECT_THAT(started.Get(), IsError(kUnknown, "cannot start a deleted process"));
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(
      ctrd().events().Summaries("a"),
      ::testing::ElementsAre("/tasks/create a", "/tasks/exit a 137", "/tasks/delete a 137"));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Delete, AContainerWhoseBundleIsGoneCanStillBeKilled) {
  Container& c = New("a", Shell("exec sleep 1000"));
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_EQ(rename(c.bundle().c_str(), (c.bundle() + ".gone").c_str()), 0);
  EXPECT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  ASSERT_EQ(rename((c.bundle() + ".gone").c_str(), c.bundle().c_str()), 0);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: C14.
TEST_F(Delete, EverythingElseAnswersWhileACreateHangs) {
  HangIn("create");
  ContainerOptions options = Shell("exit 0");
  options.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
  Container& c = New("a", options);
  auto request = c.CreateRequest();
  auto create = c.Send<task::CreateTaskResponse>("Create", request);
  auto connect = c.ConnectTask();
  ASSERT_THAT(connect, IsOk());
  EXPECT_EQ(connect->task_pid(), 0u);
  EXPECT_NE(c.State().status().code(), kDeadlineExceeded) << "either answer will do";
  EXPECT_THAT(c.Shutdown(), IsOk());
  Container& other = New("b", options);
  EXPECT_THAT(other.State(), IsError(kNotFound, ""));
  EXPECT_FALSE(create.done());
  EXPECT_THAT(c.Create(request), IsError(kAlreadyExists, "")) << "the id is taken";
  Open();
  ASSERT_THAT(create.Get(), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: T8.
TEST_F(Delete, WaitHonoursItsDeadlineAndGoesOnForOthers) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  auto patient = c.WaitAsync();
  EXPECT_THAT(c.Wait("", std::chrono::milliseconds(200)),
              IsError(kDeadlineExceeded, "context deadline exceeded"));
  EXPECT_FALSE(patient.done());
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_EQ(patient.Get()->exit_status(), 137u);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: T9, X15.
TEST_F(Delete, WaitsOfAClosedConnectionHarmNobody) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  for (int round = 0; round < 5; ++round) {
    std::vector<Pending<task::WaitResponse>> abandoned;
    for (int i = 0; i < 20; ++i) abandoned.push_back(c.WaitAsync());
    EXPECT_THAT(c.State(), IsOk());
    c.Disconnect();
    ASSERT_THAT(c.Connect(), IsOk());
  }
  EXPECT_EQ(c.State()->status(), containerd::v1::types::RUNNING);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: C13.
TEST_F(Delete, ConcurrentCreatesOfOneIdMakeOneContainer) {
  Container& c = New("a");
  auto request = c.CreateRequest();
  auto first = c.Send<task::CreateTaskResponse>("Create", request);
  auto second = c.Send<task::CreateTaskResponse>("Create", request);
  auto a = first.Get();
  auto b = second.Get();
  EXPECT_NE(a.ok(), b.ok());
  EXPECT_THAT(a.ok() ? b : a, IsError(kAlreadyExists, ""));
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: E2.
TEST_F(Delete, ConcurrentExecsOfOneIdMakeOneProcess) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  auto request = c.ExecRequest("x", {"true"});
  auto first = c.Send<google::protobuf::Empty>("Exec", request);
  auto second = c.Send<google::protobuf::Empty>("Exec", request);
  auto a = first.Get();
  auto b = second.Get();
  EXPECT_NE(a.ok(), b.ok());
  EXPECT_THAT(a.ok() ? b : a, IsError(kAlreadyExists, "id x"));
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Delete, AnswersWhoWaitsForAnExecThatWasNeverStarted) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  auto exec = c.WaitAsync("x");
  auto init = c.WaitAsync();
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  ASSERT_THAT(init.Get(), IsOk());
  EXPECT_FALSE(exec.done());
  EXPECT_THAT(c.Delete(), IsOk());
  EXPECT_THAT(exec.Get(), IsOk());
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Delete, ClosesTheStreamsOfAnExecWhoseClientIsGone) {
  ContainerOptions grouped;
  grouped.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
  Container& keeper = New("keeper", grouped);
  ASSERT_THAT(keeper.Run(), IsOk());
  // The shim's connection for events is among the descriptors.
  ASSERT_TRUE(ctrd().WaitForEvent([](auto& event) { return event.topic == "/tasks/start"; }));
  auto descriptors = [shim = keeper.shim_pid()] {
    std::filesystem::directory_iterator fds(absl::StrCat("/proc/", shim, "/fd"));
    return std::distance(begin(fds), end(fds));
  };
  auto before = descriptors();
  Container& c = New("a", grouped);
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  auto exec = c.WaitAsync("x");
  c.exec_stdio("x") = {};
  ASSERT_THAT(c.Kill(SIGKILL, "x"), IsOk());
  ASSERT_THAT(exec.Get(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_TRUE(RunUntil([&] { return descriptors() <= before; }))
      << descriptors() << " descriptors, " << before << " before";
  EXPECT_THAT(keeper.KillAndRemove(), IsOk());
}

TEST_F(Delete, OfAContainerWhoseCreatorIsGoneNeedsNobody) {
  HangIn("create");
  Container& c = New("a");
  CreateAndLeave(c);
  Open();
  ASSERT_THAT(c.Connect(), IsOk());
  ShutDownOnceItsContainerIsGone(c);
}

// Nor the shim's end, though nobody asks for it.
TEST_F(Delete, OfAContainerWhoseCreatorNeverReturnsIsFollowedByTheShimsEnd) {
  HangIn("create");
  Container& c = New("a");
  CreateAndLeave(c);
  Open();
  ASSERT_TRUE(RunUntil([&] { return ctrd().ExitOf(c.shim_pid()).has_value(); }));
  EXPECT_EQ(ctrd().ExitOf(c.shim_pid()), 0);
  EXPECT_THAT(c.RemoveBundle(), IsOk()) << "the bundle was there until then, without its mount";
}

TEST_F(Delete, OfAContainerWhoseCreatorIsGoneIsTriedUntilItSucceeds) {
  MakeFifo(gate());
  settings_.runtime =
      WriteRuntime("runc-will-not-delete", absl::StrCat(R"(
case " $* " in
*' create '*) touch )",
                                                        gate(), ".reached; cat ", gate(), R"(;;
*' delete '*) [ -e "$0.can" ] || { echo cannot >&2; exit 1; };;
esac
exec runc "$@"
)"));
  Container& c = New("a");
  CreateAndLeave(c);
  Open();
  ASSERT_THAT(c.Connect(), IsOk());
  ASSERT_TRUE(RunUntil([&] {
    return absl::StrContains(ctrd().log(), "cannot delete a container whose creation failed");
  }));
  EXPECT_THAT(c.Shutdown(), IsOk());
  EXPECT_THAT(c.ConnectTask(), IsOk()) << "the shim must not end before it is gone";
  ASSERT_THAT(WriteFile(ctrd().settings().runtime + ".can", "", 0644), IsOk());
  ShutDownOnceItsContainerIsGone(c);
}

// Nobody answers for this file system: whoever looks at what is in it waits.
TEST_F(Delete, UnmountsAFileSystemThatHangsAndServesOthersMeanwhile) {
  ContainerOptions pod;
  pod.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
  Container& other = New("other", pod);
  ASSERT_THAT(other.Run(), IsOk());
  ContainerOptions options = Shell("exit 0");
  options.spec.patch = pod.spec.patch;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  UniqueFd server(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!server) {
    EXPECT_THAT(c.Remove(), IsOk());
    EXPECT_THAT(other.KillAndRemove(), IsOk());
    GTEST_SKIP() << "no /dev/fuse: " << strerror(errno);
  }
  // Over a mount of its own, as an image's volume would lie.
  const std::string target = c.bundle() + "/rootfs/tmp";
  std::string data = absl::StrCat("fd=", server.get(), ",rootmode=40000,user_id=0,group_id=0");
  ASSERT_EQ(mount("none", target.c_str(), "tmpfs", 0, nullptr), 0) << strerror(errno);
  ASSERT_EQ(mount("hangs", target.c_str(), "fuse", 0, data.c_str()), 0) << strerror(errno);
  auto deletion = SendDelete(c);
  EXPECT_THAT(other.State(), IsOk());
  EXPECT_THAT(other.Exec("x", {"true"}), IsOk());
  EXPECT_THAT(other.Start("x"), IsOk());
  EXPECT_EQ(other.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(deletion.Get(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(other.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
