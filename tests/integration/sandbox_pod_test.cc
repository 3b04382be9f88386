// Pods without a pause container, with a real OCI runtime: what their containers see, and what is
// left of them.

#include <filesystem>

#include "absl/strings/match.h"
#include "tests/support/sandbox_fixture.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class SandboxPodTest : public SandboxTest {};

// Checklist: A2, A5.
TEST_F(SandboxPodTest, ItsContainersShareWhatThePodHas) {
  cri::v1::PodSandboxConfig config = Config();
  (*config.mutable_linux()->mutable_sysctls())["net.ipv4.ip_forward"] = "1";
  (*config.mutable_linux()->mutable_sysctls())["kernel.msgmax"] = "4242";
  pid_t pid = RunPod(config, Network().path());
  Container& a = New("a", InPod(pid,
                                "for n in net ipc uts; do readlink /proc/self/ns/$n; done;"
                                "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"
                                " /proc/sys/net/ipv4/ip_unprivileged_port_start"
                                " /proc/sys/kernel/hostname /etc/hostname /etc/resolv.conf;"
                                "test -s /etc/hosts && echo hosts; echo shared >/dev/shm/file"));
  EXPECT_EQ(a.shim_pid(), 0) << "no second shim";
  EXPECT_EQ(Output(a), absl::StrCat(NamespaceOf(pid, "net"), "\n", NamespaceOf(pid, "ipc"), "\n",
                                    NamespaceOf(pid, "uts"),
                                    "\n1\n4242\n0\nsomepod\nsomepod\nsearch example.org\n"
                                    "nameserver 192.0.2.1\nhosts\n"));
  Container& b = New("b", InPod(pid, "cat /dev/shm/file; grep ' /dev/shm ' /proc/mounts"));
  EXPECT_THAT(Output(b), ::testing::ContainsRegex(
                             "^shared\nshm /dev/shm tmpfs rw,nosuid,nodev,noexec,.*size=65536k"));
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Shutdown(), IsOk());
}

// Its config.json names the namespaces by the shim's pid: they would be the host's by now.
TEST_F(SandboxPodTest, NoContainerIsCreatedOnceItHasStopped) {
  pid_t pid = RunPod(Config(), Network().path());
  api::SandboxStatusRequest verbose;
  verbose.set_sandbox_id(kId);
  verbose.set_verbose(true);
  auto status = Call<api::SandboxStatusResponse>("SandboxStatus", verbose);
  ASSERT_THAT(status, IsOk());
  EXPECT_THAT(status->info().at("runtimeSpec"), HasSubstr(Network().path()));
  auto pid_in_info = [&] { return nlohmann::json::parse(status->info().at("info"))["pid"]; };
  EXPECT_EQ(pid_in_info(), pid) << "crictl inspectp shows it";
  Container& late = New("late", InPod(pid, "true"));
  EXPECT_THAT(Stop(), IsOk());
  status = Call<api::SandboxStatusResponse>("SandboxStatus", verbose);
  ASSERT_THAT(status, IsOk());
  EXPECT_EQ(status->state(), "SANDBOX_NOTREADY");
  EXPECT_FALSE(status->info().contains("runtimeSpec"));
  EXPECT_EQ(pid_in_info(), 0);
  EXPECT_THAT(late.Create(), IsError(kFailedPrecondition, "the sandbox of this shim does not run"));
  EXPECT_THAT(Shutdown(), IsOk());
}

// StopSandbox comes between the container's Create and the OCI runtime's look at its namespaces.
TEST_F(SandboxPodTest, ACreationThatAStopOvertakesDoesNotJoinTheHost) {
  std::string at_runtime = ctrd().directory() + "/at-runtime";
  std::string go_on = ctrd().directory() + "/go-on";
  MakeFifo(at_runtime);
  MakeFifo(go_on);
  std::string runtime =
      WriteRuntime("runtime", absl::StrCat("case \"$*\" in *' create '*) echo >", at_runtime,
                                           "; read x <", go_on, ";; esac\nexec runc \"$@\"\n"));
  for (cri::v1::NamespaceMode mode : {cri::v1::CONTAINER, cri::v1::POD}) {
    shim_ = nullptr;
    network_.reset();
    cri::v1::PodSandboxConfig config = Config();
    Options(config).set_pid(mode);
    FifoReader reached(ctrd().io(), at_runtime);
    pid_t pid = RunPod(config, Network().path());
    Container& a =
        New("a", InPod(pid, "sleep 1000",
                       mode == cri::v1::POD ? absl::StrCat("/proc/", pid, "/ns/pid") : ""));
    task::CreateTaskRequest request = a.CreateRequest();
    containerd::runc::v1::Options options = ctrd().RuncOptions();
    options.set_binary_name(runtime);
    request.mutable_options()->set_value(options.SerializeAsString());
    auto create = a.Send<task::CreateTaskResponse>("Create", request);
    ASSERT_TRUE(RunUntil([&] { return !reached.data().empty(); }));
    EXPECT_THAT(Stop(), IsOk());
    ASSERT_THAT(WriteFile(go_on, "\n", 0), IsOk());
    EXPECT_FALSE(create.Get().ok());
    EXPECT_THAT(a.Delete(), IsError(kNotFound, "not created"));
    a.Disconnect();
    EXPECT_THAT(a.RemoveBundle(), IsOk());
    EXPECT_THAT(Shutdown(), IsOk());
  }
}

// Checklist: A4.
TEST_F(SandboxPodTest, ItsMetricsAreThoseOfThePodsCgroup) {
  cri::v1::PodSandboxConfig config = Config();
  config.mutable_linux()->set_cgroup_parent("/" + ctrd().name() + "-a");
  pid_t pid = RunPod(config, Network().path());
  Container& a = New("a", InPod(pid, "sleep 1000"));
  ASSERT_THAT(a.Run(), IsOk());
  auto answer = Call<api::SandboxMetricsResponse>("SandboxMetrics", api::SandboxMetricsRequest());
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->metrics().id(), kId);
  EXPECT_NE(answer->metrics().timestamp().seconds(), 0);
  EXPECT_THAT(answer->metrics().data().type_url(),
              ::testing::MatchesRegex("io.containerd.cgroups.v[12].Metrics"));
  EXPECT_FALSE(answer->metrics().data().value().empty());
  EXPECT_THAT(a.KillAndRemove(), IsOk());
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Shutdown(), IsOk());
}

// containerd 2.1 gives a handler of a type of its own no options.
TEST_F(SandboxPodTest, ASliceAsItsCgroupMeansSystemdsDriver) {
  std::string called = ctrd().directory() + "/called";
  std::string runtime = WriteRuntime("runtime", "echo \"$@\" >>" + called + "\nexit 1\n");
  for (const char* parent : {"/plain", "pods.slice"}) {
    shim_ = nullptr;
    network_.reset();
    cri::v1::PodSandboxConfig config = Config();
    config.mutable_linux()->set_cgroup_parent(parent);
    Container& a = New("a", InPod(RunPod(config, Network().path()), "true"));
    task::CreateTaskRequest request = a.CreateRequest();
    containerd::runc::v1::Options options = ctrd().RuncOptions();
    options.set_binary_name(runtime);
    request.mutable_options()->set_value(options.SerializeAsString());
    EXPECT_FALSE(a.Create(request).ok());
    EXPECT_EQ(absl::StrContains(*ReadFile(called), "--systemd-cgroup"),
              std::string(parent) == "pods.slice");
    a.Disconnect();
    EXPECT_THAT(a.RemoveBundle(), IsOk());
    EXPECT_THAT(Shutdown(), IsOk());
  }
}

TEST_F(SandboxPodTest, AContainersOwnMountsStay) {
  pid_t pid = RunPod(Config(), Network().path());
  ContainerOptions options = InPod(pid, "cat /etc/hostname; ls /dev/shm");
  std::string directory = ctrd().directory() + "/own";
  std::filesystem::create_directory(directory);
  ASSERT_THAT(WriteFile(directory + "/file", "mine\n", 0644), IsOk());
  nlohmann::json spec = nlohmann::json::parse(MakeSpec(options.spec));
  for (auto& mount : spec["mounts"])
    if (mount["destination"] == "/dev/shm")
      mount = {{"destination", "/dev/shm"},
               {"type", "bind"},
               {"source", directory},
               {"options", {"rbind"}}};
  spec["mounts"].push_back({{"destination", "/etc/hostname"},
                            {"type", "bind"},
                            {"source", directory + "/file"},
                            {"options", {"rbind"}}});
  spec["linux"]["cgroupsPath"] = "/" + ctrd().name() + "-a";
  options.config = spec.dump();
  EXPECT_EQ(Output(New("a", options)), "mine\nfile\n");
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxPodTest, ItsChildrenAreInTheHostsNamespaces) {
  std::string seen = ctrd().directory() + "/seen";
  std::string look = "for n in net ipc uts; do readlink /proc/self/ns/$n; done >>" + seen + "\n";
  settings_.runtime = WriteRuntime("runtime", look + "exec runc \"$@\"\n");
  std::string logger =
      WriteRuntime("logger", look + "exec 5>&-; cat <&3 >/dev/null & exec cat <&4 >/dev/null\n");
  // The options go with each Create.
  Container& shim = Shim();
  pid_t pid = RunPod(Config(), Network().path());
  ASSERT_EQ(NamespaceOf(shim.shim_pid(), "net"), Network().name());
  Container& a = New("a", InPod(pid, "exit 0"));
  task::CreateTaskRequest request = a.CreateRequest();
  containerd::runc::v1::Options options = ctrd().RuncOptions();
  options.set_binary_name(settings_.runtime);
  request.mutable_options()->set_value(options.SerializeAsString());
  request.set_stdout("binary://" + logger);
  request.set_stderr("binary://" + logger);
  ASSERT_THAT(a.Create(request), IsOk());
  ASSERT_THAT(a.Start(), IsOk());
  EXPECT_THAT(a.Wait(), IsOk());
  EXPECT_THAT(a.Remove(), IsOk());
  std::string host;
  for (const char* type : {"net", "ipc", "uts"})
    absl::StrAppend(&host, NamespaceOf(getpid(), type), "\n");
  std::string text = *ReadFile(seen);
  // create, start, delete and the logger, at least
  EXPECT_GE(text.size(), 4 * host.size());
  for (size_t at = 0; at < text.size(); at += host.size())
    EXPECT_EQ(text.substr(at, host.size()), host);
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxPodTest, AfterAStopNothingOfTheShimHoldsTheNetworkNamespace) {
  pid_t pid = RunPod(Config(), Network().path());
  // Events go over a connection that is made while the shim is in the pod.
  EXPECT_EQ(Output(New("a", InPod(pid, "echo hi"))), "hi\n");
  EXPECT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_FALSE(HoldersOf(Shim().shim_pid(), Network().name()).empty());
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(HoldersOf(Shim().shim_pid(), Network().name()), IsEmpty());
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxPodTest, APodOnTheHostsNetworkSharesItsName) {
  cri::v1::PodSandboxConfig config = Config();
  config.clear_hostname();
  Options(config).set_network(cri::v1::NODE);
  pid_t pid = RunPod(config, "");
  for (const char* type : {"net", "uts"})
    EXPECT_EQ(NamespaceOf(pid, type), NamespaceOf(getpid(), type));
  EXPECT_NE(NamespaceOf(pid, "ipc"), NamespaceOf(getpid(), "ipc"));
  EXPECT_EQ(Output(New("a", InPod(pid, "readlink /proc/self/ns/net"))),
            NamespaceOf(getpid(), "net") + "\n");
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxPodTest, ASharedPidNamespaceHasAProcess1ThatReaps) {
  cri::v1::PodSandboxConfig config = Config();
  Options(config).set_pid(cri::v1::POD);
  pid_t pid = RunPod(config, Network().path());
  ASSERT_NE(pid, Shim().shim_pid());
  EXPECT_EQ(ParentOf(pid), Shim().shim_pid());
  EXPECT_EQ(NamespaceOf(Shim().shim_pid(), "net"), NamespaceOf(getpid(), "net")) << "it stays";
  EXPECT_EQ(NamespaceOf(pid, "net"), Network().name());
  // An orphan becomes a child of process 1, which leaves no zombie of it.
  Container& a = New(
      "a", InPod(pid,
                 "cat /proc/1/comm; (sleep 0.1 & exec true); sleep 1;"
                 "for p in /proc/[0-9]*/stat; do cut -d' ' -f3 $p; done 2>/dev/null | grep -c Z;"
                 "cat /proc/sys/kernel/hostname; ls /proc/1/root 2>&1",
                 absl::StrCat("/proc/", pid, "/ns/pid")));
  ASSERT_THAT(a.Run(), IsOk());
  EXPECT_THAT(a.Wait(), IsOk());
  EXPECT_TRUE(WaitForEof(a.stdio()));
  EXPECT_EQ(a.stdio().out->data(), "pod-init\n0\nsomepod\nls: /proc/1/root: Permission denied\n");
  EXPECT_THAT(a.Remove(), IsOk());
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_EQ(Children().size(), 1u);
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxPodTest, ItsProcess1HasNothingToBeHad) {
  cri::v1::PodSandboxConfig config = Config();
  Options(config).set_pid(cri::v1::POD);
  pid_t pid = RunPod(config, Network().path());
  std::string proc = absl::StrCat("/proc/", pid, "/");
  EXPECT_THAT(ListDirectory(proc + "root"), IsEmpty());
  std::string status = *ReadFile(proc + "status");
  for (const char* line : {"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
                           "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n"})
    EXPECT_THAT(status, HasSubstr(line));
  EXPECT_EQ(ListDirectory(proc + "fd").size(), 2u) << "its own end, and its children";
  EXPECT_FALSE(OpenFile(proc + "exe", O_WRONLY).ok());
  EXPECT_THAT(*ReadFile(proc + "mountinfo"), HasSubstr(" / / ro,"));
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxPodTest, TheEndOfItsProcess1IsTheSandboxs) {
  cri::v1::PodSandboxConfig config = Config();
  Options(config).set_pid(cri::v1::POD);
  pid_t pid = RunPod(config, Network().path());
  auto wait = Wait();
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  auto waited = wait.Get();
  ASSERT_THAT(waited, IsOk());
  EXPECT_EQ(waited->exit_status(), 128u + SIGKILL);
  EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_EQ(Wait().Get()->exit_status(), 128u + SIGKILL);
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxPodTest, NothingIsLeftOfAShimThatIsKilled) {
  cri::v1::PodSandboxConfig config = Config();
  Options(config).set_pid(cri::v1::POD);
  RunPod(config, Network().path());
  Shim().KillShim();
  EXPECT_TRUE(RunUntil([&] {
    ctrd().Reap();
    return Children().empty();
  })) << "process 1 ends with the shim";
  EXPECT_EQ(Shim().RunDelete().helper.exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(Shim().bundle() + "/pod"));
  EXPECT_THAT(Shim().RemoveBundle(), IsOk());
}

TEST_F(SandboxPodTest, APodWithAUserNamespaceIsRootOfWhatItHas) {
  cri::v1::PodSandboxConfig config = Config();
  Options(config).mutable_userns_options()->set_mode(cri::v1::POD);
  (*config.mutable_linux()->mutable_sysctls())["kernel.msgmax"] = "4242";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(ctrd().rootfs()))
    ASSERT_EQ(lchown(entry.path().c_str(), 100000, 100000), 0);
  for (cri::v1::NamespaceMode mode : {cri::v1::CONTAINER, cri::v1::POD}) {
    shim_ = nullptr;
    network_.reset();
    Options(config).set_pid(mode);
    pid_t pid = RunPod(config, Network(/*user=*/true).path());
    ContainerOptions options = InPod(
        pid,
        "id -u; cat /proc/self/uid_map /proc/sys/kernel/msgmax; echo 7 >/dev/shm/x; cat /dev/shm/x",
        mode == cri::v1::POD ? absl::StrCat("/proc/", pid, "/ns/pid") : "");
    nlohmann::json patch = nlohmann::json::parse(options.spec.patch);
    patch["linux"]["namespaces"].push_back(
        {{"type", "user"}, {"path", absl::StrCat("/proc/", pid, "/ns/user")}});
    for (const char* kind : {"uidMappings", "gidMappings"})
      patch["linux"][kind] = {{{"containerID", 0}, {"hostID", 100000}, {"size", 65536}}};
    options.spec.patch = patch.dump();
    Container& a = New("a", options);
    // As containerd makes it for such a container.
    chmod(a.bundle().c_str(), 0711);
    EXPECT_THAT(Output(a), ::testing::MatchesRegex("0\n +0 +100000 +65536\n4242\n7\n"));
    EXPECT_THAT(Stop(), IsOk());
    EXPECT_THAT(HoldersOf(Shim().shim_pid(), Network().name()), IsEmpty());
    EXPECT_THAT(Shutdown(), IsOk());
  }
}

}  // namespace
}  // namespace feather::test
