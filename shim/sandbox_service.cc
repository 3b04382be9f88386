#include "shim/sandbox_service.h"

#include <sys/stat.h>
#include <sys/utsname.h>

#include <array>
#include <cerrno>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/base/home_namespaces.h"
#include "runtime/base/log.h"
#include "runtime/base/mutex.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/bundle.h"
#include "runtime/sandbox/pod_cgroup.h"
#include "runtime/sandbox/pod_files.h"
#include "runtime/sandbox/pod_namespaces.h"
#include "shim/sandbox_options.h"

namespace feather {

namespace api = containerd::runtime::sandbox::v1;

namespace {

constexpr char kService[] = "containerd.runtime.sandbox.v1.Sandbox";
constexpr char kSpecType[] = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

google::protobuf::Timestamp Timestamp(absl::Time at) {
  timespec time = absl::ToTimespec(at);
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(time.tv_sec);
  timestamp.set_nanos(static_cast<int32_t>(time.tv_nsec));
  return timestamp;
}

std::string ToText(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The architecture by Go's names.
std::pair<std::string, std::string> Architecture() {
  utsname host = {};
  uname(&host);
  absl::string_view machine = host.machine;
  if (machine == "x86_64") return {"amd64", ""};
  if (machine == "aarch64") return {"arm64", "v8"};
  if (absl::StartsWith(machine, "armv7")) return {"arm", "v7"};
  if (machine == "i686" || machine == "i386") return {"386", ""};
  return {std::string(machine), ""};
}

}  // namespace

struct SandboxService::Sandbox {
  enum class State { kCreated, kReady, kStopped };

  std::string id;
  PodConfig config;
  PodFiles files;
  std::string cgroup_parent;
  State state = State::kCreated;
  std::shared_ptr<PodNamespaces> namespaces;
  bool has_files = false;
  // Its namespaces and files are being given up, or a part of them could not be.
  bool releasing = false;
  bool forgotten = false;
  absl::Time created_at;
  absl::Time exited_at;
  uint32_t exit_status = 0;
  Event stopped;
  // One of Start, Stop and Shutdown at a time.
  Mutex operations;

  // Of /proc/<pid>/ns; 0 when there is none.
  pid_t pid() const {
    return namespaces && state == State::kReady && !releasing ? namespaces->pid() : 0;
  }
  void SetStopped(uint32_t status, absl::Time at) {
    if (state == State::kStopped) return;
    state = State::kStopped;
    exit_status = status;
    exited_at = at;
    stopped.Set();
  }
  // What is known of the pod in the form of an OCI spec; containerd (2.3) hands it to NRI plugins,
  // to the last of them when the sandbox has stopped: none of these paths is the host's namespace
  // then.
  nlohmann::json Spec() const {
    nlohmann::json namespaces_json = nlohmann::json::array();
    for (const auto& [type, path] : namespaces ? namespaces->Paths() : NamespacePaths())
      namespaces_json.push_back(
          {{"type", type}, {"path", type == "network" ? config.netns_path : path}});
    return {{"ociVersion", "1.0.2"},
            {"hostname", config.hostname},
            {"linux", {{"namespaces", std::move(namespaces_json)}}}};
  }
};

SandboxService::SandboxService(asio::io_context& io, Reaper& reaper,
                               std::function<void()> on_shutdown)
    : io_(io), reaper_(reaper), on_shutdown_(std::move(on_shutdown)) {}

SandboxService::~SandboxService() = default;

template <typename Request, typename Response>
void SandboxService::Add(rpc::MethodTable& methods, absl::string_view method,
                         Answer<Response> (SandboxService::*handler)(rpc::CallContext, Request)) {
  methods.AddUnary<Request, Response>(
      kService, method, [this, handler](rpc::CallContext context, Request request) {
        return (this->*handler)(std::move(context), std::move(request));
      });
}

void SandboxService::Register(rpc::MethodTable& methods) {
  Add(methods, "CreateSandbox", &SandboxService::Create);
  Add(methods, "StartSandbox", &SandboxService::Start);
  Add(methods, "Platform", &SandboxService::Platform);
  Add(methods, "StopSandbox", &SandboxService::Stop);
  Add(methods, "WaitSandbox", &SandboxService::Wait);
  Add(methods, "SandboxStatus", &SandboxService::Status);
  Add(methods, "PingSandbox", &SandboxService::Ping);
  Add(methods, "ShutdownSandbox", &SandboxService::Shutdown);
  Add(methods, "SandboxMetrics", &SandboxService::Metrics);
}

void SandboxService::Describe(inspect::v1::ShimResponse& shim) const {
  if (!sandbox_) return;
  constexpr std::array<const char*, 3> kStates = {"created", "ready", "stopped"};
  shim.mutable_sandbox()->set_state(kStates[static_cast<size_t>(sandbox_->state)]);
  shim.mutable_sandbox()->set_pid(static_cast<uint32_t>(sandbox_->pid()));
}

absl::Status SandboxService::PrepareBundle(const std::string& bundle,
                                           RuntimeOptions& options) const {
  if (!had_sandbox_) return absl::OkStatus();
  // The namespaces that config.json names by this process would be the host's.
  if (!sandbox_ || sandbox_->pid() == 0)
    return absl::FailedPreconditionError("the sandbox of this shim does not run");
  if (absl::EndsWith(sandbox_->cgroup_parent, ".slice")) options.systemd_cgroup = true;
  return JoinPod(bundle + "/config.json", sandbox_->files, sandbox_->pid(),
                 sandbox_->namespaces->Paths(), sandbox_->config.host_pid);
}

absl::StatusOr<std::shared_ptr<SandboxService::Sandbox>> SandboxService::Find(
    const std::string& id) const {
  if (sandbox_ && sandbox_->id == id) return sandbox_;
  return absl::NotFoundError(absl::StrCat("sandbox ", id, ": not found"));
}

SandboxService::Answer<api::CreateSandboxResponse> SandboxService::Create(
    rpc::CallContext, api::CreateSandboxRequest request) {
  CO_RETURN_IF_ERROR(ValidateId(request.sandbox_id()));
  if (sandbox_)
    co_return absl::AlreadyExistsError(absl::StrCat("sandbox ", sandbox_->id, ": already exists"));
  struct stat directory;
  if (!absl::StartsWith(request.bundle_path(), "/") ||
      stat(request.bundle_path().c_str(), &directory) < 0 || !S_ISDIR(directory.st_mode))
    co_return absl::InvalidArgumentError(
        absl::StrCat("bundle ", request.bundle_path(), " is no directory"));
  CO_RETURN_IF_ERROR(CheckBundleDirectory(request.bundle_path()));
  if (request.rootfs_size() > 0)
    co_return absl::InvalidArgumentError("a sandbox without a process has no root file system");
  CO_ASSIGN_OR_RETURN(cri::v1::PodSandboxConfig config, ParseSandboxOptions(request.options()));
  auto sandbox = std::make_shared<Sandbox>();
  sandbox->id = request.sandbox_id();
  sandbox->config = NamespacesOf(config, request.netns_path());
  sandbox->files = FilesOf(config, sandbox->config, request.bundle_path());
  sandbox->cgroup_parent = config.linux().cgroup_parent();
  sandbox_ = std::move(sandbox);
  had_sandbox_ = true;
  co_return api::CreateSandboxResponse();
}

Async<absl::Status> SandboxService::Release(std::shared_ptr<Sandbox> sandbox) {
  sandbox->releasing = true;
  absl::Status status;
  if (sandbox->namespaces) {
    status = co_await sandbox->namespaces->Leave();
    if (status.ok()) sandbox->namespaces.reset();
  } else {
    // A start that failed may not have found its way back.
    status = ReturnHome();
  }
  if (sandbox->has_files) {
    absl::Status removed = RemovePodFiles(sandbox->files.bundle);
    sandbox->has_files = !removed.ok();
    status.Update(removed);
  }
  sandbox->releasing = !status.ok();
  co_return status;
}

Async<absl::Status> SandboxService::Enter(std::shared_ptr<Sandbox> sandbox) {
  // Or a part of them, if that fails.
  sandbox->has_files = true;
  CO_RETURN_IF_ERROR(co_await MakePodFiles(reaper_, sandbox->files));
  auto on_end = [weak = std::weak_ptr<Sandbox>(sandbox)](const Exit& exit) {
    std::shared_ptr<Sandbox> ended = weak.lock();
    // Before it is ready it is the start that fails.
    if (!ended || ended->state != Sandbox::State::kReady) return;
    LogWarning("a pod's process 1 has ended", {{"id", ended->id}});
    ended->SetStopped(exit.status, exit.at);
  };
  auto namespaces = co_await PodNamespaces::Enter(io_, reaper_, sandbox->config, std::move(on_end));
  if (!namespaces.ok()) co_return namespaces.status();
  sandbox->namespaces = *std::move(namespaces);
  co_return absl::OkStatus();
}

SandboxService::Answer<api::StartSandboxResponse> SandboxService::Start(
    rpc::CallContext context, api::StartSandboxRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, Find(request.sandbox_id()));
  Mutex::Lock turn = co_await sandbox->operations.Acquire();
  if (sandbox->forgotten || sandbox->state == Sandbox::State::kStopped)
    co_return absl::FailedPreconditionError(
        absl::StrCat("sandbox ", sandbox->id, " has been stopped"));
  if (sandbox->state == Sandbox::State::kCreated) {
    absl::Status status;
    // What an earlier start has left.
    if (sandbox->releasing) status = co_await Release(sandbox);
    CO_RETURN_IF_ERROR(status);
    try {
      status = co_await Enter(sandbox);
    } catch (const std::bad_alloc&) {
      status = NoMemoryError();
    }
    if (status.ok() && sandbox->namespaces->ended())
      status = absl::UnknownError("make the pod's namespaces: the pod's process 1 has ended");
    if (status.ok() && context.IsOver()) status = context.OverError();
    if (!status.ok()) {
      // Also if there is no memory for undoing it: the next start, or a stop, does.
      sandbox->releasing = true;
      if (absl::Status released = co_await Release(sandbox); !released.ok())
        LogWarning("cannot undo the start of a sandbox",
                   {{"error", std::string(released.message())}, {"id", sandbox->id}});
      co_return status;
    }
    sandbox->state = Sandbox::State::kReady;
    sandbox->created_at = absl::Now();
  }
  if (sandbox->pid() == 0)
    co_return absl::FailedPreconditionError(
        absl::StrCat("sandbox ", sandbox->id, " has been stopped"));
  api::StartSandboxResponse response;
  response.set_pid(static_cast<uint32_t>(sandbox->pid()));
  *response.mutable_created_at() = Timestamp(sandbox->created_at);
  response.mutable_spec()->set_type_url(kSpecType);
  response.mutable_spec()->set_value(ToText(sandbox->Spec()));
  co_return response;
}

SandboxService::Answer<api::PlatformResponse> SandboxService::Platform(rpc::CallContext,
                                                                       api::PlatformRequest) {
  auto [architecture, variant] = Architecture();
  api::PlatformResponse response;
  response.mutable_platform()->set_os("linux");
  response.mutable_platform()->set_architecture(std::move(architecture));
  response.mutable_platform()->set_variant(std::move(variant));
  co_return response;
}

SandboxService::Answer<api::StopSandboxResponse> SandboxService::Stop(
    rpc::CallContext, api::StopSandboxRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, Find(request.sandbox_id()));
  Mutex::Lock turn = co_await sandbox->operations.Acquire();
  CO_RETURN_IF_ERROR(co_await Release(sandbox));
  sandbox->SetStopped(0, absl::Now());
  co_return api::StopSandboxResponse();
}

SandboxService::Answer<api::WaitSandboxResponse> SandboxService::Wait(
    rpc::CallContext context, api::WaitSandboxRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, Find(request.sandbox_id()));
  std::vector<Event*> either = {&sandbox->stopped, context.gone.get()};
  co_await WaitAny(std::move(either), context.deadline);
  if (!sandbox->stopped.set()) co_return context.OverError();
  api::WaitSandboxResponse response;
  response.set_exit_status(sandbox->exit_status);
  *response.mutable_exited_at() = Timestamp(sandbox->exited_at);
  co_return response;
}

SandboxService::Answer<api::SandboxStatusResponse> SandboxService::Status(
    rpc::CallContext, api::SandboxStatusRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, Find(request.sandbox_id()));
  bool ready = sandbox->pid() != 0;
  api::SandboxStatusResponse response;
  response.set_sandbox_id(sandbox->id);
  response.set_pid(static_cast<uint32_t>(sandbox->pid()));
  response.set_state(ready ? "SANDBOX_READY" : "SANDBOX_NOTREADY");
  if (sandbox->state != Sandbox::State::kCreated)
    *response.mutable_created_at() = Timestamp(sandbox->created_at);
  if (sandbox->state == Sandbox::State::kStopped)
    *response.mutable_exited_at() = Timestamp(sandbox->exited_at);
  if (request.verbose()) {
    auto& info = *response.mutable_info();
    info["networkNamespace"] = sandbox->config.netns_path;
    // CRI's own, which it adds to: `crictl inspectp` has a pod's pid from there.
    nlohmann::json own = {{"pid", sandbox->pid()}};
    if (ready) {
      own["runtimeSpec"] = sandbox->Spec();
      info["runtimeSpec"] = ToText(own["runtimeSpec"]);
    }
    info["info"] = ToText(own);
  }
  co_return response;
}

SandboxService::Answer<api::PingResponse> SandboxService::Ping(rpc::CallContext,
                                                               api::PingRequest request) {
  CO_RETURN_IF_ERROR(Find(request.sandbox_id()).status());
  co_return api::PingResponse();
}

SandboxService::Answer<api::ShutdownSandboxResponse> SandboxService::Shutdown(
    rpc::CallContext, api::ShutdownSandboxRequest request) {
  if (sandbox_) {
    CO_ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, Find(request.sandbox_id()));
    Mutex::Lock turn = co_await sandbox->operations.Acquire();
    // The caller closes the connection, whatever the answer: what stays would stay for ever.
    absl::Status released;
    try {
      released = co_await Release(sandbox);
    } catch (const std::bad_alloc&) {
      released = NoMemoryError();
    }
    if (!released.ok())
      LogWarning("cannot undo the start of a sandbox",
                 {{"error", std::string(released.message())}, {"id", sandbox->id}});
    sandbox->SetStopped(0, absl::Now());
    sandbox->forgotten = true;
    if (sandbox_ == sandbox) sandbox_.reset();
  }
  on_shutdown_();
  co_return api::ShutdownSandboxResponse();
}

SandboxService::Answer<api::SandboxMetricsResponse> SandboxService::Metrics(
    rpc::CallContext, api::SandboxMetricsRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, Find(request.sandbox_id()));
  api::SandboxMetricsResponse response;
  CO_ASSIGN_OR_RETURN(*response.mutable_metrics()->mutable_data(),
                      ReadPodMetrics(sandbox->cgroup_parent));
  *response.mutable_metrics()->mutable_timestamp() = Timestamp(absl::Now());
  response.mutable_metrics()->set_id(sandbox->id);
  co_return response;
}

}  // namespace feather
