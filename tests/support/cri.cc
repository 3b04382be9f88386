#include "tests/support/cri.h"

#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"

namespace feather::test {
namespace {

constexpr char kNamespace[] = "k8s.io";
constexpr char kPause[] = "docker.io/library/pause:latest";
constexpr char kBusybox[] = "docker.io/library/busybox:latest";
constexpr char kCniPlugins[] = "/usr/lib/cni";

// The value of an HTTP header or trailer in what curl has written of them.
std::string Header(const std::string& headers, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(headers, '\n')) {
    line = absl::StripTrailingAsciiWhitespace(line);
    if (absl::ConsumePrefix(&line, name) && absl::ConsumePrefix(&line, ": "))
      return std::string(line);
  }
  return "";
}

// gRPC over HTTP/2: a flag and the length, big endian, before the message.
std::string Frame(const std::string& message) {
  std::string frame(5, '\0');
  for (size_t i = 0; i < 4; ++i) frame[4 - i] = static_cast<char>(message.size() >> (8 * i) & 0xff);
  return frame + message;
}

}  // namespace

bool CriTest::selinux() {
  return getenv("FEATHER_GUEST") != nullptr && access("/sys/fs/selinux/enforce", F_OK) == 0;
}
bool CriTest::systemd() { return getenv("FEATHER_GUEST_SYSTEMD") != nullptr; }

std::string CriTest::Configuration(const std::string& directory) const {
  const bool v3 = absl::StartsWith(GetParam(), "sid");
  const std::string plugin = v3 ? "io.containerd.cri.v1.runtime" : "io.containerd.grpc.v1.cri";
  auto table = [&](absl::string_view rest) {
    return absl::StrCat("[plugins.\"", plugin, "\"", rest, "]\n");
  };
  std::string text = table("");
  absl::StrAppend(&text, "restrict_oom_score_adj = true\ndisable_apparmor = true\n",
                  "netns_mounts_under_state_dir = true\n");
  if (selinux()) absl::StrAppend(&text, "enable_selinux = true\n");
  // What containerd 2 has by default.
  absl::StrAppend(&text, "enable_unprivileged_ports = true\nenable_unprivileged_icmp = true\n");
  if (!v3) absl::StrAppend(&text, "sandbox_image = \"", kPause, "\"\n");
  if (!v3)
    absl::StrAppend(&text, "stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n");
  absl::StrAppend(&text, table(".containerd"), "default_runtime_name = \"feather\"\n");
  if (!v3) absl::StrAppend(&text, "snapshotter = \"overlayfs\"\n");
  auto handler = [&](const std::string& name, const char* more, bool options) {
    absl::StrAppend(&text, table(".containerd.runtimes." + name), "runtime_type = \"",
                    Daemon::Runtime(), "\"\n", more);
    if (options && systemd())
      absl::StrAppend(&text, table(".containerd.runtimes." + name + ".options"),
                      "SystemdCgroup = true\n");
  };
  handler("feather", "", true);
  auto with_options = [&](const std::string& name, const std::string& options) {
    handler(name, "", false);
    absl::StrAppend(&text, table(".containerd.runtimes." + name + ".options"), options);
  };
  // Of its options CRI of 1.6 sends the path of a file alone, and that of every later one, too.
  const bool by_file = absl::StartsWith(GetParam(), "bookworm");
  with_options("optioned", by_file ? absl::StrCat("ConfigPath = \"", directory, "/options\"\n")
                                   : RuncOptions());
  with_options("mistyped", "Systemd_CGroups = false\n");
  if (selinux())
    absl::StrAppend(&text, table(".containerd.runtimes.stock"),
                    "runtime_type = \"io.containerd.runc.v2\"\n");
  // containerd 2.1 starts no container there if there are options.
  if (shim_mode()) handler("podless", "sandboxer = \"shim\"\n", false);
  absl::StrAppend(&text, table(".cni"), v3 ? "bin_dirs = [\"" : "bin_dir = \"", kCniPlugins,
                  v3 ? "\"]\n" : "\"\n", "conf_dir = \"", directory, "/cni\"\n");
  if (v3)
    absl::StrAppend(&text,
                    "[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"overlayfs\"\n"
                    "[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"",
                    kPause, "\"\n");
  // Part of CRI by default, without a plugin of its own.
  if (v3)
    absl::StrAppend(&text, "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable_connections = true\n",
                    "socket_path = \"", directory, "/nri.sock\"\nplugin_path = \"", directory,
                    "/nri\"\nplugin_config_path = \"", directory, "/nri\"\n");
  return text;
}

// In the place of sid's.
void CriTest::ConfineContainerd() {
  const std::string real = absl::StrCat(kSourceDirectory, "/build/containerd/sid/usr/bin");
  const std::string directory = absl::StrCat("/tmp/containerd-", getpid());
  if (mkdir(directory.c_str(), 0755) != 0) return;  // by the test before
  const std::string confined = absl::StrCat(kSourceDirectory, "/tests/support/confined-containerd");
  EXPECT_EQ(symlink(confined.c_str(), (directory + "/containerd").c_str()), 0);
  for (const char* name : {"/ctr", "/containerd-shim-runc-v2"})
    EXPECT_EQ(symlink((real + name).c_str(), (directory + name).c_str()), 0);
  // containerd looks for shims there, too.
  EXPECT_EQ(RunCommand({.argv = {"chcon", "-R", "-h", "-t", "bin_t", directory}}).code, 0);
  setenv("FEATHER_CONFINED", real.c_str(), 1);
  setenv("FEATHER_CONTAINERD_2", directory.c_str(), 1);
}

void CriTest::SetUp() {
  if (selinux()) ConfineContainerd();
  const std::string suite(absl::StripSuffix(GetParam(), "_shim"));
  const std::string reason = Daemon::Unavailable(suite);
  if (!reason.empty()) GTEST_SKIP() << reason;
  if (access(absl::StrCat(kCniPlugins, "/ptp").c_str(), X_OK) != 0)
    GTEST_SKIP() << "no CNI plugins (packaging/install-build-deps --tests)";
  static const bool alone = unshare(CLONE_NEWNET) == 0 &&
                            RunCommand({.argv = {"ip", "link", "set", "lo", "up"}}).code == 0;
  ASSERT_TRUE(alone) << "no network namespace: errno " << errno;
  // The daemon's directory is not known before it is there.
  const std::string directory = Directory();
  daemon_ = std::make_unique<Daemon>(suite, Configuration(directory));
  ASSERT_EQ(mkdir(directory.c_str(), 0755), 0);
  ASSERT_EQ(mkdir((directory + "/cni").c_str(), 0755), 0);
  std::string network = absl::StrCat(
      R"({"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": {)",
      R"("type": "host-local", "dataDir": ")", directory, R"(/ips", "subnet": "10.88.0.0/16"}}]})");
  ASSERT_TRUE(WriteFile(directory + "/cni/pods.conflist", network, 0644).ok());
  const std::string runtime =
      absl::StrCat("#!/bin/sh\necho \"$*\" >>", directory, "/calls\nexec runc \"$@\"\n");
  ASSERT_TRUE(WriteFile(directory + "/runtime", runtime, 0755).ok());
  ASSERT_TRUE(WriteFile(directory + "/options", RuncOptions(), 0644).ok());
  ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
  ASSERT_TRUE(daemon_->ImportImage("busybox", R"(["/bin/sh"])", kNamespace));
  ASSERT_TRUE(daemon_->ImportImage("pause", R"(["/bin/sleep","1000000"])", kNamespace));
  // CRI hears of images by events.
  for (const char* image : {kBusybox, kPause}) {
    cri::ImageStatusRequest request;
    request.mutable_image()->set_image(image);
    ASSERT_TRUE(Eventually([&] {
      auto status = Call<cri::ImageStatusResponse>("ImageStatus", request, "ImageService");
      return status.ok() && status->has_image();
    })) << daemon_->Log();
  }
}

void CriTest::TearDown() {
  if (daemon_ == nullptr) return;
  EXPECT_TRUE(Eventually([this] { return daemon_->Cgroups().empty(); }, Milliseconds(20'000)));
  EXPECT_TRUE(daemon_->Stop());
  EXPECT_TRUE(Eventually([this] { return daemon_->Processes().empty(); }, Milliseconds(20'000)))
      << "processes are left";
  if (HasFailure()) printf("%s\n", daemon_->Log().c_str());
  daemon_.reset();
  RunCommand({.argv = {"rm", "-rf", Directory()}});
}

std::string CriTest::Directory() { return absl::StrCat("/run/containerd/cri-", getpid()); }
std::string CriTest::ShimCgroup() { return absl::StrCat("/feather-cri-", getpid()); }
std::string CriTest::RuncOptions() {
  return absl::StrCat("BinaryName = \"", Directory(), "/runtime\"\nRoot = \"", Directory(),
                      "/root\"\nShimCgroup = \"", ShimCgroup(),
                      "\"\nIoUid = 7\nIoGid = 8\nNoNewKeyring = true\n");
}

absl::StatusOr<std::string> CriTest::CallBytes(const std::string& path,
                                               const std::string& message) {
  // Calls may be made at the same time.
  static std::atomic<int> calls = 0;
  const std::string base = absl::StrCat(daemon_->directory(), "/call-", ++calls, "-");
  if (!WriteFile(base + "request", Frame(message), 0600).ok())
    return absl::InternalError("cannot write the request");
  CommandResult curl =
      RunCommand({.argv = {"curl", "--silent", "--show-error", "--http2-prior-knowledge",
                           "--max-time", "110", "--unix-socket", daemon_->directory() + "/c.sock",
                           "--header", "content-type: application/grpc", "--header", "te: trailers",
                           "--data-binary", "@" + base + "request", "--output", base + "answer",
                           "--dump-header", base + "headers", "http://localhost" + path}});
  if (curl.code != 0) return absl::UnavailableError("curl: " + curl.err);
  const std::string headers = feather::ReadFile(base + "headers").value_or("");
  const std::string answer = feather::ReadFile(base + "answer").value_or("");
  for (const char* file : {"request", "answer", "headers"}) unlink((base + file).c_str());
  int code = -1;
  if (!absl::SimpleAtoi(Header(headers, "grpc-status"), &code))
    return absl::InternalError("no grpc-status: " + headers);
  if (code != 0)
    return absl::Status(static_cast<absl::StatusCode>(code), Header(headers, "grpc-message"));
  if (answer.size() < 5) return absl::InternalError("short answer");
  return answer.substr(5);
}

cri::PodSandboxConfig CriTest::PodConfig(const std::string& name) const {
  cri::PodSandboxConfig config;
  config.mutable_metadata()->set_name(name);
  config.mutable_metadata()->set_uid("uid-" + name);
  config.mutable_metadata()->set_namespace_("default");
  config.set_hostname(name);
  config.set_log_directory(daemon_->directory() + "/tmp");
  config.mutable_dns_config()->add_servers("192.0.2.1");
  config.mutable_linux()->set_cgroup_parent(systemd() ? kSlice
                                                      : "/" + daemon_->containerd_namespace());
  Options(config).set_pid(cri::CONTAINER);
  return config;
}

absl::StatusOr<std::string> CriTest::RunPod(const cri::PodSandboxConfig& config,
                                            const std::string& handler) {
  cri::RunPodSandboxRequest request;
  *request.mutable_config() = config;
  request.set_runtime_handler(handler);
  auto response = Call<cri::PodResponse>("RunPodSandbox", request);
  if (!response.ok()) return response.status();
  return response->pod_sandbox_id();
}

cri::PodSandboxStatus CriTest::PodStatus(const std::string& pod) {
  cri::PodRequest request;
  request.set_pod_sandbox_id(pod);
  auto response = Call<cri::PodSandboxStatusResponse>("PodSandboxStatus", request);
  EXPECT_TRUE(response.ok()) << response.status();
  return response.ok() ? response->status() : cri::PodSandboxStatus();
}

std::string CriTest::PodInfo(const std::string& pod) {
  cri::PodRequest request;
  request.set_pod_sandbox_id(pod);
  request.set_verbose(true);
  auto response = Call<cri::PodSandboxStatusResponse>("PodSandboxStatus", request);
  EXPECT_TRUE(response.ok()) << response.status();
  return response.ok() ? response->info().at("info") : "";
}

absl::Status CriTest::StopPod(const std::string& pod) {
  cri::PodRequest request;
  request.set_pod_sandbox_id(pod);
  return Call<cri::PodResponse>("StopPodSandbox", request).status();
}

absl::Status CriTest::RemovePod(const std::string& pod) {
  cri::PodRequest request;
  request.set_pod_sandbox_id(pod);
  return Call<cri::PodResponse>("RemovePodSandbox", request).status();
}

cri::ContainerConfig CriTest::ContainerConfig(const cri::PodSandboxConfig& pod,
                                              const std::string& name, const std::string& script) {
  cri::ContainerConfig config;
  config.mutable_metadata()->set_name(name);
  config.mutable_image()->set_image(kBusybox);
  for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script})
    config.add_command(word);
  config.set_log_path(name + ".log");
  *config.mutable_linux()->mutable_security_context()->mutable_namespace_options() =
      pod.linux().security_context().namespace_options();
  return config;
}

absl::StatusOr<std::string> CriTest::RunContainer(const std::string& pod,
                                                  const cri::PodSandboxConfig& pod_config,
                                                  const cri::ContainerConfig& config) {
  cri::CreateContainerRequest create;
  create.set_pod_sandbox_id(pod);
  *create.mutable_config() = config;
  *create.mutable_sandbox_config() = pod_config;
  auto created = Call<cri::ContainerResponse>("CreateContainer", create);
  if (!created.ok()) return created.status();
  cri::ContainerRequest start;
  start.set_container_id(created->container_id());
  auto started = Call<cri::ContainerResponse>("StartContainer", start);
  if (!started.ok()) return started.status();
  return created->container_id();
}

absl::Status CriTest::StopContainer(const std::string& id, int64_t timeout) {
  cri::ContainerRequest request;
  request.set_container_id(id);
  request.set_timeout(timeout);
  return Call<cri::ContainerResponse>("StopContainer", request).status();
}

absl::Status CriTest::RemoveContainer(const std::string& id) {
  cri::ContainerRequest request;
  request.set_container_id(id);
  return Call<cri::ContainerResponse>("RemoveContainer", request).status();
}

cri::ContainerStatus CriTest::ContainerStatus(const std::string& id) {
  cri::ContainerRequest request;
  request.set_container_id(id);
  auto response = Call<cri::ContainerStatusResponse>("ContainerStatus", request);
  EXPECT_TRUE(response.ok()) << response.status();
  return response.ok() ? response->status() : cri::ContainerStatus();
}

bool CriTest::WaitForExit(const std::string& id) {
  return Eventually([&] { return ContainerStatus(id).state() == cri::CONTAINER_EXITED; });
}

absl::StatusOr<cri::ExecSyncResponse> CriTest::ExecSync(const std::string& id,
                                                        const std::string& script,
                                                        int64_t timeout) {
  cri::ExecSyncRequest request;
  request.set_container_id(id);
  for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script})
    request.add_cmd(word);
  request.set_timeout(timeout);
  return Call<cri::ExecSyncResponse>("ExecSync", request);
}

std::string CriTest::LogOf(const std::string& name) const {
  std::string log =
      feather::ReadFile(absl::StrCat(daemon_->directory(), "/tmp/", name, ".log")).value_or("");
  std::string text;
  for (absl::string_view line : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    // time stream tag text
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (fields.size() == 4) absl::StrAppend(&text, fields[3], "\n");
  }
  return text;
}

}  // namespace feather::test
