// Requests to a shim's services, each with any bytes, in any order, while the OCI runtime's
// commands succeed, fail or hang, processes end, and callers go. What is between a request's bytes
// and the OCI runtime is the shim's own; fake_container.h plays the rest.
//
// An input is a series of steps: a byte that says what happens, one with a number for it, and, for
// a request, two with the length of its message, which follows.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <asio/io_context.hpp>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/cri.pb.h"
#include "proto/inspect.pb.h"
#include "proto/runc_options.pb.h"
#include "proto/runtimeoptions.pb.h"
#include "proto/sandbox.pb.h"
#include "proto/task.pb.h"
#include "runtime/base/file.h"
#include "shim/publisher.h"
#include "shim/sandbox_service.h"
#include "shim/task_service.h"
#include "tests/fuzz/fake_container.h"
#include "tests/fuzz/support.h"

namespace feather {
namespace {

namespace task = containerd::task::v2;
namespace sandbox = containerd::runtime::sandbox::v1;

constexpr char kTask[] = "containerd.task.v3.Task";
constexpr char kSandbox[] = "containerd.runtime.sandbox.v1.Sandbox";
// StartSandbox and SandboxMetrics are about the machine, and say nothing but an id.
constexpr const char* kMethods[] = {
    "Create",        "Start",       "Delete",          "State",       "Pids",
    "Pause",         "Resume",      "Checkpoint",      "Kill",        "Exec",
    "Wait",          "ResizePty",   "CloseIO",         "Update",      "Stats",
    "Connect",       "Shutdown",    "CreateSandbox",   "StopSandbox", "WaitSandbox",
    "SandboxStatus", "PingSandbox", "ShutdownSandbox", "Platform"};
constexpr size_t kMethodCount = std::size(kMethods);
enum Step : uint8_t { kExit = kMethodCount, kFail, kNoPidFile, kHold, kRelease, kGone, kSteps };
constexpr size_t kMostSteps = 64;

// Bundles on no disk; one's config.json has a pid namespace of its own.
struct Bundles {
  std::string path = "/dev/shm/requests-XXXXXX";
  Bundles() {
    if (mkdtemp(path.data()) == nullptr) abort();
    for (const char* name : {"/shared", "/private"})
      if (mkdir((path + name).c_str(), 0700) < 0) abort();
    const char* json = R"({"linux":{"namespaces":[{"type":"pid"}]}})";
    if (!WriteFile(path + "/private/config.json", json, 0644).ok()) abort();
    if (!WriteFile(path + "/options.toml", "Root = \"/r\"\n", 0644).ok()) abort();
  }
  ~Bundles() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string Any(const std::string& wanted) const {
    return path + (wanted.size() % 2 == 0 ? "/private" : "/shared");
  }
};

// What a request names of this machine is moved into the bundles.
std::string Confined(const char* method, std::string bytes) {
  static const Bundles bundles;
  if (task::CreateTaskRequest create; absl::string_view(method) == "Create") {
    if (!create.ParseFromString(bytes)) return bytes;
    create.set_bundle(bundles.Any(create.bundle()));
    runtimeoptions::v1::Options options;
    if (absl::EndsWith(create.options().type_url(), "runtimeoptions.v1.Options") &&
        options.ParseFromString(create.options().value()) && !options.config_path().empty()) {
      options.set_config_path(bundles.path + "/options.toml");
      create.mutable_options()->set_value(options.SerializeAsString());
    }
    return create.SerializeAsString();
  }
  if (sandbox::CreateSandboxRequest create; absl::string_view(method) == "CreateSandbox") {
    if (!create.ParseFromString(bytes)) return bytes;
    create.set_bundle_path(bundles.Any(create.bundle_path()));
    return create.SerializeAsString();
  }
  if (task::CheckpointTaskRequest checkpoint; absl::string_view(method) == "Checkpoint") {
    containerd::runc::v1::CheckpointOptions options;
    if (!checkpoint.ParseFromString(bytes) || !checkpoint.has_options() ||
        !options.ParseFromString(checkpoint.options().value()))
      return bytes;
    if (!options.work_path().empty()) options.set_work_path(bundles.Any(""));
    checkpoint.mutable_options()->set_value(options.SerializeAsString());
    return checkpoint.SerializeAsString();
  }
  return bytes;
}

Async<> Call(std::shared_ptr<const rpc::Method> method, rpc::CallContext context,
             std::string request) {
  absl::StatusOr<std::string> answer = co_await method->unary(std::move(context), request);
  answer.status().IgnoreError();
}

class Run {
 public:
  Run()
      : fake_(io_),
        reaper_(io_),
        publisher_(io_, "", "ns"),
        sandbox_(io_, reaper_, [this] { task_.EndIfUnused(); }),
        task_(io_, reaper_, publisher_, Config(), [] {}) {
    fuzz::FakeContainers::current = &fake_;
    task_.Register(methods_);
    sandbox_.Register(methods_);
  }

  void Request(const char* name, std::string bytes) {
    bool of_sandbox = absl::StrContains(name, "Sandbox") || absl::string_view(name) == "Platform";
    auto method = methods_.Find(of_sandbox ? kSandbox : kTask, name);
    if (!method.ok()) abort();
    rpc::CallContext context;
    context.gone = gone_;
    Spawn(io_, Call(*method, std::move(context), Confined(name, std::move(bytes))));
  }

  void Take(uint8_t step, uint8_t number, std::string bytes) {
    if (step < kMethodCount) {
      Request(kMethods[step], std::move(bytes));
    } else if (step == kExit) {
      fake_.Exit(number, number);
    } else if (step == kFail) {
      fake_.fail_next = true;
    } else if (step == kNoPidFile) {
      fake_.no_pid_file = true;
    } else if (step == kHold) {
      fake_.Hold();
    } else if (step == kRelease) {
      fake_.Release();
    } else {
      gone_->Set();
      gone_ = std::make_shared<Event>();
    }
    io_.poll();
    io_.restart();
  }

  // When everything has ended and nobody waits any more, nothing is under way.
  void End() {
    inspect::v1::ShimResponse shim;
    task_.Describe(shim);
    fake_.Release();
    // Starts that waited go on, and make processes.
    for (int i = 0; i < 3; ++i) {
      io_.poll();
      io_.restart();
      for (size_t process = 0; process < fake_.processes.size(); ++process) fake_.Exit(process, 0);
    }
    gone_->Set();
    io_.poll();
    if (!io_.stopped()) abort();
  }

 private:
  TaskService::Config Config() {
    TaskService::Config config;
    config.name_space = "ns";
    config.has_sandbox = [this] { return sandbox_.exists(); };
    return config;
  }

  asio::io_context io_{1};
  fuzz::FakeContainers fake_;
  Reaper reaper_;
  Publisher publisher_;
  SandboxService sandbox_;
  TaskService task_;
  rpc::MethodTable methods_;
  std::shared_ptr<Event> gone_ = std::make_shared<Event>();
};

std::string Bytes(uint8_t step, uint8_t number = 0) {
  return {static_cast<char>(step), static_cast<char>(number)};
}

template <typename Request>
std::string Bytes(const char* method, const Request& request) {
  auto step = std::find(std::begin(kMethods), std::end(kMethods), absl::string_view(method)) -
              std::begin(kMethods);
  std::string bytes = request.SerializeAsString();
  return absl::StrCat(
      Bytes(static_cast<uint8_t>(step)),
      Bytes(static_cast<uint8_t>(bytes.size() & 0xff), static_cast<uint8_t>(bytes.size() >> 8)),
      bytes);
}

// With what all messages of the task service have in common.
template <typename Request>
Request Of(const char* exec = "") {
  Request request;
  request.set_id("c");
  if constexpr (requires { request.set_exec_id(""); }) request.set_exec_id(exec);
  return request;
}

std::string CreateBytes(const char* type, const std::string& options) {
  auto create = Of<task::CreateTaskRequest>();
  create.set_bundle("/bundle.");
  create.set_stdin("/in");
  create.set_stdout("binary:///logger?a=b%20c");
  auto* mount = create.add_rootfs();
  mount->set_type("overlay");
  mount->add_options("lowerdir=/a:/b");
  create.mutable_options()->set_type_url(type);
  create.mutable_options()->set_value(options);
  return Bytes("Create", create);
}

std::string SandboxBytes() {
  cri::v1::PodSandboxConfig config;
  config.set_hostname("pod");
  config.mutable_dns_config()->add_servers("10.0.0.1");
  (*config.mutable_linux()->mutable_sysctls())["net.core.somaxconn"] = "10";
  sandbox::CreateSandboxRequest create;
  create.set_sandbox_id("p");
  create.set_bundle_path("/b");
  create.set_netns_path("/run/netns/x");
  create.mutable_options()->set_type_url("runtime.v1.PodSandboxConfig");
  create.mutable_options()->set_value(config.SerializeAsString());
  sandbox::SandboxStatusRequest status;
  status.set_sandbox_id("p");
  status.set_verbose(true);
  sandbox::StopSandboxRequest stop;
  stop.set_sandbox_id("p");
  sandbox::WaitSandboxRequest wait;
  wait.set_sandbox_id("p");
  return absl::StrCat(Bytes("CreateSandbox", create), Bytes("SandboxStatus", status),
                      Bytes("WaitSandbox", wait), Bytes("StopSandbox", stop),
                      Bytes("ShutdownSandbox", stop), Bytes("PingSandbox", stop),
                      Bytes("Platform", sandbox::PlatformRequest()));
}

}  // namespace

std::vector<std::pair<std::string, std::string>> fuzz::Seeds() {
  containerd::runc::v1::Options runc;
  runc.set_binary_name("runc");
  runtimeoptions::v1::Options toml;
  toml.set_config_body("BinaryName = \"crun\"\n");
  std::string create = CreateBytes("containerd.runc.v1.Options", runc.SerializeAsString());
  std::string create_toml = CreateBytes("x/runtimeoptions.v1.Options", toml.SerializeAsString());
  std::string start = Bytes("Start", Of<task::StartRequest>());
  std::string remove = Bytes("Delete", Of<task::DeleteRequest>());
  std::string wait = Bytes("Wait", Of<task::WaitRequest>());
  auto exec = Of<task::ExecProcessRequest>("e");
  exec.mutable_spec()->set_value(R"({"args":["a"],"terminal":true})");
  exec.set_terminal(true);
  std::string execs = absl::StrCat(Bytes("Exec", exec), Bytes("Start", Of<task::StartRequest>("e")),
                                   Bytes("Wait", Of<task::WaitRequest>("e")),
                                   Bytes("ResizePty", Of<task::ResizePtyRequest>("e")));
  auto kill = Of<task::KillRequest>("e");
  kill.set_signal(9);
  auto update = Of<task::UpdateTaskRequest>();
  update.mutable_resources()->set_value(R"({"memory":{"limit":null}})");
  containerd::runc::v1::CheckpointOptions options;
  options.set_exit(true);
  options.add_empty_namespaces("network");
  auto checkpoint = Of<task::CheckpointTaskRequest>();
  checkpoint.set_path("/image");
  checkpoint.mutable_options()->set_value(options.SerializeAsString());
  auto restored = Of<task::CreateTaskRequest>();
  restored.set_bundle("/b");
  restored.set_checkpoint("/image");
  return {
      {"life", create + start + wait + Bytes(kExit) + remove +
                   Bytes("Shutdown", Of<task::ShutdownRequest>())},
      {"exec", create_toml + start + execs + Bytes("Kill", kill) + Bytes(kExit, 1) +
                   Bytes("Delete", Of<task::DeleteRequest>("e")) + Bytes(kExit) + remove},
      {"late", create + start + execs + Bytes(kExit) + Bytes(kHold) + remove + Bytes(kGone) +
                   Bytes(kRelease) + Bytes(kExit, 1) + remove},
      {"faults", Bytes(kFail) + create + create + Bytes(kNoPidFile) + create + Bytes(kFail) +
                     start + start + Bytes(kExit) + Bytes(kFail) + remove + remove},
      {"control", create + start + Bytes("Pause", Of<task::PauseRequest>()) +
                      Bytes("Resume", Of<task::ResumeRequest>()) + Bytes("Update", update) +
                      Bytes("Checkpoint", checkpoint) + Bytes("Pids", Of<task::PidsRequest>()) +
                      Bytes("Stats", Of<task::StatsRequest>()) +
                      Bytes("State", Of<task::StateRequest>()) +
                      Bytes("Connect", Of<task::ConnectRequest>()) +
                      Bytes("CloseIO", Of<task::CloseIORequest>())},
      {"restore", Bytes("Create", restored) + Bytes(kFail) + start + start + Bytes(kExit) + remove},
      {"hangs", Bytes(kHold) + create + Bytes(kGone) + Bytes(kRelease) + create + start + remove},
      {"abandoned", Bytes(kHold) + Bytes("Create", restored) + Bytes(kFail) + Bytes(kGone)},
      {"sandbox", SandboxBytes() + create}};
}

}  // namespace feather

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace feather;
  absl::string_view rest(reinterpret_cast<const char*>(bytes), size);
  auto take = [&rest] {
    uint8_t byte = static_cast<uint8_t>(rest[0]);
    rest.remove_prefix(1);
    return byte;
  };
  Run run;
  for (size_t i = 0; i < kMostSteps && rest.size() >= 2; ++i) {
    uint8_t step = take() % kSteps;
    uint8_t number = take();
    std::string message;
    if (step < kMethodCount && rest.size() >= 2) {
      size_t length = take();
      length += size_t{take()} << 8;
      message = std::string(rest.substr(0, length));
      rest.remove_prefix(std::min(length, rest.size()));
    }
    run.Take(step, number, std::move(message));
  }
  run.End();
  return 0;
}
