#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cri_api.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/daemon.h"
#include "tests/support/web_socket.h"

namespace feather::test {

namespace cri = runtime::v1;

// Pods by CRI, as the kubelet makes them: a containerd with its CRI plugin, called over its socket.
// (A unary gRPC call is an HTTP/2 request with the message in its body: curl makes it.)
//
// The test's process goes into a network namespace of its own, in which the pods' network is made
// by Debian's CNI plugins. "Host network" is that namespace.
//
// Parameter: a Debian suite, with "_shim" at its end for pods without a pause container.
class CriTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override;
  void TearDown() override;

  bool shim_mode() const { return GetParam().ends_with("_shim"); }
  // The guest that enforces a policy of SELinux, in which containerd is confined as an engine of
  // containers and CRI labels them. "stock" is the handler of the stock shim then.
  static bool selinux();
  // Pods' cgroups are made by systemd, in the guest whose process 1 it is: below kSlice.
  static bool systemd();
  static constexpr char kSlice[] = "feather-pods.slice";
  // The handler under test; "feather" is a pod with a pause container.
  std::string Handler() const { return shim_mode() ? "podless" : "feather"; }
  // The handler "optioned" has runc's options: in this directory the OCI runtime `runtime`, which
  // writes its arguments to `calls`, and the runtime's `root`; 7 and 8 as owners of the streams;
  // and this cgroup for the shim, which is not made. "mistyped" has one that does not exist.
  static std::string Directory();
  static std::string ShimCgroup();
  static std::string RuncOptions();

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const std::string& method, const Request& request,
                                const std::string& service = "RuntimeService") {
    absl::StatusOr<std::string> bytes =
        CallBytes("/runtime.v1." + service + "/" + method, request.SerializeAsString());
    Response response;
    if (!bytes.ok()) return bytes.status();
    if (!response.ParseFromString(*bytes)) return absl::InternalError("broken answer");
    return response;
  }

  // A pod with a private pid namespace for each container; `name` is its hostname too.
  cri::PodSandboxConfig PodConfig(const std::string& name) const;
  static cri::NamespaceOption& Options(cri::PodSandboxConfig& config) {
    return *config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  }
  absl::StatusOr<std::string> RunPod(const cri::PodSandboxConfig& config,
                                     const std::string& handler);
  cri::PodSandboxStatus PodStatus(const std::string& pod);
  // What `crictl inspectp` shows, in JSON.
  std::string PodInfo(const std::string& pod);
  absl::Status StopPod(const std::string& pod);
  absl::Status RemovePod(const std::string& pod);

  // A container that runs a shell script, in the pod's own namespace modes.
  static cri::ContainerConfig ContainerConfig(const cri::PodSandboxConfig& pod,
                                              const std::string& name, const std::string& script);
  // Created and started; its id.
  absl::StatusOr<std::string> RunContainer(const std::string& pod,
                                           const cri::PodSandboxConfig& pod_config,
                                           const cri::ContainerConfig& config);
  absl::Status StopContainer(const std::string& id, int64_t timeout);
  absl::Status RemoveContainer(const std::string& id);
  cri::ContainerStatus ContainerStatus(const std::string& id);
  bool WaitForExit(const std::string& id);
  absl::StatusOr<cri::ExecSyncResponse> ExecSync(const std::string& id, const std::string& script,
                                                 int64_t timeout = 0);
  // The stream of an Exec, Attach or PortForward; null, and a failure, if there is none.
  template <typename Request>
  std::unique_ptr<WebSocket> Stream(const std::string& method, const Request& request) {
    auto response = Call<cri::StreamResponse>(method, request);
    EXPECT_TRUE(response.ok()) << response.status();
    if (!response.ok()) return nullptr;
    auto socket = WebSocket::Open(response->url());
    EXPECT_TRUE(socket.ok()) << socket.status();
    return socket.ok() ? *std::move(socket) : nullptr;
  }
  // What a container has written to its log so far, without time stamps and stream names.
  std::string LogOf(const std::string& name) const;

  std::unique_ptr<Daemon> daemon_;

 private:
  absl::StatusOr<std::string> CallBytes(const std::string& path, const std::string& message);
  static void ConfineContainerd();
  std::string Configuration(const std::string& directory) const;
};

}  // namespace feather::test
