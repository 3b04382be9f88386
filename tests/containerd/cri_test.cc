// Pods as the kubelet makes them, through the CRI socket of each containerd: with a pause
// container, and, where containerd has that, without.

#include "tests/support/cri.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/proc.h"

namespace feather::testing {
namespace {

using ::testing::HasSubstr;

class Cri : public CriTest {};
INSTANTIATE_TEST_SUITE_P(Containerd, Cri,
                         ::testing::Values("bookworm", "trixie", "sid", "sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(Cri, RunsStopsAndRemovesAPod) {
  const size_t before = daemon_->Processes().size();
  const cri::PodSandboxConfig config = PodConfig("web");
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(PodStatus(*pod).state(), cri::SANDBOX_READY);
  EXPECT_THAT(PodStatus(*pod).network().ip(), HasSubstr("10.88."));
  // The shim, and a pause container where there is one; over gRPC also the `delete` that containerd
  // runs for a shim whose connection was idle when it looked.
  const size_t own = shim_mode() ? 1 : 2;
  // Found by their cgroups, which are elsewhere with systemd.
  if (!systemd()) {
    EXPECT_TRUE(Eventually([&] {
      const size_t more = daemon_->Processes().size() - before - own;
      return more == 0 || (Daemon::TestsGrpc() && more == 1);
    })) << daemon_->Processes().size() - before;
  }

  auto a = RunContainer(*pod, config,
                        ContainerConfig(config, "a",
                                        "echo out; echo err >&2; trap 'exit 7' TERM;"
                                        "while :; do sleep 0.1; done"));
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_TRUE(Eventually([&] { return LogOf("a").size() == 8; })) << LogOf("a");
  EXPECT_THAT(LogOf("a"), HasSubstr("out\n"));
  auto exec = ExecSync(*a, "hostname; echo oops >&2; exit 3");
  ASSERT_TRUE(exec.ok()) << exec.status();
  EXPECT_EQ(exec->stdout(), "web\n");
  EXPECT_EQ(exec->stderr(), "oops\n");
  EXPECT_EQ(exec->exit_code(), 3);
  EXPECT_THAT(ExecSync(*a, "sleep 1000", 1).status().message(), HasSubstr("exceeded"));
  cri::ContainerRequest stats;
  stats.set_container_id(*a);
  auto used = Call<cri::ContainerStatsResponse>("ContainerStats", stats);
  ASSERT_TRUE(used.ok()) << used.status();
  EXPECT_GT(used->stats().memory().working_set_bytes().value(), 0u);

  auto b = RunContainer(*pod, config, ContainerConfig(config, "b", "exit 5"));
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_TRUE(WaitForExit(*b));
  EXPECT_EQ(ContainerStatus(*b).exit_code(), 5);
  EXPECT_TRUE(RemoveContainer(*b).ok());
  EXPECT_TRUE(StopContainer(*a, 60).ok());
  EXPECT_EQ(ContainerStatus(*a).exit_code(), 7) << "it had time to end by itself";
  EXPECT_EQ(PodStatus(*pod).state(), cri::SANDBOX_READY);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_EQ(PodStatus(*pod).state(), cri::SANDBOX_NOTREADY);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
  EXPECT_TRUE(Eventually([&] { return daemon_->Processes().size() == before; }));
  EXPECT_TRUE(
      std::filesystem::is_empty(daemon_->directory() + "/state/io.containerd.grpc.v1.cri/netns"))
      << "the network namespace is gone";
}

TEST_P(Cri, APodThatIsRemovedTakesItsContainersWithIt) {
  const size_t before = daemon_->Processes().size();
  for (bool stopped : {true, false}) {
    cri::PodSandboxConfig config = PodConfig("pod");
    auto pod = RunPod(config, Handler());
    ASSERT_TRUE(pod.ok()) << pod.status();
    for (const char* name : {"a", "b"}) {
      auto id = RunContainer(*pod, config, ContainerConfig(config, name, "exec sleep 1000"));
      ASSERT_TRUE(id.ok()) << id.status();
    }
    if (stopped) {
      EXPECT_TRUE(StopPod(*pod).ok());
    }
    EXPECT_TRUE(RemovePod(*pod).ok());
    EXPECT_TRUE(Eventually([&] { return daemon_->Processes().size() == before; }));
  }
}

TEST_P(Cri, AnOomKillIsTheReasonOfTheExit) {
  cri::PodSandboxConfig config = PodConfig("pod");
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  cri::ContainerConfig container =
      ContainerConfig(config, "a", "exec dd if=/dev/zero of=/dev/null bs=400M count=1");
  container.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(64 << 20);
  auto id = RunContainer(*pod, config, container);
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_TRUE(WaitForExit(*id));
  EXPECT_EQ(ContainerStatus(*id).exit_code(), 137);
  EXPECT_EQ(ContainerStatus(*id).reason(), "OOMKilled");
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
}

TEST_P(Cri, SystemdMakesAScopeForEachContainerInThePodsSlice) {
  if (!systemd()) GTEST_SKIP() << "needs systemd as process 1 (the test cgroup2.cri_systemd)";
  cri::PodSandboxConfig config = PodConfig("pod");
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto id = RunContainer(*pod, config, ContainerConfig(config, "a", "exec sleep 4242"));
  ASSERT_TRUE(id.ok()) << id.status();
  const CommandResult scope =
      RunCommand({.argv = {"systemctl", "show", "--property=ControlGroup,ActiveState",
                           absl::StrCat("cri-containerd-", *id, ".scope")}});
  EXPECT_THAT(scope.out, HasSubstr(absl::StrCat("ControlGroup=/feather.slice/", kSlice,
                                                "/cri-containerd-", *id, ".scope\n")));
  EXPECT_THAT(scope.out, HasSubstr("ActiveState=active\n"));
  cri::ContainerRequest stats;
  stats.set_container_id(*id);
  auto used = Call<cri::ContainerStatsResponse>("ContainerStats", stats);
  ASSERT_TRUE(used.ok()) << used.status();
  EXPECT_GT(used->stats().memory().working_set_bytes().value(), 0u);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
}

TEST_P(Cri, APodSurvivesARestartOfContainerd) {
  cri::PodSandboxConfig config = PodConfig("pod");
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto a = RunContainer(*pod, config, ContainerConfig(config, "a", "exec sleep 1000"));
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(daemon_->Restart()) << daemon_->Log();
  // CRI answers a moment after the daemon.
  EXPECT_TRUE(Eventually([&] { return ExecSync(*a, "true").ok(); }))
      << ExecSync(*a, "true").status();
  EXPECT_EQ(PodStatus(*pod).state(), cri::SANDBOX_READY);
  EXPECT_EQ(ContainerStatus(*a).state(), cri::CONTAINER_RUNNING);
  auto b = RunContainer(*pod, config, ContainerConfig(config, "b", "exit 4"));
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_TRUE(WaitForExit(*b));
  EXPECT_EQ(ContainerStatus(*b).exit_code(), 4);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_EQ(PodStatus(*pod).state(), cri::SANDBOX_NOTREADY);
  EXPECT_TRUE(RemovePod(*pod).ok());
}

TEST_P(Cri, ContainersShareThePidNamespaceIfThePodSaysSo) {
  cri::PodSandboxConfig config = PodConfig("pod");
  Options(config).set_pid(cri::POD);
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto a = RunContainer(*pod, config, ContainerConfig(config, "a", "exec sleep 4242"));
  ASSERT_TRUE(a.ok()) << a.status();
  auto b = RunContainer(*pod, config, ContainerConfig(config, "b", "exec sleep 4243"));
  ASSERT_TRUE(b.ok()) << b.status();
  auto seen = ExecSync(*b, "ps | grep -c 'sleep 424[23]'; test $$ != 1");
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_EQ(seen->stdout(), "2\n");
  EXPECT_EQ(seen->exit_code(), 0);
  EXPECT_TRUE(StopContainer(*a, 0).ok());
  EXPECT_EQ(ContainerStatus(*a).exit_code(), 137);
  EXPECT_EQ(ContainerStatus(*b).state(), cri::CONTAINER_RUNNING);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
}

TEST_P(Cri, APodMayBeOnTheHostsNetwork) {
  // containerd up to 2.2 panics when a pod without a pause container is on the host's network.
  if (shim_mode() && daemon_->OlderThan(2, 3))
    GTEST_SKIP() << "without a pause container only containerd 2.3 and later can";
  cri::PodSandboxConfig config = PodConfig("pod");
  config.clear_hostname();
  Options(config).set_network(cri::NODE);
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto a = RunContainer(*pod, config, ContainerConfig(config, "a", "exec sleep 1000"));
  ASSERT_TRUE(a.ok()) << a.status();
  auto seen = ExecSync(*a, "readlink /proc/self/ns/net");
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_EQ(seen->stdout(), std::filesystem::read_symlink("/proc/self/ns/net").string() + "\n");
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
}

}  // namespace
}  // namespace feather::testing
