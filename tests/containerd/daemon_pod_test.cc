// Containers that share one shim by annotation, with each containerd.

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

class DaemonPod : public DaemonTest {
 protected:
  void RunInPod(const std::string& id) {
    const CommandResult run = daemon_->Ctr(daemon_->Run(
        id, {"--detach", "--null-io", "--annotation", "io.containerd.runc.v2.group=pod"},
        {"sleep", "1000"}));
    ASSERT_EQ(run.code, 0) << run.err;
  }
};
FEATHER_EVERY_DAEMON(DaemonPod);

TEST_P(DaemonPod, SharesOneShimThatEndsWithItsLastContainer) {
  for (const char* id : {"pod", "one", "two"}) ASSERT_NO_FATAL_FAILURE(RunInPod(id));
  const pid_t shim = daemon_->ShimPid("pod");
  ASSERT_GT(shim, 1);
  EXPECT_EQ(daemon_->ShimPid("one"), shim);
  EXPECT_EQ(daemon_->ShimPid("two"), shim);
  const std::string socket = daemon_->ShimSocket("pod");

  // Its first container, whose bundle is the shim's working directory, may go first.
  daemon_->Remove("pod");
  EXPECT_EQ(daemon_->Ctr(daemon_->Exec("one", "e", {}, {"sh", "-c", "exit 5"})).code, 5);
  ASSERT_NO_FATAL_FAILURE(RunInPod("three"));
  EXPECT_EQ(daemon_->ShimPid("three"), shim);
  for (const char* id : {"one", "two", "three"}) {
    EXPECT_EQ(daemon_->ShimPid(id), shim);
    daemon_->Remove(id);
  }
  EXPECT_TRUE(Eventually([&] { return daemon_->Processes().empty(); }));
  if (!Daemon::TestsFeather()) unlink(socket.c_str());  // The stock shim looks for another name.
  EXPECT_NE(access(socket.c_str(), F_OK), 0);
}

// Checklist: G6.
TEST_P(DaemonPod, SurvivesARestartOfContainerd) {
  for (const char* id : {"pod", "one"}) ASSERT_NO_FATAL_FAILURE(RunInPod(id));
  const pid_t shim = daemon_->ShimPid("pod");
  const std::string socket = daemon_->ShimSocket("pod");
  ASSERT_TRUE(daemon_->Restart()) << daemon_->Log();
  daemon_->FollowEvents();
  ASSERT_NO_FATAL_FAILURE(RunInPod("two"));
  for (const char* id : {"pod", "one", "two"}) {
    EXPECT_EQ(daemon_->TaskStatus(id), "RUNNING");
    EXPECT_EQ(daemon_->ShimPid(id), shim);
  }
  for (const char* id : {"one", "pod", "two"}) daemon_->Remove(id);
  if (!Daemon::TestsFeather()) unlink(socket.c_str());
}

}  // namespace
}  // namespace feather::test
