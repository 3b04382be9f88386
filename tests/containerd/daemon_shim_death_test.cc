// The shim killed under each containerd: what is left is containerd's clean-up, by the shim's own
// `delete` command.

#include <signal.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

using ::testing::IsEmpty;

class DaemonShimDeath : public DaemonTest {
 protected:
  // No trace in the system; the container's record is still in containerd.
  void ExpectNoTrace() {
    EXPECT_TRUE(Eventually([&] {
      return daemon_->Processes().empty() && daemon_->Mounts().empty() &&
             daemon_->Cgroups().empty();
    }));
    EXPECT_THAT(daemon_->Processes(), IsEmpty());
    EXPECT_THAT(daemon_->Mounts(), IsEmpty());
    EXPECT_THAT(daemon_->Cgroups(), IsEmpty());
  }
  // The stock shim's socket stays behind; nobody removes it.
  void ExpectNoSocket(const std::string& socket) {
    if (Daemon::TestsFeather()) {
      EXPECT_NE(access(socket.c_str(), F_OK), 0) << socket;
    } else {
      unlink(socket.c_str());
    }
  }
};
FEATHER_EVERY_DAEMON(DaemonShimDeath);

// Checklist: D3.
TEST_P(DaemonShimDeath, IsCleanedUpByContainerd) {
  const CommandResult run = daemon_->Ctr(
      daemon_->Run("a", {"--detach", "--null-io"}, {"sh", "-c", "sleep 1000 & sleep 1000"}));
  ASSERT_EQ(run.code, 0) << run.err;
  const std::string socket = daemon_->ShimSocket("a");
  ASSERT_EQ(access(socket.c_str(), F_OK), 0) << socket;
  ASSERT_EQ(kill(daemon_->ShimPid("a"), SIGKILL), 0);
  ASSERT_TRUE(daemon_->WaitEvent("/tasks/delete a"));
  ExpectEvents("a", {"/tasks/create a", "/tasks/start a", "/tasks/exit a", "/tasks/delete a"});
  EXPECT_EQ(ExitStatus("a"), "137");
  ExpectNoTrace();
  ExpectNoSocket(socket);
  EXPECT_EQ(daemon_->TaskStatus("a"), "");
  EXPECT_EQ(daemon_->Ctr({"container", "delete", "a"}).code, 0);
}

TEST_P(DaemonShimDeath, EndsAnAttachedClient) {
  const std::unique_ptr<Subprocess> run =
      daemon_->StartCtr(daemon_->Run("a", {}, {"sh", "-c", "echo ready; exec sleep 1000"}));
  ASSERT_TRUE(run->WaitOutput("ready"));
  const std::string socket = daemon_->ShimSocket("a");
  ASSERT_EQ(kill(daemon_->ShimPid("a"), SIGKILL), 0);
  EXPECT_TRUE(run->Wait().has_value());
  daemon_->RemoveClientFifos();
  ExpectNoTrace();
  ExpectNoSocket(socket);
  EXPECT_EQ(daemon_->Ctr({"container", "delete", "a"}).code, 0);
}

TEST_P(DaemonShimDeath, OfAGroupedShimIsCleanedUpAtTheLatestByARestart) {
  for (const char* id : {"pod", "work"}) {
    const CommandResult run = daemon_->Ctr(daemon_->Run(
        id, {"--detach", "--null-io", "--annotation", "io.containerd.runc.v2.group=pod"},
        {"sleep", "1000"}));
    ASSERT_EQ(run.code, 0) << run.err;
  }
  const std::string socket = daemon_->ShimSocket("pod");
  ASSERT_EQ(kill(daemon_->ShimPid("pod"), SIGKILL), 0);
  ASSERT_TRUE(daemon_->WaitEvent("/tasks/delete pod"));
  ASSERT_TRUE(daemon_->Restart()) << daemon_->Log();
  daemon_->FollowEvents();
  ExpectNoTrace();
  ExpectNoSocket(socket);
  for (const char* id : {"pod", "work"}) {
    EXPECT_TRUE(Eventually([&] { return daemon_->TaskStatus(id).empty(); }));
    EXPECT_EQ(daemon_->Ctr({"container", "delete", id}).code, 0);
  }
}

}  // namespace
}  // namespace feather::test
