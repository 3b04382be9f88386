// What a pod without a pause container is made of.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/home_namespaces.h"
#include "runtime/sandbox/pod_cgroup.h"
#include "runtime/sandbox/pod_files.h"
#include "runtime/sandbox/pod_namespaces.h"
#include "runtime/sandbox/sysctl.h"
#include "tests/support/shim_bundle.h"

namespace feather {
namespace {

using nlohmann::json;

constexpr OwnNamespaces kAll = {.net = true, .ipc = true, .uts = true, .pid = true};

TEST(Sysctl, NamesAFileBelowProcSys) {
  EXPECT_EQ(*SysctlPath("net.ipv4.ip_forward", kAll), "/proc/sys/net/ipv4/ip_forward");
  EXPECT_EQ(*SysctlPath("net/ipv4/conf/eth0.5/proxy_arp", kAll),
            "/proc/sys/net/ipv4/conf/eth0.5/proxy_arp");
  EXPECT_EQ(*SysctlPath("net.ipv4.conf.eth0/5.proxy_arp", kAll),
            "/proc/sys/net/ipv4/conf/eth0.5/proxy_arp");
  EXPECT_EQ(*SysctlPath("kernel.shm_rmid_forced", kAll), "/proc/sys/kernel/shm_rmid_forced");
  EXPECT_EQ(*SysctlPath("fs.mqueue.msg_max", kAll), "/proc/sys/fs/mqueue/msg_max");
  EXPECT_EQ(*SysctlPath("kernel.domainname", kAll), "/proc/sys/kernel/domainname");
}

TEST(Sysctl, IsRefusedWhereItWouldChangeTheHost) {
  for (const char* name : {"kernel.panic", "kernel.hostname", "vm.swappiness", "fs.file-max", "",
                           "net", "netx.a", "kernel.shm", "net/../vm/swappiness",
                           "net./.../vm.swappiness", "net//x", "net/./x", "net.ipv4.ip_forward=1"})
    EXPECT_TRUE(absl::IsInvalidArgument(SysctlPath(name, kAll).status())) << name;
  EXPECT_FALSE(SysctlPath("net.ipv4.ip_forward", {.ipc = true, .uts = true}).ok());
  EXPECT_FALSE(SysctlPath("kernel.sem", {.net = true, .uts = true}).ok());
  EXPECT_FALSE(SysctlPath("fs.mqueue.msg_max", {.net = true}).ok());
  EXPECT_FALSE(SysctlPath("kernel.domainname", {.net = true, .ipc = true}).ok());
}

TEST(PodCgroup, OfASliceLiesInTheSlicesOfItsName) {
  EXPECT_EQ(PodCgroupPath("kubepods-burstable-pod1_2.slice"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice");
  EXPECT_EQ(PodCgroupPath("a.slice"), "/a.slice");
  EXPECT_EQ(PodCgroupPath("/kubepods/burstable/pod1"), "/kubepods/burstable/pod1");
  EXPECT_EQ(PodCgroupPath("pod"), "/pod");
  EXPECT_TRUE(absl::IsNotFound(ReadPodMetrics("").status()));
}

TEST(ResolvConf, HasALineForEachKind) {
  EXPECT_EQ(ResolvConf({"192.0.2.1", "192.0.2.2"}, {"a.example", "b.example"}, {"ndots:5"}),
            "search a.example b.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n"
            "options ndots:5\n");
  EXPECT_EQ(ResolvConf({}, {}, {}), "");
}

class JoinPodTest : public testing::Test {
 protected:
  JoinPodTest() {
    files_.bundle = directory_.path();
    std::filesystem::create_directories(files_.Path("shm"));
    for (const char* name : {"hostname", "hosts", "resolv.conf"})
      EXPECT_TRUE(WriteFile(files_.Path(name), "x", 0644).ok());
  }
  // A config.json with these namespaces, after JoinPod for process 7.
  json Join(const json& namespaces, const json& mounts = json::array(),
            const NamespacePaths& paths = {}) {
    json spec = {{"mounts", mounts},
                 {"root", {{"path", "rootfs"}, {"readonly", true}}},
                 {"process", {{"rlimit", 18446744073709551615U}, {"args", {"\u00e9\n"}}}},
                 {"linux", {{"namespaces", namespaces}}}};
    before_ = spec;
    return JoinText(spec.dump(), paths);
  }
  json JoinText(const std::string& text, const NamespacePaths& paths = {}) {
    std::string path = directory_.path() + "/config.json";
    EXPECT_TRUE(WriteFile(path, text, 0644).ok());
    EXPECT_TRUE(JoinPod(path, files_, 7, paths, /*host_pid=*/true).ok());
    after_ = *ReadFile(path);
    return json::parse(after_, nullptr, false);
  }
  json Mount(const std::string& name, const std::string& target, const char* mode) {
    return {{"destination", target},
            {"type", "bind"},
            {"source", files_.Path(name)},
            {"options", {"rbind", "rprivate", mode}}};
  }

  test::TestDirectory directory_;
  PodFiles files_;
  json before_;
  std::string after_;
};

const json kNet = {{"type", "network"}, {"path", "/proc/7/ns/net"}};
const json kIpc = {{"type", "ipc"}, {"path", "/proc/7/ns/ipc"}};

TEST_F(JoinPodTest, GivesAContainerThePodsFilesAndShm) {
  json shm = {{"destination", "/dev/shm"}, {"type", "tmpfs"}, {"source", "shm"}};
  json got = Join({kNet, kIpc}, {shm, {{"destination", "/etc/hosts"}, {"source", "/mine"}}});
  json want = before_;
  want["mounts"] = {Mount("shm", "/dev/shm", "rw"),
                    {{"destination", "/etc/hosts"}, {"source", "/mine"}},
                    Mount("hostname", "/etc/hostname", "ro"),
                    Mount("resolv.conf", "/etc/resolv.conf", "ro")};
  EXPECT_EQ(got, want);
}

TEST_F(JoinPodTest, LabelsWhatItGivesAContainerThatSelinuxConfines) {
  const std::string label = "system_u:object_r:container_file_t:s0:c1,c2";
  const auto label_of = [this](const std::string& name) {
    std::array<char, 256> value = {};
    const ssize_t size =
        getxattr(files_.Path(name).c_str(), "security.selinux", value.data(), value.size());
    return size < 0 ? strerror(errno) : std::string(value.data());
  };
  const std::string none = label_of("hosts");
  Join({kNet, kIpc});
  json spec = before_;
  for (const char* name : {"shm", "hosts", "hostname"}) EXPECT_EQ(label_of(name), none) << name;
  spec["linux"]["mountLabel"] = label;
  spec["mounts"] = {{{"destination", "/etc/hosts"}, {"source", "/mine"}}};
  JoinText(spec.dump());
  for (const char* name : {"shm", "hostname", "resolv.conf"}) EXPECT_EQ(label_of(name), label);
  EXPECT_EQ(label_of("hosts"), none);

  // The same, however it is written: the kernel tells it as above.
  const auto expect_same = [&](const std::string& told, const std::string& given) {
    const std::string type = "system_u:object_r:container_file_t:";
    ASSERT_EQ(removexattr(files_.Path("hostname").c_str(), "security.selinux"), 0);
    spec["linux"]["mountLabel"] = type + told;
    JoinText(spec.dump());
    spec["linux"]["mountLabel"] = type + given;
    JoinText(spec.dump());
    EXPECT_EQ(label_of("hostname"), type + given) << told;
  };
  expect_same("s0:c9,c27", "s0:c27,c9");
  expect_same("s0:c1.c3,c7", "s0:c7,c3,c2,c1");
  expect_same("s0:c1,c2", "s0:c1,c2-s0:c2,c1");
  for (const char* name : {"shm", "hostname", "resolv.conf"})
    ASSERT_EQ(
        setxattr(files_.Path(name).c_str(), "security.selinux", label.c_str(), label.size() + 1, 0),
        0);

  // One of other categories, as each has where the pod's configuration names none; and the first
  // made anew.
  const std::string both = "system_u:object_r:container_file_t:s0";
  for (const std::string& next : {both + ":c3,c4", label}) {
    spec["linux"]["mountLabel"] = next;
    JoinText(spec.dump());
    for (const char* name : {"shm", "hostname", "resolv.conf"}) EXPECT_EQ(label_of(name), both);
  }
  for (const char* other : {"u:object_r:other_t:s0-s1:c1", "u:object_r:without_level_t", "odd"}) {
    spec["linux"]["mountLabel"] = other;
    JoinText(spec.dump());
    EXPECT_EQ(label_of("shm"), other) << "of another type";
  }
}

TEST_F(JoinPodTest, LeavesAloneWhatIsNotInThePod) {
  Join({{{"type", "network"}, {"path", "/proc/8/ns/net"}}, {{"type", "ipc"}}});
  EXPECT_EQ(after_, before_.dump());
  Join(json::array());
  EXPECT_EQ(after_, before_.dump());
}

TEST_F(JoinPodTest, LeavesAVolumeAtDevShmAlone) {
  json volume = {{"destination", "/dev/shm"}, {"type", "bind"}, {"source", "/volume"}};
  EXPECT_EQ(Join({kIpc}, json::array({volume}))["mounts"], json::array({volume}));
  files_.shm = false;
  EXPECT_EQ(Join({kIpc})["mounts"], json::array());
}

TEST_F(JoinPodTest, NamesTheNamespacesWhereTheyAre) {
  auto at = [](const char* type, const std::string& path) {
    return json{{"type", type}, {"path", path}};
  };
  const NamespacePaths paths = {{"user", "/proc/6/fd/3"},
                                {"network", "/proc/6/fd/4"},
                                {"ipc", "/proc/6/fd/5"},
                                {"uts", "/proc/6/fd/6"}};
  files_.bundle = "/missing";
  json got = Join({at("user", "/proc/7/ns/user"),
                   at("network", "/proc/7/ns/net"),
                   at("uts", "/proc/7/ns/uts"),
                   at("pid", "/proc/7/ns/pid"),
                   {{"type", "mount"}}},
                  {}, paths);
  EXPECT_EQ(got["linux"]["namespaces"], json({at("user", "/proc/6/fd/3"),
                                              at("network", "/proc/6/fd/4"),
                                              at("uts", "/proc/6/fd/6"),
                                              at("pid", "/proc/7/ns/pid"),
                                              {{"type", "mount"}}}));
  EXPECT_EQ(
      Join({{{"type", "user"}}, at("network", "/proc/77/ns/net"), {{"type", "ipc"}}}, {}, paths),
      before_);
}

// The shim's own is the host's.
TEST_F(JoinPodTest, RefusesToShareAPidNamespaceThatThePodHasNot) {
  const json spec = {
      {"linux", {{"namespaces", {kNet, {{"type", "pid"}, {"path", "/proc/7/ns/pid"}}}}}}};
  const std::string path = directory_.path() + "/config.json";
  ASSERT_TRUE(WriteFile(path, spec.dump(), 0644).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(JoinPod(path, files_, 7, {}, /*host_pid=*/false)));
  EXPECT_EQ(*ReadFile(path), spec.dump());
  EXPECT_TRUE(JoinPod(path, files_, 7, {{"pid", "/proc/6/fd/3"}}, /*host_pid=*/false).ok());
}

// As runc looks for the mapping of a user namespace that a path names.
TEST(DescriptorPath, IsNotTakenForThatOfAProcesssOwnNamespace) {
  UniqueFd own = *OpenFile("/proc/self/ns/user", O_RDONLY);
  const std::string path = DescriptorPath(own.get());
  int pid = 0;
  EXPECT_EQ(sscanf("/proc/7/fd/3", "/proc/%d/ns/user", &pid), 1);
  EXPECT_EQ(sscanf(path.c_str(), "/proc/%d/ns/user", &pid), 0) << path;
  std::error_code ignored;
  EXPECT_EQ(std::filesystem::read_symlink(path, ignored),
            std::filesystem::read_symlink("/proc/self/ns/user"));
}

TEST_F(JoinPodTest, LeavesWhatItDoesNotUnderstandToTheOciRuntime) {
  std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& text :
       {std::string("{"), std::string("[]"), std::string("null"), std::string(),
        std::string(R"({"linux": []})"), std::string(R"({"linux": {"namespaces": [7, "x"]}})"),
        absl::StrCat(
            R"({"linux": {"namespaces": [{"type": "network", "path": "/proc/7/ns/net"}]},)",
            "\"x\":", deep, "}")}) {
    JoinText(text);
    EXPECT_EQ(after_, text);
  }
  EXPECT_TRUE(JoinPod("/no/such/file", files_, 7, {}, false).ok());
}

TEST_F(JoinPodTest, AddsMountsWhereThereAreNone) {
  json got = JoinText(json({{"mounts", 3}, {"linux", {{"namespaces", {kIpc}}}}}).dump());
  EXPECT_EQ(got["mounts"], json::array({Mount("shm", "/dev/shm", "rw")}));
}

// In a child, since it changes the process.
bool InChild(const std::function<bool()>& check) {
  pid_t pid = fork();
  if (pid == 0) _exit(check() ? 0 : 1);
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::string Own(const std::string& type) {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/ns/" + type, ignored);
}

TEST(HomeNamespaces, AreLeftAndComeBackTo) {
  EXPECT_EQ(HomeNamespaces(), nullptr);
  EXPECT_TRUE(ReturnHome().ok());
  EXPECT_TRUE(InChild([] {
    std::string net = Own("net"), ipc = Own("ipc"), uts = Own("uts");
    pid_t other = fork();
    if (other == 0) {
      if (unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0) raise(SIGSTOP);
      _exit(1);
    }
    int status = 0;
    waitpid(other, &status, WUNTRACED);
    if (!WIFSTOPPED(status)) return false;
    UniqueFd other_net = *OpenFile(absl::StrCat("/proc/", other, "/ns/net"), O_RDONLY);
    UniqueFd other_ipc = *OpenFile(absl::StrCat("/proc/", other, "/ns/ipc"), O_RDONLY);
    kill(other, SIGKILL);
    waitpid(other, nullptr, 0);
    bool good = LeaveHome({.net = other_net.get(), .ipc = other_ipc.get()}).ok();
    good = good && HomeNamespaces() != nullptr && (*HomeNamespaces())[2] == -1;
    std::string away = Own("net");
    good = good && away != net && Own("ipc") != ipc && Own("uts") == uts;
    good = good && absl::IsFailedPrecondition(LeaveHome(Namespaces()));
    {
      AtHome at_home;
      good = good && Own("net") == net && Own("ipc") != ipc;
    }
    good = good && Own("net") == away;
    good = good && ReturnHome().ok() && Own("net") == net && Own("ipc") == ipc;
    return good && HomeNamespaces() == nullptr;
  }));
}

TEST(HomeNamespaces, AreNotLeftByHalf) {
  EXPECT_TRUE(InChild([] {
    std::string net = Own("net"), ipc = Own("ipc");
    UniqueFd own_net = *OpenFile("/proc/self/ns/net", O_RDONLY);
    UniqueFd another_kind = *OpenFile("/proc/self/ns/uts", O_RDONLY);
    return !LeaveHome({.net = own_net.get(), .ipc = another_kind.get()}).ok() &&
           HomeNamespaces() == nullptr && Own("net") == net && Own("ipc") == ipc;
  }));
}

TEST(HomeNamespaces, AreNotLeftIfThereIsNoWayBack) {
  EXPECT_TRUE(InChild([] {
    if (unshare(CLONE_NEWUSER) < 0) return false;
    const std::string uts = Own("uts");
    const pid_t other = fork();
    if (other == 0) {
      if (unshare(CLONE_NEWUTS) == 0) raise(SIGSTOP);
      _exit(1);
    }
    int status = 0;
    waitpid(other, &status, WUNTRACED);
    if (!WIFSTOPPED(status)) return false;
    UniqueFd other_uts = *OpenFile(absl::StrCat("/proc/", other, "/ns/uts"), O_RDONLY);
    kill(other, SIGKILL);
    waitpid(other, nullptr, 0);
    return absl::IsPermissionDenied(LeaveHome({.uts = other_uts.get()})) &&
           HomeNamespaces() == nullptr && Own("uts") == uts;
  }));
}

}  // namespace
}  // namespace feather
