// A container over its memory limit, under each containerd, on cgroup1 and cgroup2.

#include "absl/strings/str_cat.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

class DaemonOom : public DaemonTest {};
FEATHER_EVERY_DAEMON(DaemonOom);

constexpr char kLimitBytes[] = "16777216";
// Grows until something stops it.
constexpr char kGrow[] = "x=0123456789abcdef; while :; do x=$x$x; done";

// Checklist: O3.
TEST_P(DaemonOom, IsReportedBeforeTheExitOfTheContainerThatWasKilled) {
  const CommandResult run =
      daemon_->Ctr(daemon_->Run("a", {"--rm", "--memory-limit", kLimitBytes}, {"sh", "-c", kGrow}));
  EXPECT_EQ(run.code, 137) << run.err;
  ExpectEvents("a", {"/tasks/create a", "/tasks/start a", "/tasks/oom a", "/tasks/exit a",
                     "/tasks/delete a"});
}

// Checklist: O5.
TEST_P(DaemonOom, IsReportedBeforeTheExitOfTheExecThatWasKilled) {
  const CommandResult run = daemon_->Ctr(daemon_->Run(
      "a", {"--detach", "--null-io", "--memory-limit", kLimitBytes}, {"sleep", "1000"}));
  ASSERT_EQ(run.code, 0) << run.err;
  const CommandResult exec = daemon_->Ctr(daemon_->Exec("a", "e", {}, {"sh", "-c", kGrow}));
  EXPECT_EQ(exec.code, 137) << exec.err;
  ExpectEvents("a", {"/tasks/create a", "/tasks/start a", "/tasks/exec-added a/e",
                     "/tasks/exec-started a/e", "/tasks/oom a", "/tasks/exit a/e"});
  EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
  daemon_->Remove("a");
}

TEST_P(DaemonOom, IsNotReportedOfAContainerThatStaysBelowItsLimit) {
  const CommandResult run = daemon_->Ctr(
      daemon_->Run("a", {"--rm", "--memory-limit", kLimitBytes}, {"sh", "-c", "exit 9"}));
  EXPECT_EQ(run.code, 9) << run.err;
  ExpectEvents("a", {"/tasks/create a", "/tasks/start a", "/tasks/exit a", "/tasks/delete a"});
}

}  // namespace
}  // namespace feather::test
