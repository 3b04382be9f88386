// Pods where SELinux enforces Debian's policy: containerd and the shims run as that lets an engine of
// containers run (dockerd_t), the containers are confined as theirs (container_t) and kept apart by
// their categories. The stock shim beside both kinds of pod.
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"
#include "tests/support/cri.h"
#include "tests/support/proc.h"

namespace feather::test {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kShared[] = "s0:c1,c2";
constexpr char kOther[] = "s0:c3,c4";

// In the place of containerd: as a service manager starts it, with its directories labelled as an
// installation's are.
constexpr char kStart[] = R"sh(#!/bin/sh
real=%s
[ "$1" != --version ] || exec $real "$@"
label() { type=$1; shift; chcon -R system_u:object_r:$type:s0 "$@"; }
snapshots=root/io.containerd.snapshotter.v1.overlayfs/snapshots
mkdir -p state $snapshots
label container_var_lib_t .
label container_ro_file_t $snapshots
label container_runtime_t state /run/containerd
label bin_t "${0%/*}"
exec runcon system_u:system_r:dockerd_t:s0 $real "$@"
)sh";

class Selinux : public CriTest {
 protected:
  void SetUp() override {
    if (!selinux())
      GTEST_SKIP() << "no SELinux in this kernel: FEATHER_GUEST=selinux tests/cgroup2/run";
    const std::string reason = Daemon::Unavailable("sid");
    if (!reason.empty()) GTEST_SKIP() << reason;
    const std::string real = absl::StrCat(kSourceDirectory, "/build/containerd/sid/usr/bin");
    wrapped_ = "/tmp/containerd";
    std::filesystem::create_directory(wrapped_);
    for (const char* name : {"ctr", "containerd-shim-runc-v2"})
      std::filesystem::create_symlink(real + "/" + name, wrapped_ + "/" + name);
    std::string script = kStart;
    script.replace(script.find("%s"), 2, real + "/containerd");
    ASSERT_TRUE(WriteFile(wrapped_ + "/containerd", script, 0755).ok());
    setenv("FEATHER_CONTAINERD_2", wrapped_.c_str(), 1);
    CriTest::SetUp();
    denials_ = Denials().size();
  }
  void TearDown() override {
    CriTest::TearDown();
    if (!wrapped_.empty()) std::filesystem::remove_all(wrapped_);
  }

  // What the policy has denied since it is enforced, a line each.
  static std::vector<std::string> Denials() {
    std::vector<std::string> found;
    for (absl::string_view line : absl::StrSplit(RunCommand({.argv = {"dmesg"}}).out, '\n'))
      if (absl::StrContains(line, "avc:  denied") && absl::StrContains(line, "permissive=0"))
        found.emplace_back(line);
    return found;
  }
  std::vector<std::string> NewDenials() {
    std::vector<std::string> all = Denials();
    std::vector<std::string> found(all.begin() + static_cast<ptrdiff_t>(denials_), all.end());
    denials_ = all.size();
    return found;
  }
  static std::string LabelOf(const std::string& path) {
    std::array<char, 256> value = {};
    const ssize_t size = getxattr(path.c_str(), "security.selinux", value.data(), value.size());
    return size < 0 ? strerror(errno) : std::string(value.data());
  }
  static std::string LabelOf(pid_t pid) {
    const std::string text =
        feather::ReadFile(absl::StrCat("/proc/", pid, "/attr/current")).value_or("?");
    return text.c_str();
  }

  cri::PodSandboxConfig Config(const std::string& name, const std::string& level) const {
    cri::PodSandboxConfig config = PodConfig(name);
    if (!level.empty())
      config.mutable_linux()->mutable_security_context()->mutable_selinux_options()->set_level(
          level);
    return config;
  }
  // As the kubelet asks for them: each container what its pod asks for. Its init is that `sleep`.
  std::string Add(const std::string& pod, const cri::PodSandboxConfig& config,
                  const std::string& name, const std::string& sleep) {
    cri::ContainerConfig container = ContainerConfig(config, name, "exec sleep " + sleep);
    const auto& context = config.linux().security_context();
    if (context.has_selinux_options())
      *container.mutable_linux()->mutable_security_context()->mutable_selinux_options() =
          context.selinux_options();
    auto id = RunContainer(pod, config, container);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or("");
  }
  static pid_t PidOf(const std::string& sleep) {
    for (pid_t pid : AllProcesses())
      if (CommandLine(pid) == "sleep " + sleep) return pid;
    return 0;
  }
  std::string In(const std::string& container, const std::string& script) {
    auto result = ExecSync(container, script);
    if (!result.ok()) return result.status().ToString();
    return result->stdout() + result->stderr();
  }
  void Remove(const std::string& pod) {
    EXPECT_TRUE(StopPod(pod).ok());
    EXPECT_TRUE(RemovePod(pod).ok());
  }

  // What the labels of a pod's containers and their files are, and what its containers can do.
  std::vector<std::string> Look(const std::string& handler, const cri::PodSandboxConfig& asked) {
    cri::PodSandboxConfig config = asked;
    config.mutable_metadata()->set_uid(handler);
    auto pod = RunPod(config, handler);
    EXPECT_TRUE(pod.ok()) << pod.status();
    if (!pod.ok()) return {};
    const std::string a = Add(*pod, config, "a-" + handler, "71001");
    const std::string b = Add(*pod, config, "b-" + handler, "71002");
    std::vector<std::string> seen;
    auto see = [&](const std::string& what, const std::string& label) {
      seen.push_back(what + " " + label);
    };
    see("a wrote", In(a, "echo shared >/dev/shm/file; echo '# more' >>/etc/hosts"));
    see("b read", In(b, "cat /dev/shm/file; tail -n 1 /etc/hosts; grep . /etc/hostname"
                        " /etc/resolv.conf; echo two >>/dev/shm/file"));
    see("a read", In(a, "cat /dev/shm/file"));
    for (const char* sleep : {"71001", "71002"}) {
      const pid_t pid = PidOf(sleep);
      see("init", LabelOf(pid));
      for (const char* file : {"/", "/bin/busybox", "/dev", "/dev/null", "/dev/pts", "/dev/mqueue",
                               "/dev/shm", "/dev/shm/file", "/etc/hosts", "/etc/hostname",
                               "/etc/resolv.conf"})
        see(file, LabelOf(absl::StrCat("/proc/", pid, "/root", file)));
    }
    see("exec", In(a, "cat /proc/self/attr/current"));
    Remove(*pod);
    return seen;
  }

  std::string wrapped_;
  size_t denials_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Containerd, Selinux, ::testing::Values("sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(Selinux, LabelsAreThoseOfAPodOfTheStockShim) {
  const cri::PodSandboxConfig config = Config("same", kShared);
  const std::vector<std::string> stock = Look("stock", config);
  EXPECT_THAT(NewDenials(), IsEmpty()) << absl::StrJoin(stock, "\n");
  printf("%s\n", absl::StrJoin(stock, "\n").c_str());
  for (const char* handler : {"feather", "podless"}) {
    SCOPED_TRACE(handler);
    EXPECT_THAT(Look(handler, config), ElementsAreArray(stock));
    EXPECT_THAT(NewDenials(), IsEmpty());
  }
}

}  // namespace
}  // namespace feather::test
