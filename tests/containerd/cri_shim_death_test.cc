// The shim of a pod killed: containerd cleans up after it by the shim's own command `delete`, and
// the pod can be stopped, removed and made anew.

#include <signal.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/cri.h"
#include "tests/support/proc.h"

namespace feather::test {
namespace {

using ::testing::AnyOf;
using ::testing::IsEmpty;

class CriShimDeath : public CriTest {
 protected:
  void SetUp() override {
    CriTest::SetUp();
    if (daemon_ == nullptr || IsSkipped() || HasFatalFailure()) return;
    before_ = daemon_->Processes().size();
    mounts_before_ = daemon_->Mounts().size();
  }

  std::string Tasks() const {
    return daemon_->directory() + "/state/io.containerd.runtime.v2.task/k8s.io";
  }
  pid_t InitPid(const std::string& id) const {
    pid_t pid = 0;
    return absl::SimpleAtoi(
               feather::ReadFile(absl::StrCat(Tasks(), "/", id, "/init.pid")).value_or(""), &pid)
               ? pid
               : 0;
  }

  // A pod with so many containers that run, each with a process of its own beside it; and one that
  // has ended.
  void MakePod(cri::PodSandboxConfig config, int containers) {
    auto pod = RunPod(config, Handler());
    ASSERT_TRUE(pod.ok()) << pod.status();
    pod_ = *pod;
    ids_.clear();
    for (int i = 0; i < containers; ++i) {
      const std::string name = absl::StrCat("c", i, "-", config.metadata().attempt());
      auto id = RunContainer(
          pod_, config, ContainerConfig(config, name, "trap '' TERM; sleep 1000 & echo up; wait"));
      ASSERT_TRUE(id.ok()) << id.status();
      ids_.push_back(*id);
      ASSERT_TRUE(Eventually([&] { return LogOf(name) == "up\n"; }));
    }
    auto ended = RunContainer(pod_, config, ContainerConfig(config, "ended", "exit 3"));
    ASSERT_TRUE(ended.ok()) << ended.status();
    ended_ = *ended;
    ASSERT_TRUE(WaitForExit(ended_));
  }

  void KillShim() {
    const pid_t shim = ParentOf(InitPid(ids_[0]));
    ASSERT_TRUE(absl::StrContains(CommandLine(shim), pod_)) << CommandLine(shim);
    ASSERT_EQ(kill(shim, SIGKILL), 0);
  }

  // No process, mount, cgroup, runtime's state or bundle is left, without anybody asking for it.
  void ExpectAllEnded() {
    std::vector<std::string> left;
    EXPECT_TRUE(Eventually([&] {
      left = daemon_->Processes();
      return left.size() == before_;
    })) << ::testing::PrintToString(left);
    EXPECT_TRUE(Eventually([&] { return daemon_->Cgroups().empty(); }));
    EXPECT_TRUE(Eventually([&] { return ListDirectory("/run/containerd/runc/k8s.io").empty(); }));
    EXPECT_THAT(ListDirectory("/run/containerd/runc/k8s.io"), IsEmpty());
    for (const std::string& id : ids_)
      EXPECT_TRUE(Eventually([&] { return ContainerStatus(id).state() == cri::CONTAINER_EXITED; }))
          << "CRI knows that it has ended";
    for (const std::string& id : ids_) {
      EXPECT_THAT(ContainerStatus(id).exit_code(), AnyOf(137, 255));
    }
    EXPECT_EQ(ContainerStatus(ended_).exit_code(), 3);
    EXPECT_TRUE(Eventually([&] { return PodStatus(pod_).state() == cri::SANDBOX_NOTREADY; }));
  }

  // The kubelet's part.
  void RemoveAll() {
    EXPECT_TRUE(StopContainer(ids_[0], 1).ok());
    absl::Status stopped = StopPod(pod_);
    EXPECT_TRUE(stopped.ok()) << stopped;
    EXPECT_TRUE(RemoveContainer(ids_[0]).ok());
    absl::Status removed = RemovePod(pod_);
    EXPECT_TRUE(removed.ok()) << removed;
    EXPECT_TRUE(Eventually([&] { return daemon_->Mounts().size() == mounts_before_; }))
        << ::testing::PrintToString(daemon_->Mounts());
    // Over gRPC containerd 2.1 keeps the containers' bundles up to its next start.
    if (!Daemon::TestsGrpc()) {
      EXPECT_THAT(ListDirectory(Tasks()), IsEmpty());
    }
    EXPECT_THAT(ListDirectory(daemon_->directory() +
                              "/state/io.containerd.sandbox.controller.v1.shim/k8s.io"),
                IsEmpty());
    EXPECT_THAT(ListDirectory("/run/containerd/s"), IsEmpty());
    EXPECT_THAT(ListDirectory(daemon_->directory() + "/state/io.containerd.grpc.v1.cri/netns"),
                IsEmpty());
  }

  size_t before_ = 0;
  size_t mounts_before_ = 0;
  std::string pod_;
  std::vector<std::string> ids_;
  std::string ended_;
};
INSTANTIATE_TEST_SUITE_P(Containerd, CriShimDeath,
                         ::testing::Values("bookworm", "trixie", "sid", "sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(CriShimDeath, EndsThePodsContainersAndThePodCanBeMadeAnew) {
  cri::PodSandboxConfig config = PodConfig("pod");
  for (cri::NamespaceMode mode : {cri::CONTAINER, cri::POD}) {
    Options(config).set_pid(mode);
    ASSERT_NO_FATAL_FAILURE(MakePod(config, 3));
    ASSERT_NO_FATAL_FAILURE(KillShim());
    ExpectAllEnded();
    RemoveAll();
    config.mutable_metadata()->set_attempt(config.metadata().attempt() + 1);
  }
  auto pod = RunPod(config, Handler());
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto id = RunContainer(*pod, config, ContainerConfig(config, "again", "exit 4"));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_TRUE(WaitForExit(*id));
  EXPECT_EQ(ContainerStatus(*id).exit_code(), 4);
  EXPECT_TRUE(StopPod(*pod).ok());
  EXPECT_TRUE(RemovePod(*pod).ok());
}

// Then it runs the command for every bundle, in any case for those that were there.
TEST_P(CriShimDeath, EndsThePodsContainersAfterARestartOfContainerd) {
  const cri::PodSandboxConfig config = PodConfig("pod");
  ASSERT_NO_FATAL_FAILURE(MakePod(config, 2));
  ASSERT_TRUE(daemon_->Restart()) << daemon_->Log();
  EXPECT_TRUE(Eventually([&] { return ExecSync(ids_[0], "true").ok(); }));
  auto late = RunContainer(pod_, config, ContainerConfig(config, "late", "exec sleep 1000"));
  ASSERT_TRUE(late.ok()) << late.status();
  ids_.push_back(*late);
  ASSERT_NO_FATAL_FAILURE(KillShim());
  ExpectAllEnded();
  RemoveAll();
}

TEST_P(CriShimDeath, IsFoundOutByContainerdWhenItIsBack) {
  const cri::PodSandboxConfig config = PodConfig("pod");
  ASSERT_NO_FATAL_FAILURE(MakePod(config, 2));
  daemon_->Kill();
  ASSERT_NO_FATAL_FAILURE(KillShim());
  ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
  // CRI answers a moment after the daemon.
  cri::ContainerRequest request;
  request.set_container_id(ids_[0]);
  EXPECT_TRUE(Eventually(
      [&] { return Call<cri::ContainerStatusResponse>("ContainerStatus", request).ok(); }));
  ExpectAllEnded();
  RemoveAll();
}

}  // namespace
}  // namespace feather::test
