// Pods as the kubelet makes them, through the CRI socket of each containerd: with a pause
// container, and, where containerd has that, without.

#include "tests/support/cri.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/proc.h"

namespace feather::test {
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

// containerd 2.4 asks the shim, those before read the pod's cgroup. Checklist: A4.
TEST_P(Cri, ThePodHasStats) {
  cri::PodSandboxConfig config = PodConfig("pod");
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto a = RunContainer(*pod, config,
                        ContainerConfig(config, "a", "sleep 1000 & touch /ready; exec sleep 1000"));
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_TRUE(Eventually([&] { return ExecSync(*a, "test -e /ready").value().exit_code() == 0; }));
  cri::PodSandboxStatsRequest request;
  request.set_pod_sandbox_id(*pod);
  absl::StatusOr<cri::PodSandboxStatsResponse> stats;
  EXPECT_TRUE(Eventually([&] {
    stats = Call<cri::PodSandboxStatsResponse>("PodSandboxStats", request);
    return stats.ok() && stats->stats().linux().containers_size() == 1;
  })) << stats.status();
  ASSERT_TRUE(stats.ok());
  const cri::LinuxPodSandboxStats& pod_stats = stats->stats().linux();
  EXPECT_GT(pod_stats.memory().working_set_bytes().value(), 0u);
  EXPECT_EQ(pod_stats.network().default_interface().name(), "eth0");
  // pause is not counted.
  EXPECT_EQ(pod_stats.process().process_count().value(), 2u);
  ASSERT_EQ(pod_stats.containers_size(), 1);
  EXPECT_EQ(pod_stats.containers(0).attributes().id(), *a);
  EXPECT_GT(pod_stats.containers(0).memory().working_set_bytes().value(), 0u);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
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

// Checklist: C1, C6, L22.
TEST_P(Cri, TheOptionsOfAHandlerReachTheShimAndTheRuntime) {
  if (shim_mode() || systemd()) GTEST_SKIP() << "of pods with a pause container, and cgroupfs";
  const bool unified = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
  const std::string cgroup =
      absl::StrCat(unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/pids", ShimCgroup());
  ASSERT_EQ(mkdir(cgroup.c_str(), 0755), 0) << strerror(errno);
  cri::PodSandboxConfig config = PodConfig("pod");
  auto pod = RunPod(config, "optioned");
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto id = RunContainer(
      *pod, config,
      ContainerConfig(config, "a", "stat -L -c %u:%g /proc/self/fd/1; exec sleep 1000"));
  ASSERT_TRUE(id.ok()) << id.status();
  // runc makes the container's user their owner, and leaves the group.
  EXPECT_TRUE(Eventually([&] { return LogOf("a") == "0:8\n"; })) << LogOf("a");
  const std::string shim = ReadFile(cgroup + "/cgroup.procs").value_or("");
  EXPECT_THAT(
      ReadFile(absl::StrCat("/proc/", shim.substr(0, shim.find('\n')), "/cmdline")).value_or(""),
      HasSubstr(*pod))
      << "the shim is in the cgroup";
  EXPECT_TRUE(std::filesystem::exists(Directory() + "/root/k8s.io/" + *id));
  EXPECT_THAT(ReadFile(Directory() + "/calls").value_or(""), HasSubstr("--no-new-keyring"));
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
  EXPECT_TRUE(Eventually([&] { return rmdir(cgroup.c_str()) == 0; }));
}

// Checklist: C1.
TEST_P(Cri, AnOptionThatDoesNotExistIsNamed) {
  if (shim_mode()) GTEST_SKIP() << "of pods with a pause container";
  if (GetParam() == "bookworm") GTEST_SKIP() << "CRI of 1.6 sends no keys";
  cri::PodSandboxConfig config = PodConfig("pod");
  auto pod = RunPod(config, "mistyped");
  EXPECT_THAT(std::string(pod.status().message()),
              HasSubstr("unknown runtime option \"Systemd_CGroups\""));
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

// Killed while a container is being stopped, an exec runs and another pod is being made, and away
// when containers end.
TEST_P(Cri, NothingIsLostWhenContainerdIsKilledAmidAllThat) {
  const std::string go = daemon_->directory() + "/go";
  ASSERT_EQ(mkdir(go.c_str(), 0755), 0);
  const cri::PodSandboxConfig config = PodConfig("pod");
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  std::map<std::string, std::string> ids;
  const auto run = [&](const std::string& name, const std::string& script, int64_t limit = 0) {
    cri::ContainerConfig container = ContainerConfig(config, name, script);
    cri::Mount& mount = *container.add_mounts();
    mount.set_container_path("/go");
    mount.set_host_path(go);
    if (limit > 0) container.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(limit);
    auto id = RunContainer(*pod, config, container);
    ASSERT_TRUE(id.ok()) << id.status();
    ids[name] = *id;
  };
  const auto is_there = [&](const std::string& file) {
    return Eventually([&] { return access(absl::StrCat(go, "/", file).c_str(), F_OK) == 0; });
  };
  const auto make = [&](const std::string& file) {
    ASSERT_TRUE(WriteFile(absl::StrCat(go, "/", file), "", 0644).ok());
  };
  ASSERT_NO_FATAL_FAILURE(run("talks", "while :; do echo x; sleep 0.02; done"));
  ASSERT_NO_FATAL_FAILURE(
      run("ends", "until [ -e /go/end ]; do sleep 0.02; done; touch /go/ended; exit 5"));
  ASSERT_NO_FATAL_FAILURE(run("eats",
                              "until [ -e /go/end ]; do sleep 0.02; done;"
                              "exec dd if=/dev/zero of=/dev/null bs=400M count=1",
                              64 << 20));
  ASSERT_NO_FATAL_FAILURE(
      run("stops",
          "trap 'touch /go/asked; until [ -e /go/end ]; do sleep 0.02; done; exit 7' TERM;"
          "touch /go/trap; while :; do sleep 0.02; done"));
  EXPECT_TRUE(is_there("trap"));
  std::vector<std::thread> calls;
  calls.emplace_back([&] { StopContainer(ids["stops"], 100).IgnoreError(); });
  calls.emplace_back(
      [&] { ExecSync(ids["talks"], "touch /go/exec; exec sleep 1000").status().IgnoreError(); });
  EXPECT_TRUE(is_there("asked"));
  EXPECT_TRUE(is_there("exec"));
  const cri::PodSandboxConfig other_config = PodConfig("other");
  calls.emplace_back([&] { RunPod(other_config, Handler()).status().IgnoreError(); });
  daemon_->Kill();
  make("end");
  EXPECT_TRUE(is_there("ended"));
  for (std::thread& call : calls) call.join();
  ASSERT_TRUE(daemon_->Start()) << daemon_->Log();

  // CRI answers a moment after the daemon.
  EXPECT_TRUE(Eventually([&] { return ExecSync(ids["talks"], "true").ok(); }));
  for (const char* name : {"ends", "eats", "stops"}) EXPECT_TRUE(WaitForExit(ids[name])) << name;
  EXPECT_EQ(ContainerStatus(ids["ends"]).exit_code(), 5);
  EXPECT_EQ(ContainerStatus(ids["stops"]).exit_code(), 7);
  EXPECT_EQ(ContainerStatus(ids["eats"]).exit_code(), 137);
  EXPECT_TRUE(Eventually([&] { return ContainerStatus(ids["eats"]).reason() == "OOMKilled"; }));
  EXPECT_EQ(PodStatus(*pod).state(), cri::SANDBOX_READY);
  const size_t said = LogOf("talks").size();
  EXPECT_TRUE(Eventually([&] { return LogOf("talks").size() > said; })) << "it is read again";
  ASSERT_NO_FATAL_FAILURE(run("late", "exit 4"));
  EXPECT_TRUE(WaitForExit(ids["late"]));
  EXPECT_EQ(ContainerStatus(ids["late"]).exit_code(), 4);
  // The other pod may be known, or not.
  auto pods = Call<cri::ListPodSandboxResponse>("ListPodSandbox", cri::ListPodSandboxRequest());
  ASSERT_TRUE(pods.ok()) << pods.status();
  for (const cri::PodSandbox& left : pods->items()) {
    EXPECT_TRUE(StopPod(left.id()).ok());
    EXPECT_TRUE(RemovePod(left.id()).ok());
  }
}

TEST_P(Cri, APodThatCannotBeMadeLeavesNothingAndCanBeMadeLater) {
  const size_t before = daemon_->Processes().size();
  const auto networks = [&] {
    return std::filesystem::is_empty(daemon_->directory() +
                                     "/state/io.containerd.grpc.v1.cri/netns");
  };
  cri::PodSandboxConfig config = PodConfig("pod");
  auto& sysctls = *config.mutable_linux()->mutable_sysctls();
  // Refused by the kernel, and beforehand.
  for (auto [of, name] : {std::pair("net.ipv4.", "not_there"), std::pair("kernel.", "panic")}) {
    sysctls[absl::StrCat(of, name)] = "1";
    auto pod = RunPod(config, Handler());
    EXPECT_FALSE(pod.ok());
    EXPECT_THAT(pod.status().message(), HasSubstr(name));
    EXPECT_TRUE(Eventually([&] { return daemon_->Processes().size() == before; }));
    EXPECT_TRUE(Eventually(networks)) << "the network namespace is gone";
    sysctls.clear();
  }
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto a = RunContainer(*pod, config, ContainerConfig(config, "a", "exit 3"));
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_TRUE(WaitForExit(*a));
  EXPECT_EQ(ContainerStatus(*a).exit_code(), 3);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
}

TEST_P(Cri, ThePidThatIsShownLeadsIntoThePod) {
  cri::PodSandboxConfig config = PodConfig("web");
  for (cri::NamespaceMode mode : {cri::CONTAINER, cri::POD}) {
    Options(config).set_pid(mode);
    auto pod = RunPod(config, Handler());
    ASSERT_TRUE(pod.ok()) << pod.status();
    const auto pid = nlohmann::json::parse(PodInfo(*pod)).at("pid").get<pid_t>();
    const CommandResult seen =
        RunCommand({.argv = {"nsenter", "-t", absl::StrCat(pid), "-n", "-u", "-i", "--", "sh", "-c",
                             "hostname; ip -o -4 address show dev eth0"}});
    EXPECT_THAT(seen.out, HasSubstr("web\n")) << seen.err;
    EXPECT_THAT(seen.out, HasSubstr(absl::StrCat(" ", PodStatus(*pod).network().ip(), "/")));
    EXPECT_TRUE(StopPod(*pod).ok());
    EXPECT_TRUE(RemovePod(*pod).ok());
  }
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
}  // namespace feather::test
