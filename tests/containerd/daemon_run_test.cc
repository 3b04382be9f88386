// Containers run, stopped and removed by `ctr` with each containerd.

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

class DaemonRun : public DaemonTest {};
FEATHER_EVERY_DAEMON(DaemonRun);

TEST_P(DaemonRun, PrintsWhatTheContainerPrintsAndPassesItsExitStatusOn) {
  GTEST_LOG_(INFO) << "containerd " << daemon_->version() << " of " << daemon_->suite();
  const CommandResult result = daemon_->Ctr(
      daemon_->Run("a", {"--rm"}, {"sh", "-c", "echo to stdout; echo to stderr >&2; exit 7"}));
  EXPECT_EQ(result.code, 7);
  EXPECT_EQ(result.out, "to stdout\n");
  EXPECT_THAT(result.err, HasSubstr("to stderr\n"));
  ExpectEvents("a", {"/tasks/create a", "/tasks/start a", "/tasks/exit a", "/tasks/delete a"});
  EXPECT_EQ(ExitStatus("a"), "7");
}

// Checklist: X2.
TEST_P(DaemonRun, EndsAContainerThatIsOverBeforeItsStartIsAnswered) {
  for (int i = 0; i < 5; ++i) {
    const std::string id = absl::StrCat("quick-", i);
    EXPECT_EQ(daemon_->Ctr(daemon_->Run(id, {"--rm"}, {"true"})).code, 0);
    ExpectEvents(id, {"/tasks/create " + id, "/tasks/start " + id, "/tasks/exit " + id,
                      "/tasks/delete " + id});
  }
}

TEST_P(DaemonRun, ListsTheProcessesOfADetachedContainer) {
  const CommandResult run =
      daemon_->Ctr(daemon_->Run("a", {"--detach"}, {"sh", "-c", "sleep 1000 & sleep 1000 & wait"}));
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
  const std::string init = absl::StrCat(daemon_->InitPid("a"));
  CommandResult ps;
  EXPECT_TRUE(Eventually([&] {
    ps = daemon_->Ctr({"task", "ps", "a"});
    return std::count(ps.out.begin(), ps.out.end(), '\n') == 4;
  })) << ps.out
      << ps.err;
  EXPECT_THAT(ps.out, HasSubstr(init));
  // The program that is meant to be tested.
  const std::string shim =
      std::filesystem::read_symlink(absl::StrCat("/proc/", daemon_->ShimPid("a"), "/exe"));
  EXPECT_EQ(absl::StrContains(shim, "-grpc-"), Daemon::TestsGrpc()) << shim;
  daemon_->Remove("a");
  EXPECT_EQ(daemon_->TaskStatus("a"), "");
}

TEST_P(DaemonRun, ReportsTheSignalThatEndedAContainer) {
  // An init gets only signals that it handles, but for SIGKILL; the shell's trap says which came.
  const std::string script =
      "trap 'exit 31' TERM; trap 'exit 32' USR1; trap 'exit 33' HUP; echo ready; "
      "while :; do sleep 0.05; done";
  const std::pair<const char*, const char*> signals[] = {
      {"SIGTERM", "31"}, {"SIGUSR1", "32"}, {"1", "33"}, {"SIGKILL", "137"}};
  int n = 0;
  for (const auto& [signal, status] : signals) {
    const std::string id = absl::StrCat("a", n++);
    const std::unique_ptr<Subprocess> run =
        daemon_->StartCtr(daemon_->Run(id, {"--rm"}, {"sh", "-c", script}));
    ASSERT_TRUE(run->WaitOutput("ready\n")) << run->err();
    const CommandResult kill = daemon_->Ctr({"task", "kill", "--signal", signal, id});
    EXPECT_EQ(kill.code, 0) << kill.err;
    EXPECT_EQ(absl::StrCat(run->Wait().value_or(-1)), status) << signal;
    ASSERT_TRUE(daemon_->WaitEvent("/tasks/exit " + id));
    EXPECT_EQ(ExitStatus(id), status);
  }
}

TEST_P(DaemonRun, KillsEveryProcessOfAContainer) {
  ASSERT_EQ(
      daemon_->Ctr(daemon_->Run("a", {"--detach"}, {"sh", "-c", "sleep 1000 & sleep 1001"})).code,
      0);
  const CommandResult kill = daemon_->Ctr({"task", "kill", "--all", "--signal", "SIGKILL", "a"});
  EXPECT_EQ(kill.code, 0) << kill.err;
  ASSERT_TRUE(daemon_->WaitEvent("/tasks/exit a"));
  EXPECT_TRUE(Eventually([&] { return daemon_->TaskStatus("a") == "STOPPED"; }));
  daemon_->Remove("a");
}

TEST_P(DaemonRun, KeepsTheExitStatusOfADetachedContainerUntilItIsDeleted) {
  ASSERT_EQ(daemon_->Ctr(daemon_->Run("a", {"--detach"}, {"sh", "-c", "exit 42"})).code, 0);
  ASSERT_TRUE(daemon_->WaitEvent("/tasks/exit a"));
  EXPECT_TRUE(Eventually([&] { return daemon_->TaskStatus("a") == "STOPPED"; }));
  EXPECT_THAT(daemon_->Ctr({"task", "delete", "a"}).err, HasSubstr("exit code 42"));
  EXPECT_EQ(daemon_->Ctr({"container", "delete", "a"}).code, 0);
}

TEST_P(DaemonRun, RefusesToDeleteARunningContainerUnlessForced) {
  ASSERT_EQ(daemon_->Ctr(daemon_->Run("a", {"--detach"}, {"sleep", "1000"})).code, 0);
  const CommandResult refused = daemon_->Ctr({"task", "delete", "a"});
  EXPECT_NE(refused.code, 0);
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
  daemon_->Ctr({"task", "delete", "--force", "a"});
  EXPECT_TRUE(Eventually([&] { return daemon_->TaskStatus("a").empty(); }));
  EXPECT_EQ(daemon_->Ctr({"container", "delete", "a"}).code, 0);
}

TEST_P(DaemonRun, TellsWhyAContainerCannotBeMade) {
  const CommandResult result = daemon_->Ctr(daemon_->Run("a", {"--rm"}, {"/no/such/program"}));
  EXPECT_NE(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("OCI runtime create failed"));
  EXPECT_THAT(result.err, HasSubstr("/no/such/program"));
  daemon_->Ctr({"container", "delete", "a"});
}

// ctr gives options to this runtime only.
constexpr char kStockRuntime[] = "io.containerd.runc.v2";

TEST_P(DaemonRun, TellsWhichRuntimeBinaryIsMissing) {
  daemon_->ServeAs(kStockRuntime);
  const CommandResult result = daemon_->Ctr(
      daemon_->Run("a", {"--rm", "--runc-binary", "no-runc"}, {"true"}, kStockRuntime));
  EXPECT_NE(result.code, 0);
  EXPECT_THAT(result.err, HasSubstr("\"no-runc\": executable file not found in $PATH"));
  daemon_->Ctr({"container", "delete", "a"});
}

TEST_P(DaemonRun, ServesTheStockShimsNameAndOptions) {
  daemon_->ServeAs(kStockRuntime);
  const std::string root = daemon_->directory() + "/runc";
  const std::vector<std::string> flags = {"--detach", "--null-io", "--runc-root", root};
  const CommandResult run =
      daemon_->Ctr(daemon_->Run("a", flags, {"sleep", "1000"}, kStockRuntime));
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(access(absl::StrCat(root, "/", daemon_->containerd_namespace(), "/a").c_str(), F_OK),
            0);
  daemon_->Remove("a");
}

// Checklist: R1.
TEST_P(DaemonRun, FreezesAndThawsAContainer) {
  const std::unique_ptr<Subprocess> run = daemon_->StartCtr(
      daemon_->Run("a", {"--rm"}, {"sh", "-c", "while :; do echo tick; sleep 0.05; done"}));
  ASSERT_TRUE(run->WaitOutput("tick"));
  const CommandResult pause = daemon_->Ctr({"task", "pause", "a"});
  ASSERT_EQ(pause.code, 0) << pause.err;
  EXPECT_EQ(daemon_->TaskStatus("a"), "PAUSED");
  EXPECT_NE(daemon_->Ctr(daemon_->Exec("a", "e", {}, {"true"})).code, 0);
  ASSERT_EQ(daemon_->Ctr({"task", "resume", "a"}).code, 0);
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
  daemon_->Ctr({"task", "kill", "--signal", "SIGKILL", "a"});
  EXPECT_EQ(run->Wait(), 137);
  ExpectEvents("a", {"/tasks/create a", "/tasks/start a", "/tasks/paused a", "/tasks/resumed a",
                     "/tasks/exit a", "/tasks/delete a"});
}

TEST_P(DaemonRun, RunsContainersBesideEachOther) {
  std::vector<std::unique_ptr<Subprocess>> runs;
  for (int i = 0; i < 8; ++i) {
    runs.push_back(daemon_->StartCtr(
        daemon_->Run(absl::StrCat("many-", i), {"--rm"}, {"sh", "-c", absl::StrCat("echo ", i)})));
  }
  for (size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i]->Wait(), 0) << runs[i]->err();
    EXPECT_EQ(runs[i]->out(), absl::StrCat(i, "\n"));
  }
}

}  // namespace
}  // namespace feather::test
