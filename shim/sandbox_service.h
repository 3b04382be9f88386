#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/inspect.pb.h"
#include "proto/sandbox.pb.h"
#include "runtime/reaper.h"
#include "runtime/runtime_options.h"
#include "shim/rpc/method_table.h"

namespace feather {

// The sandbox API of a shim (containerd.runtime.sandbox.v1.Sandbox): a pod whose namespaces the
// shim itself holds (docs/sandbox.md). A shim has one sandbox at most.
//
//   CreateSandbox -> created -> StartSandbox -> ready -> StopSandbox -> stopped -> ShutdownSandbox
//
// Start, Stop and Shutdown may be repeated, as a caller does who has not heard the answer. Start
// fails as a whole or not at all, and can be tried again. Stop ends what is the sandbox' own, but
// no container: that is for their owner to do first. A sandbox whose process 1 has ended is stopped
// as well, but for what it holds. Shutdown does what Stop has not done, and forgets the sandbox.
//
// Status, Platform, Ping and Wait never wait for another call.
class SandboxService {
 public:
  // `on_shutdown` is called after a Shutdown: ends the shim, unless there are containers left.
  SandboxService(asio::io_context& io, Reaper& reaper, std::function<void()> on_shutdown);
  ~SandboxService();

  // The service must outlive the calls.
  void Register(rpc::MethodTable& methods);

  // There is a sandbox. containerd has a record of it and will shut it down, however long that
  // takes: until then neither a task's Shutdown nor the want of a connection ends the shim.
  bool exists() const { return sandbox_ != nullptr; }

  // Adds the sandbox, if there is one.
  void Describe(inspect::v1::ShimResponse& shim) const;

  // Before a container is created: gives its bundle what the pod has for it (JoinPod), and its
  // options systemd's cgroup driver if the pod's cgroup is a slice. (containerd 2.1 and 2.2 start
  // no container of such a pod if its handler has options and is of another type than runc's own.)
  absl::Status PrepareBundle(const std::string& bundle, RuntimeOptions& options) const;

 private:
  struct Sandbox;
  template <typename Response>
  using Answer = Async<absl::StatusOr<Response>>;

  Answer<containerd::runtime::sandbox::v1::CreateSandboxResponse> Create(
      rpc::CallContext context, containerd::runtime::sandbox::v1::CreateSandboxRequest request);
  Answer<containerd::runtime::sandbox::v1::StartSandboxResponse> Start(
      rpc::CallContext context, containerd::runtime::sandbox::v1::StartSandboxRequest request);
  Answer<containerd::runtime::sandbox::v1::PlatformResponse> Platform(
      rpc::CallContext context, containerd::runtime::sandbox::v1::PlatformRequest request);
  Answer<containerd::runtime::sandbox::v1::StopSandboxResponse> Stop(
      rpc::CallContext context, containerd::runtime::sandbox::v1::StopSandboxRequest request);
  Answer<containerd::runtime::sandbox::v1::WaitSandboxResponse> Wait(
      rpc::CallContext context, containerd::runtime::sandbox::v1::WaitSandboxRequest request);
  Answer<containerd::runtime::sandbox::v1::SandboxStatusResponse> Status(
      rpc::CallContext context, containerd::runtime::sandbox::v1::SandboxStatusRequest request);
  Answer<containerd::runtime::sandbox::v1::PingResponse> Ping(
      rpc::CallContext context, containerd::runtime::sandbox::v1::PingRequest request);
  Answer<containerd::runtime::sandbox::v1::ShutdownSandboxResponse> Shutdown(
      rpc::CallContext context, containerd::runtime::sandbox::v1::ShutdownSandboxRequest request);
  Answer<containerd::runtime::sandbox::v1::SandboxMetricsResponse> Metrics(
      rpc::CallContext context, containerd::runtime::sandbox::v1::SandboxMetricsRequest request);

  template <typename Request, typename Response>
  void Add(rpc::MethodTable& methods, absl::string_view method,
           Answer<Response> (SandboxService::*handler)(rpc::CallContext, Request));

  absl::StatusOr<std::shared_ptr<Sandbox>> Find(const std::string& id) const;
  Async<absl::Status> Enter(std::shared_ptr<Sandbox> sandbox);
  Async<absl::Status> Release(std::shared_ptr<Sandbox> sandbox);

  asio::io_context& io_;
  Reaper& reaper_;
  std::function<void()> on_shutdown_;
  std::shared_ptr<Sandbox> sandbox_;
  bool had_sandbox_ = false;
};

}  // namespace feather
