// The sandbox API: its states, repeated calls and failures.

#include <filesystem>
#include <map>

#include "proto/inspect.pb.h"
#include "tests/support/sandbox_fixture.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Checklist: A1.
TEST_F(SandboxTest, GoesThroughItsStatesInOneProcess) {
  std::string host = NamespaceOf(getpid(), "net");
  ASSERT_THAT(Create(Config(), Network().path()), IsOk());
  EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
  EXPECT_EQ(NamespaceOf(Shim().shim_pid(), "net"), host);
  auto started = Start();
  ASSERT_THAT(started, IsOk());
  EXPECT_EQ(started->pid(), static_cast<uint32_t>(Shim().shim_pid()));
  EXPECT_NE(started->created_at().seconds(), 0);
  EXPECT_EQ(started->spec().type_url(), "types.containerd.io/opencontainers/runtime-spec/1/Spec");
  std::map<std::string, std::string> named;
  const auto spec = nlohmann::json::parse(started->spec().value());
  for (const auto& entry : spec["linux"]["namespaces"]) named[entry["type"]] = entry["path"];
  EXPECT_EQ(named["network"], Network().path());
  EXPECT_EQ(Link(named["ipc"]), NamespaceOf(Shim().shim_pid(), "ipc"));
  EXPECT_EQ(Link(named["uts"]), NamespaceOf(Shim().shim_pid(), "uts"));
  EXPECT_EQ(NamespaceOf(Shim().shim_pid(), "net"), Network().name());
  for (const char* type : {"ipc", "uts"})
    EXPECT_NE(NamespaceOf(Shim().shim_pid(), type), NamespaceOf(getpid(), type));
  for (const char* type : {"mnt", "pid", "user", "cgroup"})
    EXPECT_EQ(NamespaceOf(Shim().shim_pid(), type), NamespaceOf(getpid(), type));
  EXPECT_THAT(Children(), ::testing::ElementsAre(Shim().shim_pid()));
  if (!TestsGrpc()) {
    EXPECT_EQ(FootprintOf(Shim().shim_pid()).threads, 1);
  }
  EXPECT_EQ(Status()->state(), "SANDBOX_READY");
  EXPECT_EQ(Status()->pid(), started->pid());
  EXPECT_THAT((Call<api::PingResponse>("PingSandbox", api::PingRequest())), IsOk());

  auto wait = Wait();
  EXPECT_THAT((Call<api::PingResponse>("PingSandbox", api::PingRequest())), IsOk());
  EXPECT_FALSE(wait.done());
  ASSERT_THAT(Stop(), IsOk());
  auto waited = wait.Get();
  ASSERT_THAT(waited, IsOk());
  EXPECT_EQ(waited->exit_status(), 0u);
  EXPECT_NE(waited->exited_at().seconds(), 0);
  EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
  EXPECT_EQ(Status()->pid(), 0u);
  for (const char* type : {"net", "ipc", "uts"})
    EXPECT_EQ(NamespaceOf(Shim().shim_pid(), type), NamespaceOf(getpid(), type));
  // containerd keeps the spec: it must not name the host's namespaces now.
  for (const char* type : {"ipc", "uts"}) EXPECT_EQ(Link(named[type]), "") << named[type];
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, RepeatedCallsGetTheSameAnswer) {
  ASSERT_THAT(Create(Config(), Network().path()), IsOk());
  EXPECT_THAT(Create(Config(), Network().path()), IsError(kAlreadyExists, "already exists"));
  auto first = Start();
  auto second = Start();
  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(first->SerializeAsString(), second->SerializeAsString());
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Wait().Get(), IsOk());
  EXPECT_THAT(Start(), IsError(kFailedPrecondition, "has been stopped"));
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, AnUnknownSandboxIsNotFound) {
  EXPECT_THAT(Start(), IsError(kNotFound, "sandbox pod: not found"));
  EXPECT_THAT(Stop(), IsError(kNotFound, "not found"));
  EXPECT_THAT(Status(), IsError(kNotFound, "not found"));
  EXPECT_THAT(Wait().Get(), IsError(kNotFound, "not found"));
  ASSERT_THAT(Create(Config(), ""), IsOk());
  api::ShutdownSandboxRequest other;
  other.set_sandbox_id("other");
  EXPECT_THAT((Call<api::ShutdownSandboxResponse>("ShutdownSandbox", other)),
              IsError(kNotFound, "not found"));
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, APlatformIsToldAtAnyTime) {
  auto platform = Call<api::PlatformResponse>("Platform", api::PlatformRequest());
  ASSERT_THAT(platform, IsOk());
  EXPECT_EQ(platform->platform().os(), "linux");
  EXPECT_NE(platform->platform().architecture(), "");
  EXPECT_THAT(Shutdown(), IsOk()) << "without a sandbox it ends the shim";
}

TEST_F(SandboxTest, BadRequestsMakeNoSandbox) {
  api::CreateSandboxRequest request;
  EXPECT_THAT((Call<api::CreateSandboxResponse>("CreateSandbox", request)),
              IsError(kInvalidArgument, "is no directory"));
  request.set_bundle_path(Shim().bundle());
  request.mutable_options()->set_type_url("what.is.This");
  EXPECT_THAT((Call<api::CreateSandboxResponse>("CreateSandbox", request)),
              IsError(kInvalidArgument, "what.is.This"));
  request.mutable_options()->set_type_url("runtime.v1.PodSandboxConfig");
  request.mutable_options()->set_value("\xff\xff");
  EXPECT_THAT((Call<api::CreateSandboxResponse>("CreateSandbox", request)),
              IsError(kInvalidArgument, "broken"));
  request.clear_options();
  request.add_rootfs()->set_type("bind");
  EXPECT_THAT((Call<api::CreateSandboxResponse>("CreateSandbox", request)),
              IsError(kInvalidArgument, "root file system"));
  request.clear_rootfs();
  request.set_sandbox_id("../pod");
  EXPECT_THAT((Call<api::CreateSandboxResponse>("CreateSandbox", request)),
              IsError(kInvalidArgument, "identifier"));

  // What would be cut short, or taken for something else.
  cri::v1::PodSandboxConfig config = Config();
  config.set_hostname(std::string("po\0d", 4));
  EXPECT_THAT(Create(config, ""), IsError(kInvalidArgument, "NUL byte in the hostname"));
  config = Config();
  (*config.mutable_linux()->mutable_sysctls())["kernel.msgmax"] = std::string("1\0", 2);
  EXPECT_THAT(Create(config, ""), IsError(kInvalidArgument, "NUL byte in sysctl"));
  config = Config();
  config.mutable_linux()
      ->mutable_security_context()
      ->mutable_namespace_options()
      ->mutable_userns_options()
      ->set_mode(cri::v1::CONTAINER);
  EXPECT_THAT(Create(config, ""), IsError(kInvalidArgument, "mode 1 of the user namespace"));
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, AFailedStartLeavesNothing) {
  cri::v1::PodSandboxConfig config = Config();
  (*config.mutable_linux()->mutable_sysctls())["kernel.panic"] = "1";
  ASSERT_THAT(Create(config, Network().path()), IsOk());
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Start(), IsError(kInvalidArgument, "\"kernel.panic\" is not in a namespace"));
    EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
    EXPECT_THAT(HoldersOf(Shim().shim_pid(), Network().name()), IsEmpty());
    EXPECT_FALSE(std::filesystem::exists(Shim().bundle() + "/pod"));
    EXPECT_EQ(Children().size(), 1u);
  }
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, AStartWithoutItsNetworkNamespaceFails) {
  ASSERT_THAT(Create(Config(), ctrd().directory() + "/missing"), IsOk());
  EXPECT_THAT(Start(), IsError(kNotFound, "/missing"));
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, AKernelParameterThatTheKernelRefusesFailsTheStart) {
  cri::v1::PodSandboxConfig config = Config();
  (*config.mutable_linux()->mutable_sysctls())["net.ipv4.ip_forward"] = "sideways";
  ASSERT_THAT(Create(config, Network().path()), IsOk());
  EXPECT_THAT(Start(), IsError(kUnknown, "ip_forward: write: invalid argument"));
  EXPECT_THAT(HoldersOf(Shim().shim_pid(), Network().name()), IsEmpty());
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, InspectTellsOfItWithoutContainers) {
  auto inspect = [&] {
    auto answer = Pending<inspect::v1::ShimResponse>(
                      ctrd().loop(), Shim().SendBytes("feather.inspect.v1.Inspect", "Shim", ""))
                      .Get();
    EXPECT_THAT(answer, IsOk());
    return answer.ok() ? *answer : inspect::v1::ShimResponse();
  };
  EXPECT_FALSE(inspect().has_sandbox());
  ASSERT_THAT(Create(Config(), Network().path()), IsOk());
  EXPECT_EQ(inspect().sandbox().state(), "created");
  EXPECT_EQ(inspect().sandbox().pid(), 0u);
  ASSERT_THAT(Start(), IsOk());
  EXPECT_EQ(inspect().sandbox().state(), "ready");
  EXPECT_EQ(inspect().sandbox().pid(), static_cast<uint32_t>(Shim().shim_pid()));
  EXPECT_EQ(inspect().containers_size(), 0);
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_EQ(inspect().sandbox().state(), "stopped");
  EXPECT_THAT(Shutdown(), IsOk());
}

TEST_F(SandboxTest, TasksThatShutDownDoNotEndIt) {
  pid_t pid = RunPod(Config(), Network().path());
  Container& a = New("a", InPod(pid, "exit 0"));
  EXPECT_THAT(a.Run(), IsOk());
  EXPECT_THAT(a.Wait(), IsOk());
  EXPECT_THAT(a.Remove(), IsOk()) << "asks the shim to shut down";
  EXPECT_EQ(Status()->state(), "SANDBOX_READY");
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_THAT(Shim().Shutdown(), IsOk());
  EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
  EXPECT_THAT(Shutdown(), IsOk());
}

// containerd knows of it, and may be away for longer. A shim that has neither is given up.
TEST_F(SandboxTest, OneThatWasCreatedOnlyOutlivesTheConnection) {
  Container& other = ctrd().Prepare("other");
  ASSERT_THAT(other.StartShim(), IsOk());
  ASSERT_THAT(other.Create(), IsOk());
  EXPECT_THAT(other.Kill(SIGKILL), IsOk());
  EXPECT_THAT(other.Wait(), IsOk());
  EXPECT_THAT(other.Delete(), IsOk());
  ASSERT_THAT(Create(Config(), Network().path()), IsOk());
  Shim().Disconnect();
  other.Disconnect();
  EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(other.shim_pid()).has_value(); }));
  EXPECT_FALSE(ctrd().ExitOf(Shim().shim_pid()).has_value());
  ASSERT_THAT(Shim().Connect(), IsOk());
  EXPECT_THAT(Start(), IsOk());
  EXPECT_THAT(Shutdown(), IsOk());
}

// After a restart containerd takes a shim for dead that does not answer in time; CRI has no way to
// it then.
TEST_F(SandboxTest, OneWhoseBundleWasRemovedEndsWithoutAConnection) {
  ASSERT_THAT(Create(Config(), Network().path()), IsOk());
  EXPECT_THAT(Shim().RemoveBundle(), IsOk());
  Shim().Disconnect();
  EXPECT_TRUE(ctrd().loop().RunUntil([&] { return ctrd().ExitOf(Shim().shim_pid()).has_value(); },
                                     std::chrono::seconds(120)));
}

TEST_F(SandboxTest, OneWhoseBundleWasRemovedEndsThoughNobodyDeletesItsContainers) {
  if (TestsGrpc()) GTEST_SKIP() << "there `delete` waits for the end of a shim that is alive";
  pid_t pid = RunPod(Config(), Network().path());
  Container& a = New("a", InPod(pid, "sleep 1000"));
  ASSERT_THAT(a.Run(), IsOk());
  auto wait = a.WaitAsync();
  EXPECT_EQ(Shim().RunDelete().helper.exit_code, 0);
  EXPECT_EQ(a.RunDelete().helper.err, "");
  EXPECT_THAT(wait.Get(), IsOk());
  EXPECT_THAT(a.RemoveBundle(), IsOk());
  EXPECT_THAT(Shim().RemoveBundle(), IsOk());
  a.Disconnect();
  Shim().Disconnect();
  EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(Shim().shim_pid()).has_value(); }));
}

TEST_F(SandboxTest, AShutdownWithoutAStopGivesEverythingBack) {
  RunPod(Config(), Network().path());
  EXPECT_THAT(Shutdown(), IsOk());
}

// Checklist: A3.
TEST_F(SandboxTest, ContainersOutliveAShutdownAndTheShimWithThem) {
  pid_t pid = RunPod(Config(), Network().path());
  Container& a = New("a", InPod(pid, "sleep 1000"));
  ASSERT_THAT(a.Run(), IsOk());
  EXPECT_THAT(
      (Call<api::ShutdownSandboxResponse>("ShutdownSandbox", api::ShutdownSandboxRequest())),
      IsOk());
  EXPECT_EQ(a.State()->status(), containerd::v1::types::RUNNING);
  EXPECT_THAT(a.KillAndRemove(), IsOk());
  EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(Shim().shim_pid()).has_value(); }));
}

// containerd 2.0 to 2.3 sends no Shutdown for a pod's container.
TEST_F(SandboxTest, ItEndsSoonAfterItsLastContainerThoughNobodyTellsIt) {
  pid_t pid = RunPod(Config(), Network().path());
  Container& a = New("a", InPod(pid, "sleep 1000"));
  ASSERT_THAT(a.Run(), IsOk());
  EXPECT_THAT(
      (Call<api::ShutdownSandboxResponse>("ShutdownSandbox", api::ShutdownSandboxRequest())),
      IsOk());
  auto wait = a.WaitAsync();
  EXPECT_THAT(a.Kill(SIGKILL), IsOk());
  EXPECT_THAT(wait.Get(), IsOk());
  EXPECT_THAT(a.Delete(), IsOk());
  a.Disconnect();
  Shim().Disconnect();
  EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(Shim().shim_pid()).has_value(); }));
}

}  // namespace
}  // namespace feather::test
