// The systemd cgroup driver where systemd is process 1: the shim must find the scope that systemd
// has made, whatever the specification calls it.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/cgroups_v2.pb.h"
#include "runtime/base/file.h"
#include "runtime/cgroup.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

namespace v2 = io::containerd::cgroups::v2;

class SystemdCgroup : public ShimTest {
 protected:
  void SetUp() override {
    if (getenv("FEATHER_GUEST_SYSTEMD") == nullptr)
      GTEST_SKIP() << "systemd is not process 1: FEATHER_GUEST_SYSTEMD=1 tests/cgroup2/run";
    settings_.systemd_cgroup = true;
  }
  // Runs it and finds its scope.
  Container& RunInScope(ContainerOptions options) {
    Container& c = New("a", std::move(options));
    EXPECT_THAT(c.Run(), IsOk());
    auto cgroup = FindCgroup(static_cast<pid_t>(c.State()->pid()));
    EXPECT_THAT(cgroup, IsOk());
    if (cgroup.ok()) scope_ = cgroup->path;
    EXPECT_TRUE(absl::EndsWith(scope_, absl::StrCat("/system.slice/", ctrd().name(), "-a.scope")))
        << scope_;
    return c;
  }
  std::string InScope(const char* file) const {
    return std::string(absl::StripAsciiWhitespace(ReadFile(scope_ + "/" + file).value_or("?")));
  }
  static v2::Metrics Stats(Container& c) {
    task::StatsRequest request;
    request.set_id("a");
    v2::Metrics metrics;
    auto stats = c.Call<task::StatsResponse>("Stats", request);
    EXPECT_THAT(stats, IsOk());
    EXPECT_TRUE(stats.ok() && metrics.ParseFromString(stats->stats().value()));
    return metrics;
  }
  std::string scope_;
};

// Checklist: C5, C11, R4.
TEST_F(SystemdCgroup, StatsPidsAndUpdateAreTheScopes) {
  ContainerOptions options;
  options.spec.patch =
      R"({"linux": {"resources": {"memory": {"limit": 67108864}, "pids": {"limit": 40}}}})";
  Container& c = RunInScope(options);
  EXPECT_EQ(InScope("memory.max"), "67108864");
  // Threads count, and until it has executed a process is the OCI runtime, which has some.
  EXPECT_TRUE(RunUntil([&] { return Stats(c).pids().current() == 1; }));
  v2::Metrics metrics = Stats(c);
  EXPECT_GT(metrics.memory().usage(), 0u);
  EXPECT_EQ(metrics.memory().usage_limit(), 67108864u);
  EXPECT_EQ(metrics.pids().limit(), 40u);

  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  auto exec = c.Start("x");
  ASSERT_THAT(exec, IsOk());
  EXPECT_EQ(InScope("cgroup.procs"), absl::StrCat(c.State()->pid(), "\n", *exec));
  EXPECT_EQ(c.Pids()->processes_size(), 2);
  EXPECT_TRUE(RunUntil([&] { return Stats(c).pids().current() == 2; }));

  task::UpdateTaskRequest update;
  update.set_id("a");
  update.mutable_resources()->set_value(R"({"memory": {"limit": 134217728}})");
  EXPECT_THAT(c.Call<google::protobuf::Empty>("Update", update), IsOk());
  EXPECT_EQ(InScope("memory.max"), "134217728");
  EXPECT_EQ(Stats(c).memory().usage_limit(), 134217728u);

  ASSERT_THAT(c.Pause(), IsOk());
  EXPECT_EQ(InScope("cgroup.freeze"), "1");
  ASSERT_THAT(c.Resume(), IsOk());
  EXPECT_EQ(InScope("cgroup.freeze"), "0");
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// With a pid namespace that is shared the kernel does not do it. Checklist: X7.
TEST_F(SystemdCgroup, WhatTheInitLeavesInTheScopeIsKilled) {
  ContainerOptions options =
      Shell("sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & wait");
  options.spec.patch =
      R"({"linux": {"namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]}})";
  Container& c = RunInScope(options);
  ASSERT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 3; }));
  pid_t init = static_cast<pid_t>(c.State()->pid());
  kill(init, SIGKILL);
  EXPECT_EQ(c.Wait()->exit_status(), 137u);
  // Until it is deleted.
  EXPECT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 1; }));
  EXPECT_EQ(c.Pids()->processes(0).pid(), static_cast<uint32_t>(init));
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_TRUE(RunUntil([&] { return access(scope_.c_str(), F_OK) != 0; }));
}

TEST_F(SystemdCgroup, TheTreeOfAnExecIsFoundInTheScope) {
  Container& c = RunInScope({});
  ASSERT_THAT(c.Exec("x", {"sh", "-c", "sleep 1001 & setsid sleep 1002 & wait"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 4; }));
  ASSERT_THAT(c.Kill(SIGKILL, "x", /*all=*/true), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 137u);
  EXPECT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 1; }));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// As nerdctl has it for a runtime that is not runc's by its name. Checklist: C1.
TEST_F(SystemdCgroup, IsMeantByAPathInASliceWhereThereAreNoOptions) {
  settings_.options = false;
  Container& c = RunInScope({});
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
