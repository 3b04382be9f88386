// The namespace modes of CRI, with each containerd.

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/support/cri.h"

namespace feather::test {
namespace {

using ::testing::Ne;

class CriNamespaces : public CriTest {
 protected:
  std::string Add(const cri::ContainerConfig& config) {
    auto id = RunContainer(pod_, config_, config);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or("");
  }
  std::string Of(const std::string& container, const std::string& type) {
    auto seen = ExecSync(container, "readlink /proc/self/ns/" + type);
    EXPECT_TRUE(seen.ok()) << seen.status();
    return seen.ok() ? std::string(absl::StripTrailingAsciiWhitespace(seen->stdout())) : "";
  }
  static std::string OfHost(const std::string& type) {
    return std::filesystem::read_symlink("/proc/self/ns/" + type);
  }
  void Run(const cri::PodSandboxConfig& config) {
    config_ = config;
    auto pod = RunPod(config_, Handler());
    ASSERT_TRUE(pod.ok()) << pod.status();
    pod_ = *pod;
  }
  void Remove() {
    EXPECT_TRUE(StopPod(pod_).ok());
    EXPECT_TRUE(RemovePod(pod_).ok());
  }

  cri::PodSandboxConfig config_;
  std::string pod_;
};
INSTANTIATE_TEST_SUITE_P(Containerd, CriNamespaces,
                         ::testing::Values("bookworm", "trixie", "sid", "sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(CriNamespaces, APodsContainersShareAllButPidsAndOneMayLookAtAnothers) {
  ASSERT_NO_FATAL_FAILURE(Run(PodConfig("pod")));
  const std::string a = Add(ContainerConfig(config_, "a", "exec sleep 4242"));
  const std::string b = Add(ContainerConfig(config_, "b", "exec sleep 1000"));
  cri::ContainerConfig target = ContainerConfig(config_, "c", "exec sleep 1000");
  auto& options = *target.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  options.set_pid(cri::TARGET);
  options.set_target_id(a);
  const std::string c = Add(target);
  for (const char* type : {"net", "ipc", "uts"}) {
    EXPECT_EQ(Of(a, type), Of(b, type));
    EXPECT_EQ(Of(a, type), Of(c, type));
    EXPECT_NE(Of(a, type), OfHost(type));
  }
  EXPECT_EQ(Of(c, "pid"), Of(a, "pid"));
  EXPECT_THAT(Of(b, "pid"), ::testing::AllOf(Ne(Of(a, "pid")), Ne(OfHost("pid"))));
  auto seen = ExecSync(c, "tr '\\0' ' ' </proc/1/cmdline");
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_EQ(seen->stdout(), "sleep 4242 ");
  // What ends with a's process 1 is its pid namespace.
  EXPECT_TRUE(StopContainer(a, 0).ok());
  EXPECT_TRUE(WaitForExit(c));
  EXPECT_EQ(ContainerStatus(b).state(), cri::CONTAINER_RUNNING);
  Remove();
}

TEST_P(CriNamespaces, APodMayHaveAUserNamespace) {
  const std::string features = RunCommand({.argv = {"runc", "features"}}).out;
  if (!absl::StartsWith(GetParam(), "sid") || !absl::StrContains(features, "\"idmap\""))
    GTEST_SKIP() << "containerd before 2, or runc before 1.2 (the test packages.pods_sid has both)";
  for (cri::NamespaceMode mode : {cri::CONTAINER, cri::POD}) {
    cri::PodSandboxConfig config = PodConfig("pod");
    Options(config).set_pid(mode);
    cri::UserNamespace& user = *Options(config).mutable_userns_options();
    user.set_mode(cri::POD);
    for (auto* ids : {user.mutable_uids(), user.mutable_gids()}) {
      cri::IDMapping& mapping = *ids->Add();
      mapping.set_host_id(100000);
      mapping.set_length(65536);
    }
    ASSERT_NO_FATAL_FAILURE(Run(config));
    const std::string a = Add(ContainerConfig(config_, "a", "exec sleep 1000"));
    const std::string b = Add(ContainerConfig(config_, "b", "exec sleep 1000"));
    for (const char* type : {"user", "net", "ipc", "uts"}) {
      EXPECT_EQ(Of(a, type), Of(b, type));
      EXPECT_NE(Of(a, type), OfHost(type));
    }
    EXPECT_EQ(Of(a, "pid") == Of(b, "pid"), mode == cri::POD);
    auto seen =
        ExecSync(a,
                 "tr -s ' ' </proc/self/uid_map; id -u; touch /root/x; stat -c %u /root/x /etc;"
                 "echo 7 >/dev/shm/x; cat /dev/shm/x; hostname; hostname other && hostname");
    ASSERT_TRUE(seen.ok()) << seen.status();
    EXPECT_EQ(seen->stdout() + seen->stderr(),
              " 0 100000 65536\n0\n0\n0\n7\npod\nhostname: sethostname: Operation not permitted\n");
    auto shared = ExecSync(b, "cat /dev/shm/x");
    ASSERT_TRUE(shared.ok()) << shared.status();
    EXPECT_EQ(shared->stdout(), "7\n");
    Remove();
  }
}

TEST_P(CriNamespaces, APodMayBeInTheHostsPidAndIpcNamespaces) {
  cri::PodSandboxConfig config = PodConfig("pod");
  Options(config).set_pid(cri::NODE);
  Options(config).set_ipc(cri::NODE);
  ASSERT_NO_FATAL_FAILURE(Run(config));
  const std::string a = Add(ContainerConfig(config_, "a", "trap '' TERM; sleep 1000 & wait; wait"));
  for (const char* type : {"pid", "ipc"}) EXPECT_EQ(Of(a, type), OfHost(type));
  EXPECT_NE(Of(a, "net"), OfHost("net"));
  // It does not heed the signal; what it leaves in the host's pid namespace is killed with it.
  EXPECT_TRUE(StopContainer(a, 1).ok());
  EXPECT_EQ(ContainerStatus(a).exit_code(), 137);
  Remove();
}

}  // namespace
}  // namespace feather::test
