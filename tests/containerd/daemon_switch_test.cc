// A node whose shim is exchanged, for feather or back, while its pods run: by itself, and together
// with an upgrade of containerd.

#include <signal.h>
#include <unistd.h>

#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

constexpr char kRuntime[] = "io.containerd.runc.v2";

// Debian suites, whose containerd is there first and then.
struct Change {
  std::string from, to;
  friend void PrintTo(const Change& change, std::ostream* out) {
    *out << change.from << " to " << change.to;
  }
};

class DaemonSwitch : public ::testing::TestWithParam<Change> {
 protected:
  void SetUp() override {
    if (!Daemon::TestsFeather()) GTEST_SKIP() << "feather is one of the two";
    const auto& [from, to] = GetParam();
    const std::string reason = Daemon::Unavailable(from) + Daemon::Unavailable(to);
    if (!reason.empty()) GTEST_SKIP() << reason;
    daemon_ = std::make_unique<Daemon>(from);
    if (access(daemon_->StockShim().c_str(), X_OK) != 0)
      GTEST_SKIP() << "no " << daemon_->StockShim();
  }

  void TearDown() override {
    if (daemon_ == nullptr) return;
    EXPECT_THAT(daemon_->Leftovers(), ::testing::IsEmpty());
    EXPECT_TRUE(daemon_->Stop());
    if (HasFailure()) daemon_->PrintLog();
  }

  void Run(const std::string& id, const std::string& pod) {
    const std::string group = "io.containerd.runc.v2.group=" + pod;
    const CommandResult run = daemon_->Ctr(daemon_->Run(
        id, {"--detach", "--null-io", "--annotation", group}, {"sleep", "1000"}, kRuntime));
    ASSERT_EQ(run.code, 0) << run.err;
  }

  void ExpectExec(const std::string& id) {
    EXPECT_EQ(daemon_->Ctr(daemon_->Exec(id, "e", {}, {"sh", "-c", "exit 7"})).code, 7) << id;
  }

  // A pod goes on, with a new container; another's shim is killed.
  void GoOn(bool from_stock) {
    daemon_->ServeAs(kRuntime, from_stock ? daemon_->StockShim() : "");
    ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
    for (const char* id : {"pod", "one"}) ASSERT_NO_FATAL_FAILURE(Run(id, "pod"));
    ASSERT_NO_FATAL_FAILURE(Run("lone", "lone"));
    const pid_t shim = daemon_->ShimPid("pod");
    std::vector<std::string> sockets = {daemon_->ShimSocket("pod"), daemon_->ShimSocket("lone")};

    ASSERT_TRUE(daemon_->Stop());
    daemon_->Upgrade(GetParam().to);
    daemon_->ServeAs(kRuntime, from_stock ? "" : daemon_->StockShim());
    ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
    daemon_->FollowEvents();
    ASSERT_NO_FATAL_FAILURE(Run("two", "pod"));
    for (const char* id : {"pod", "one", "two"}) {
      EXPECT_EQ(daemon_->TaskStatus(id), "RUNNING") << id;
      ExpectExec(id);
    }
    EXPECT_EQ(daemon_->ShimPid("one"), shim);
    EXPECT_EQ(daemon_->ShimSocket("two"), sockets[0]);
    // On a busy machine the stock program takes a shim for dead that takes no connection within 100
    // ms.
    EXPECT_TRUE(!from_stock || daemon_->ShimPid("two") == shim);
    ASSERT_NO_FATAL_FAILURE(Run("new", "new"));
    EXPECT_NE(daemon_->ShimPid("new"), shim);
    sockets.push_back(daemon_->ShimSocket("new"));

    ASSERT_EQ(kill(daemon_->ShimPid("lone"), SIGKILL), 0);
    EXPECT_TRUE(daemon_->WaitEvent("/tasks/delete lone"));
    EXPECT_EQ(daemon_->TaskStatus("lone"), "");
    EXPECT_EQ(daemon_->Ctr({"container", "delete", "lone"}).code, 0);
    for (const char* id : {"one", "two", "pod", "new"}) daemon_->Remove(id);
    EXPECT_TRUE(Eventually([&] { return daemon_->Processes().empty(); }));
    // The stock program leaves those of groups, and of shims that were killed.
    for (const std::string& socket : sockets) unlink(socket.c_str());
  }

  std::unique_ptr<Daemon> daemon_;
};

INSTANTIATE_TEST_SUITE_P(Containerd, DaemonSwitch,
                         ::testing::Values(Change{"bookworm", "bookworm"},
                                           Change{"trixie", "trixie"}, Change{"sid", "sid"},
                                           Change{"bookworm", "sid"}, Change{"trixie", "sid"}),
                         [](const auto& change) {
                           return absl::StrCat(change.param.from, "_to_", change.param.to);
                         });

// Checklist: G8.
TEST_P(DaemonSwitch, PodsOfTheStockShimGoOnUnderFeather) { GoOn(/*from_stock=*/true); }

TEST_P(DaemonSwitch, PodsOfFeatherGoOnUnderTheStockShim) { GoOn(/*from_stock=*/false); }

}  // namespace
}  // namespace feather::test
