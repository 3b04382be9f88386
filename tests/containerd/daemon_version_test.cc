// Which version of the task API the shim answers to `start`, with each containerd. 1.7 and 2.0
// to 2.2 call it in the same way: the shim looks into the daemon's executable, and a variable
// overrides that.

#include <cstdlib>

#include "absl/strings/string_view.h"
#include "runtime/base/file.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

class DaemonVersion : public DaemonTest {
 protected:
  // A container's life, in whose course containerd is restarted and finds the shim again.
  void LiveThroughARestart(absl::string_view version) {
    const CommandResult run =
        daemon_->Ctr(daemon_->Run("a", {"--detach", "--null-io"}, {"sleep", "1000"}));
    ASSERT_EQ(run.code, 0) << run.err;
    // Only containerd 2 keeps what was answered.
    if (daemon_->suite() == "sid") {
      const auto bootstrap = ReadFile(daemon_->Bundle("a") + "/bootstrap.json");
      ASSERT_TRUE(bootstrap.ok()) << bootstrap.status();
      EXPECT_THAT(*bootstrap, ::testing::HasSubstr(version));
    }
    EXPECT_EQ(daemon_->Ctr(daemon_->Exec("a", "e", {}, {"sh", "-c", "exit 7"})).code, 7);
    ASSERT_TRUE(daemon_->Restart()) << daemon_->Log();
    EXPECT_EQ(daemon_->TaskStatus("a"), "RUNNING");
    EXPECT_EQ(daemon_->Ctr(daemon_->Exec("a", "f", {}, {"sh", "-c", "exit 8"})).code, 8);
    daemon_->Remove("a");
  }
};
FEATHER_EVERY_DAEMON(DaemonVersion);

// Checklist: L7.
TEST_P(DaemonVersion, IsTheNewestThatTheDaemonUnderstands) {
  ASSERT_NO_FATAL_FAILURE(LiveThroughARestart("\"version\":3"));
}

class DaemonVersionTwo : public DaemonVersion {
 protected:
  void SetUp() override {
    if (!Daemon::TestsFeather()) GTEST_SKIP() << "the variable is feather's";
    setenv("FEATHER_SHIM_VERSION", "2", 1);
    DaemonVersion::SetUp();
  }
  ~DaemonVersionTwo() override { unsetenv("FEATHER_SHIM_VERSION"); }
};
FEATHER_EVERY_DAEMON(DaemonVersionTwo);

TEST_P(DaemonVersionTwo, IsSpokenWhereTheVariableAsksForIt) {
  ASSERT_NO_FATAL_FAILURE(LiveThroughARestart("\"version\":2"));
}

}  // namespace
}  // namespace feather::test
