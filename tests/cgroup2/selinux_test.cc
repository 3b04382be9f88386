// Pods where SELinux enforces Debian's policy: containerd and the shims are what that knows as an
// engine of containers (dockerd_t), the containers are confined (container_t) and kept apart by
// their categories. The stock shim beside both kinds of pod.
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "tests/support/cri.h"
#include "tests/support/proc.h"

namespace feather::test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

using Lines = std::vector<std::string>;

constexpr char kOwn[] = "s0:c1,c2";
constexpr char kOther[] = "s0:c3,c4";
constexpr char kShowLabel[] = "tr -d '\\0' </proc/self/attr/current";
constexpr std::array<const char*, 3> kFiles = {"hosts", "hostname", "resolv.conf"};

std::string LabelOf(const std::string& path) {
  std::array<char, 256> value = {};
  const ssize_t size = getxattr(path.c_str(), "security.selinux", value.data(), value.size() - 1);
  return size < 0 ? strerror(errno) : value.data();
}
std::string LabelOf(pid_t pid) {
  return feather::ReadFile(absl::StrCat("/proc/", pid, "/attr/current")).value_or("?").c_str();
}
std::string LevelIn(const std::string& label) {
  const Lines parts = absl::StrSplit(label, absl::MaxSplits(':', 3));
  return parts.size() == 4 ? parts[3] : label;
}

class Selinux : public CriTest {
 protected:
  void SetUp() override {
    if (!selinux())
      GTEST_SKIP() << "no SELinux that enforces: FEATHER_GUEST=selinux tests/cgroup2/run";
    CriTest::SetUp();
    denials_ = Denials().size();
  }

  static Lines Denials() {
    Lines found;
    for (absl::string_view line : absl::StrSplit(RunCommand({.argv = {"dmesg"}}).out, '\n'))
      if (absl::StrContains(line, "avc:  denied") && absl::StrContains(line, "permissive=0"))
        found.emplace_back(line.substr(line.find("avc:")));
    return found;
  }
  // Since it was asked before. The policy lets no engine read the kernel's log, of which feather
  // has use (docs/oom.md): each of its shims asks once.
  Lines NewDenials(size_t shims_of_feather) {
    const Lines all = Denials();
    Lines found(all.begin() + static_cast<ptrdiff_t>(denials_), all.end());
    denials_ = all.size();
    auto is_log = [](const std::string& line) { return absl::StrContains(line, "name=\"kmsg\""); };
    EXPECT_EQ(std::erase_if(found, is_log), shims_of_feather);
    return found;
  }

  // `level`: empty where the pod names none.
  cri::PodSandboxConfig Config(const std::string& name, const std::string& level) const {
    cri::PodSandboxConfig config = PodConfig(name);
    auto& context = *config.mutable_linux()->mutable_security_context();
    if (!level.empty()) context.mutable_selinux_options()->set_level(level);
    return config;
  }
  // Asks for what its pod asks for, as the kubelet has it.
  static cri::ContainerConfig Labelled(const cri::PodSandboxConfig& pod, const std::string& name,
                                       const std::string& script) {
    cri::ContainerConfig config = ContainerConfig(pod, name, script);
    const auto& context = pod.linux().security_context();
    if (context.has_selinux_options())
      *config.mutable_linux()->mutable_security_context()->mutable_selinux_options() =
          context.selinux_options();
    return config;
  }
  std::string Start(cri::PodSandboxConfig& config, const std::string& handler) {
    config.mutable_metadata()->set_uid(handler);
    auto pod = RunPod(config, handler);
    EXPECT_TRUE(pod.ok()) << pod.status();
    return pod.value_or("");
  }
  std::string Add(const std::string& pod, const cri::PodSandboxConfig& config,
                  const cri::ContainerConfig& container) {
    auto id = RunContainer(pod, config, container);
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or("");
  }
  // Both streams.
  std::string In(const std::string& container, const std::string& script) {
    auto result = ExecSync(container, script);
    return result.ok() ? result->stdout() + result->stderr() : result.status().ToString();
  }
  void Remove(const std::string& pod) {
    EXPECT_TRUE(StopPod(pod).ok());
    EXPECT_TRUE(RemovePod(pod).ok());
  }
  static pid_t Find(const std::string& command) {
    for (pid_t pid : AllProcesses())
      if (CommandLine(pid) == command) return pid;
    return 0;
  }

  // The labels of a container whose init is this program, and of what it sees.
  static Lines LabelsOf(const std::string& command) {
    const pid_t pid = Find(command);
    Lines labels = {"init " + LabelOf(pid)};
    for (const char* path :
         {"/", "/bin/busybox", "/dev", "/dev/null", "/dev/pts", "/dev/mqueue", "/dev/shm",
          "/dev/shm/file", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"})
      labels.push_back(
          absl::StrCat(path, " ", LabelOf(absl::StrCat("/proc/", pid, "/root", path))));
    return labels;
  }
  // What the labels of a pod of two containers are, and what these can do.
  Lines Look(const std::string& handler, cri::PodSandboxConfig config) {
    const std::string pod = Start(config, handler);
    const std::string a = Add(pod, config, Labelled(config, "a", "exec sleep 71001"));
    const std::string b = Add(pod, config, Labelled(config, "b", "exec sleep 71002"));
    Lines seen = {In(a, "echo one >/dev/shm/file; echo '# more' >>/etc/hosts"),
                  In(b,
                     "cat /dev/shm/file; tail -n 1 /etc/hosts; cat /etc/hostname"
                     " /etc/resolv.conf; echo two >/dev/shm/file"),
                  In(a, "cat /dev/shm/file"), In(a, kShowLabel),
                  In(a, "for pid in 1 $(pidof sleep); do kill -0 $pid; done")};
    for (const char* command : {"sleep 71001", "sleep 71002"})
      for (const std::string& label : LabelsOf(command)) seen.push_back(label);
    Remove(pod);
    return seen;
  }

  size_t denials_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Containerd, Selinux, ::testing::Values("sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(Selinux, APodHasTheLabelsThatTheStockShimsHas) {
  cri::PodSandboxConfig config = Config("same", kOwn);
  const Lines stock = Look("stock", config);
  EXPECT_THAT(stock, Contains("one\n# more\nsame\nnameserver 192.0.2.1\n"));
  EXPECT_THAT(stock, Contains("init system_u:system_r:container_t:s0:c1,c2"));
  EXPECT_THAT(stock, Contains("/dev/shm system_u:object_r:container_file_t:s0:c1,c2"));
  EXPECT_THAT(NewDenials(0), IsEmpty());
  for (const char* handler : {"feather", "podless"}) {
    SCOPED_TRACE(handler);
    EXPECT_THAT(Look(handler, config), ElementsAreArray(stock));
    EXPECT_THAT(NewDenials(1), IsEmpty());
  }
  // Their process 1 is containerd's to the policy, which lets them signal one another only.
  Options(config).set_pid(cri::POD);
  const std::string refused = "sh: can't kill pid 1: Permission denied\n";
  Lines shared = Look("podless", config);
  EXPECT_THAT(shared, Contains(refused));
  std::replace(shared.begin(), shared.end(), refused, std::string());
  EXPECT_THAT(shared, ElementsAreArray(stock));
  EXPECT_THAT(NewDenials(1), ElementsAre(HasSubstr("denied  { signull }")));
}

// Mounted into another pod's container, which it should never be.
TEST_P(Selinux, OnlyContainersOfItsCategoriesHaveWhatAPodShares) {
  cri::PodSandboxConfig config = Config("pod", kOwn);
  const std::string pod = Start(config, "podless");
  const std::string a = Add(pod, config, Labelled(config, "a", "exec sleep 1000"));
  EXPECT_EQ(In(a, "echo secret >/dev/shm/file"), "");
  for (const std::string level : {kOwn, kOther}) {
    SCOPED_TRACE(level);
    cri::PodSandboxConfig others = Config("others", level);
    const std::string others_pod = Start(others, "podless");
    cri::ContainerConfig container = Labelled(others, "b", "exec sleep 1000");
    for (const char* file : {"shm", "hosts", "hostname", "resolv.conf"}) {
      cri::Mount& mount = *container.add_mounts();
      mount.set_host_path(absl::StrCat(daemon_->directory(),
                                       "/state/io.containerd.sandbox.controller.v1.shim/k8s.io/",
                                       pod, "/pod/", file));
      mount.set_container_path(absl::StrCat("/stolen/", file));
    }
    const std::string b = Add(others_pod, others, container);
    EXPECT_THAT(NewDenials(level == kOwn ? 2 : 1), IsEmpty());
    for (const char* file : {"shm/file", "hosts", "hostname", "resolv.conf"}) {
      SCOPED_TRACE(file);
      const std::string tried =
          In(b, absl::StrCat("cd /stolen; cat ", file, " >/dev/null; ", "echo x >>", file));
      if (level == kOwn) {
        EXPECT_EQ(tried, "");
      } else {
        EXPECT_THAT(tried, HasSubstr(absl::StrCat("can't open '", file, "': Permission denied")));
        EXPECT_THAT(tried, HasSubstr(absl::StrCat("can't create ", file, ": Permission denied")));
      }
    }
    // The policy tells of none that are about a directory.
    EXPECT_EQ(NewDenials(0).size(), level == kOwn ? 0u : 2 * kFiles.size());
    Remove(others_pod);
  }
  Remove(pod);
}

// Then containerd gives the containers of a pod with a pause container categories in common, and
// those of one without it each their own.
TEST_P(Selinux, ContainersOfDifferentCategoriesHaveTheFilesOfTheirPod) {
  cri::PodSandboxConfig config = Config("pod", "");
  const Lines stock = Look("stock", config);
  EXPECT_THAT(stock, Contains("one\n# more\npod\nnameserver 192.0.2.1\n"));
  EXPECT_THAT(NewDenials(0), IsEmpty());

  const std::string pod = Start(config, "podless");
  const std::string a = Add(pod, config, ContainerConfig(config, "a", "exec sleep 71001"));
  const std::string level = LevelIn(LabelOf(Find("sleep 71001")));
  EXPECT_THAT(level, StartsWith("s0:c"));
  EXPECT_EQ(In(a, "echo one >/dev/shm/file; cat /dev/shm/file"), "one\n");
  for (const std::string& label : LabelsOf("sleep 71001"))
    EXPECT_EQ(LevelIn(label), level) << label;

  const std::string b = Add(pod, config, ContainerConfig(config, "b", "exec sleep 71002"));
  EXPECT_NE(LevelIn(LabelOf(Find("sleep 71002"))), level);
  for (const std::string& container : {a, b})
    EXPECT_EQ(In(container,
                 "for f in hosts hostname resolv.conf; do cat /etc/$f >/dev/null; done;"
                 "echo '# more' >>/etc/hosts; mktemp -d /dev/shm/XXXXXX >/dev/null"),
              "");
  EXPECT_THAT(NewDenials(1), IsEmpty());
  EXPECT_THAT(In(b, "cat /dev/shm/file"), HasSubstr("Permission denied")) << "it is a's";
  for (const char* file : kFiles)
    EXPECT_EQ(LevelIn(LabelOf(absl::StrCat("/proc/", Find("sleep 71002"), "/root/etc/", file))),
              "s0");
  Remove(pod);
}

// The kernel tells them in another way than they were given.
TEST_P(Selinux, APodMayNameItsCategoriesInAnyOrder) {
  cri::PodSandboxConfig config = Config("pod", "s0:c27,c9,c8,c7");
  const std::string pod = Start(config, "podless");
  Add(pod, config, Labelled(config, "a", "exec sleep 71001"));
  const std::string b = Add(pod, config, Labelled(config, "b", "exec sleep 71002"));
  EXPECT_EQ(In(b, "echo b >/dev/shm/file"), "");
  for (const std::string& label : LabelsOf("sleep 71002"))
    EXPECT_EQ(LevelIn(label), "s0:c7.c9,c27") << label;
  Remove(pod);
}

// With a terminal and without; the streams of execs and of attaches.
TEST_P(Selinux, StreamsPass) {
  cri::PodSandboxConfig config = Config("pod", kOwn);
  const std::string pod = Start(config, "podless");
  for (bool tty : {false, true}) {
    SCOPED_TRACE(tty);
    cri::ContainerConfig container =
        Labelled(config, absl::StrCat("tty-", tty), "while read -r line; do echo got $line; done");
    container.set_stdin(true);
    container.set_tty(tty);
    const std::string id = Add(pod, config, container);
    cri::AttachRequest attach;
    attach.set_container_id(id);
    attach.set_stdin(true);
    attach.set_stdout(true);
    attach.set_tty(tty);
    auto attached = Stream("Attach", attach);
    ASSERT_NE(attached, nullptr);
    // containerd hands input on before it hands out output.
    EXPECT_TRUE(Eventually([&] {
      attached->Send(0, "hello\n");
      return attached->ReadUntil(
          [&] { return absl::StrContains(attached->channel(1), "got hello"); }, Milliseconds(5000));
    })) << attached->channel(1);
    cri::ExecRequest exec;
    exec.set_container_id(id);
    for (const std::string& word : {std::string("/bin/sh"), std::string("-c"),
                                    absl::StrCat("read -r line; echo got $line; ", kShowLabel)})
      exec.add_cmd(word);
    exec.set_stdin(true);
    exec.set_stdout(true);
    exec.set_tty(tty);
    auto executed = Stream("Exec", exec);
    ASSERT_NE(executed, nullptr);
    executed->Send(0, "hello\n");
    EXPECT_TRUE(executed->ReadToEnd());
    EXPECT_THAT(executed->channel(1), HasSubstr("got hello"));
    EXPECT_THAT(executed->channel(1), HasSubstr("system_u:system_r:container_t:s0:c1,c2"));
  }
  Remove(pod);
  EXPECT_THAT(NewDenials(1), IsEmpty());
}

// ctr asks for no label: the policy has one for whatever an engine executes.
TEST_P(Selinux, TasksOfCtrHaveTheLabelThatTheStockShimsHave) {
  for (const std::string& runtime : {std::string("io.containerd.runc.v2"), Daemon::Runtime()}) {
    SCOPED_TRACE(runtime);
    const CommandResult run = daemon_->Ctr(daemon_->Run(
        "a", {"--rm"}, {"sh", "-c", absl::StrCat("echo oops >&2; ", kShowLabel)}, runtime));
    EXPECT_EQ(run.code, 0);
    EXPECT_EQ(run.out, "system_u:system_r:spc_t:s0");
    EXPECT_EQ(run.err, "oops\n");
    EXPECT_THAT(NewDenials(runtime == Daemon::Runtime() ? 1 : 0), IsEmpty());
  }
}

}  // namespace
}  // namespace feather::test
