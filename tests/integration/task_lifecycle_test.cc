// One container from create to delete, with every OCI runtime.

#include <signal.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Lifecycle : public RuntimeTest {};
INSTANTIATE_TEST_SUITE_P(Runtimes, Lifecycle, kRuntimes, RuntimeName);

absl::Time At(const google::protobuf::Timestamp& t) {
  return absl::FromUnixSeconds(t.seconds()) + absl::Nanoseconds(t.nanos());
}

// Checklist: X1, X14, M10.
TEST_P(Lifecycle, RunsAContainerToItsEnd) {
  Container& c = New("a", Shell("echo out; echo err >&2; exit 7"));
  auto pid = c.Create();
  ASSERT_THAT(pid, IsOk());
  auto created = c.State();
  ASSERT_THAT(created, IsOk());
  EXPECT_EQ(created->status(), containerd::v1::types::CREATED);
  EXPECT_EQ(created->pid(), *pid);
  EXPECT_EQ(created->id(), "a");
  EXPECT_EQ(created->bundle(), c.bundle());
  EXPECT_EQ(created->stdout(), c.stdio().out->path());
  EXPECT_EQ(created->stderr(), c.stdio().err->path());
  EXPECT_EQ(created->stdin(), "");

  auto started = c.Start();
  ASSERT_THAT(started, IsOk());
  EXPECT_EQ(*started, *pid);
  auto wait = c.Wait();
  ASSERT_THAT(wait, IsOk());
  EXPECT_EQ(wait->exit_status(), 7u);
  EXPECT_LT(absl::Now() - At(wait->exited_at()), absl::Minutes(5));

  auto stopped = c.State();
  ASSERT_THAT(stopped, IsOk());
  EXPECT_EQ(stopped->status(), containerd::v1::types::STOPPED);
  EXPECT_EQ(stopped->exit_status(), 7u);
  EXPECT_EQ(At(stopped->exited_at()), At(wait->exited_at()));
  ASSERT_TRUE(WaitForEof(c.stdio())) << "the client must see EOF before Delete";
  EXPECT_EQ(c.stdio().out->data(), "out\n");
  EXPECT_EQ(c.stdio().err->data(), "err\n");

  auto deleted = c.Delete();
  ASSERT_THAT(deleted, IsOk());
  EXPECT_EQ(deleted->pid(), *pid);
  EXPECT_EQ(deleted->exit_status(), 7u);
  EXPECT_EQ(At(deleted->exited_at()), At(wait->exited_at()));
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(ctrd().events().Summaries(), ElementsAre("/tasks/create a", "/tasks/start a",
                                                       "/tasks/exit a 7", "/tasks/delete a 7"));
  for (const RecordedEvent& event : ctrd().events().events()) {
    EXPECT_EQ(event.pid, *pid) << event.topic;
    EXPECT_EQ(event.name_space, ctrd().name_space()) << event.topic;
    bool ended = event.topic == "/tasks/exit" || event.topic == "/tasks/delete";
    EXPECT_EQ(event.exited_at, ended ? At(wait->exited_at()) : absl::InfinitePast());
  }
  EXPECT_THAT(c.Shutdown(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
}

// Checklist: C11.
TEST_P(Lifecycle, TellsWhichProcessIsIts) {
  Container& c = New("a");
  auto before = c.ConnectTask();
  ASSERT_THAT(before, IsOk());
  EXPECT_EQ(before->shim_pid(), static_cast<uint32_t>(c.shim_pid()));
  EXPECT_EQ(before->task_pid(), 0u);
  ASSERT_THAT(c.Run(), IsOk());
  auto after = c.ConnectTask();
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ(after->task_pid(), c.State()->pid());
  auto pids = c.Pids();
  ASSERT_THAT(pids, IsOk());
  ASSERT_EQ(pids->processes_size(), 1);
  EXPECT_EQ(pids->processes(0).pid(), after->task_pid());
  EXPECT_FALSE(pids->processes(0).has_info());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_P(Lifecycle, EndsWith128PlusTheSignalWhenKilled) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  auto wait = c.WaitAsync();
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  auto exit = wait.Get();
  ASSERT_THAT(exit, IsOk());
  EXPECT_EQ(exit->exit_status(), 128u + SIGKILL);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: X13.
TEST_P(Lifecycle, AnswersEveryWaiterBeforeTheStartAndAfterTheEnd) {
  Container& c = New("a", Shell("exit 3"));
  ASSERT_THAT(c.Create(), IsOk());
  std::vector<Pending<task::WaitResponse>> waits;
  for (int i = 0; i < 20; ++i) waits.push_back(c.WaitAsync());
  ASSERT_THAT(c.Start(), IsOk());
  for (auto& wait : waits) {
    auto exit = wait.Get();
    ASSERT_THAT(exit, IsOk());
    EXPECT_EQ(exit->exit_status(), 3u);
  }
  auto late = c.Wait();
  ASSERT_THAT(late, IsOk());
  EXPECT_EQ(late->exit_status(), 3u);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: X12.
TEST_P(Lifecycle, DeletesAContainerThatWasNeverStarted) {
  Container& c = New("a");
  ASSERT_THAT(c.Create(), IsOk());
  auto wait = c.WaitAsync();
  ASSERT_THAT(c.Delete(), IsOk());
  ASSERT_THAT(wait.Get(), IsOk()) << "whoever waits must learn of it";
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_EQ(ctrd().events().events().front().topic, "/tasks/create");
  EXPECT_EQ(ctrd().events().Find([](auto& e) { return e.topic == "/tasks/start"; }), nullptr);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// Checklist: X12.
TEST_P(Lifecycle, KillsAContainerThatWasNeverStarted) {
  Container& c = New("a");
  ASSERT_THAT(c.Create(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(ctrd().events().Summaries(),
              ElementsAre("/tasks/create a", "/tasks/exit a 137", "/tasks/delete a 137"));
}

// Checklist: X3.
TEST_P(Lifecycle, KeepsTheOrderOfEventsOfContainersThatExitAtOnce) {
  ContainerOptions options = Shell("exit 0");
  options.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
  constexpr int kContainers = 20;
  for (int i = 0; i < kContainers; ++i) {
    std::string id = "c" + std::to_string(i);
    Container& c = New(id, options);
    ASSERT_THAT(c.Run(), IsOk());
    ASSERT_THAT(c.Wait(), IsOk());
    ASSERT_THAT(c.Remove(), IsOk());
    ASSERT_TRUE(ctrd().WaitForDelete(id));
    EXPECT_THAT(ctrd().events().Summaries(id),
                ElementsAre("/tasks/create " + id, "/tasks/start " + id, "/tasks/exit " + id + " 0",
                            "/tasks/delete " + id + " 0"));
  }
}

// Checklist: C16.
TEST_P(Lifecycle, UsesTheRootOfTheSpecWhenTheRequestMountsNothing) {
  ContainerOptions options = Shell("ls /bin/busybox");
  options.mount_rootfs = false;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_EQ(c.stdio().out->data(), "/bin/busybox\n");
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_P(Lifecycle, TellsWhyTheRuntimeCouldNotCreateAndLeavesNothing) {
  ContainerOptions options;
  options.spec.args = {"/no/such/program"};
  Container& c = New("a", options);
  EXPECT_THAT(c.Create(), IsError(kUnknown, "OCI runtime create failed: "));
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  EXPECT_THAT(c.Delete(), IsError(kNotFound, ""));
  EXPECT_THAT(c.Shutdown(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(ctrd().events().Summaries(), IsEmpty());
}

// Checklist: C18.
TEST_P(Lifecycle, CreatesAgainAfterAFailure) {
  settings_.env.push_back("LANG=C");
  Container& c = New("a");
  auto request = c.CreateRequest();
  request.mutable_rootfs(0)->set_source("/no/such/image");
  EXPECT_THAT(c.Create(request), IsError(kUnknown, "failed to mount rootfs component"));
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: D3.
TEST_P(Lifecycle, DeleteCommandRemovesWhatAKilledShimLeft) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  uint32_t pid = c.State()->pid();
  c.KillShim();
  auto result = c.RunDelete();
  EXPECT_EQ(result.helper.exit_code, 0) << result.helper.err;
  EXPECT_EQ(result.response.pid(), pid);
  EXPECT_EQ(result.response.exit_status(), 137u);
  EXPECT_THAT(c.RemoveBundle(), IsOk());
}

// As the stock shim of containerd 2.4. Checklist: D3.
TEST_P(Lifecycle, DeleteCommandTellsHowTheContainerHadEnded) {
  Container& c = New("a", Shell("exit 7"));
  ASSERT_THAT(c.Run(), IsOk());
  auto wait = c.Wait();
  ASSERT_THAT(wait, IsOk());
  uint32_t pid = c.State()->pid();
  c.KillShim();
  auto result = c.RunDelete();
  EXPECT_EQ(result.helper.exit_code, 0);
  EXPECT_EQ(result.helper.err, "");
  EXPECT_EQ(result.response.pid(), pid);
  EXPECT_EQ(result.response.exit_status(), 7u);
  EXPECT_EQ(At(result.response.exited_at()), At(wait->exited_at()));
  EXPECT_THAT(c.RemoveBundle(), IsOk());
}

// Checklist: G2.
TEST_P(Lifecycle, ASignalEndsTheShimAndLeavesItsContainersToDelete) {
  for (int signal : {SIGTERM, SIGINT}) {
    Container& c = New(absl::StrCat("a", signal), Shell("trap '' TERM INT; sleep 1000 & wait"));
    ASSERT_THAT(c.Run(), IsOk());
    const pid_t pid = static_cast<pid_t>(c.State()->pid());
    kill(c.shim_pid(), signal);
    ASSERT_TRUE(RunUntil([&] { return ctrd().ExitOf(c.shim_pid()).has_value(); }));
    EXPECT_EQ(ctrd().ExitOf(c.shim_pid()), 0);
    EXPECT_NE(access(c.answer().address.substr(strlen("unix://")).c_str(), F_OK), 0);
    EXPECT_TRUE(RunUntil([&] { return !c.connected(); }));
    c.Disconnect();
    EXPECT_EQ(kill(pid, 0), 0) << "the container goes on";
    auto result = c.RunDelete();
    EXPECT_EQ(result.helper.exit_code, 0) << result.helper.err;
    EXPECT_EQ(result.response.pid(), static_cast<uint32_t>(pid));
    EXPECT_THAT(c.RemoveBundle(), IsOk());
  }
}

}  // namespace
}  // namespace feather::test
