#include "tests/support/shim.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/bootstrap.pb.h"
#include "runtime/base/async.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "shim/ttrpc/client.h"
#include "tests/support/grpc_client.h"

namespace feather::test {

using google::protobuf::Empty;
using nlohmann::json;

namespace {

std::string DirectoryOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

absl::StatusOr<Answer> ParseJson(const std::string& out) {
  json answer = json::parse(out, nullptr, false);
  if (!answer.is_object() || answer.value("version", 0) < 2)
    return absl::InvalidArgumentError("no JSON answer");
  return Answer{answer.value("version", 0), answer.value("address", ""),
                answer.value("protocol", ""), out};
}

}  // namespace

ConnectFunction& GrpcConnect() {
  static ConnectFunction connect = nullptr;
  return connect;
}

Container::Container(FakeContainerd& ctrd, std::string id, ContainerOptions options)
    : ctrd_(ctrd),
      id_(std::move(id)),
      options_(std::move(options)),
      bundle_(absl::StrCat(ctrd.state_directory(), "/", ctrd.name_space(), "/", id_)) {
  if (options_.spec.cgroups_path.empty())
    options_.spec.cgroups_path =
        absl::StrCat(ctrd.settings().systemd_cgroup ? "system.slice:" : "/", ctrd.name(),
                     ctrd.settings().systemd_cgroup ? ":" : "-", id_);
  if (!options_.mount_rootfs) options_.spec.root = ctrd.rootfs();
}

Container::~Container() { Disconnect(); }

void Container::MakeBundle() {
  namespace fs = std::filesystem;
  std::string work = absl::StrCat(ctrd_.root_directory(), "/", ctrd_.name_space(), "/", id_);
  fs::create_directories(work);
  fs::create_directories(DirectoryOf(bundle_));
  chmod(work.c_str(), 0711);
  chmod(DirectoryOf(bundle_).c_str(), 0711);
  if (mkdir(bundle_.c_str(), 0700) < 0) throw std::runtime_error("mkdir " + bundle_);
  mkdir((bundle_ + "/rootfs").c_str(), 0711);
  fs::create_symlink(work, bundle_ + "/work");
  std::string config = options_.config ? *options_.config : MakeSpec(options_.spec);
  if (!WriteFile(bundle_ + "/config.json", config, 0666).ok()) throw std::runtime_error(bundle_);
  MakeFifo(bundle_ + "/log");
  ctrd_.OpenLog(bundle_ + "/log");
}

absl::Status Container::StartShim() {
  std::vector<pid_t> before = Children();
  HelperResult result = RunHelper(ctrd_.Helper(*this, "start"));
  std::vector<pid_t> after = Children();
  for (pid_t child : after) {
    std::error_code ignored;
    auto exe = std::filesystem::read_symlink(absl::StrCat("/proc/", child, "/exe"), ignored);
    if (std::find(before.begin(), before.end(), child) == before.end() &&
        exe == std::filesystem::canonical(ctrd_.settings().shim, ignored))
      shim_pid_ = child;
  }
  if (shim_pid_ != 0) ctrd_.shims_.push_back(shim_pid_);
  if (result.exit_code != 0)
    return absl::UnknownError(
        absl::StrCat(absl::StripAsciiWhitespace(result.out), ": exit status ", result.exit_code));
  RETURN_IF_ERROR(WriteFile(bundle_ + "/shim-binary-path", ctrd_.settings().shim, 0600));
  ASSIGN_OR_RETURN(answer_, ParseAnswer(result.out));
  ctrd_.AddSocket(answer_.address);
  if (ctrd_.settings().daemon >= Series::k2_1) {
    json bootstrap = {
        {"version", answer_.version}, {"address", answer_.address}, {"protocol", answer_.protocol}};
    RETURN_IF_ERROR(WriteFileAtomically(bundle_ + "/bootstrap.json", bootstrap.dump(), 0644));
  }
  return Connect();
}

absl::StatusOr<Answer> Container::ParseAnswer(const std::string& out) const {
  Series daemon = ctrd_.settings().daemon;
  std::string trimmed(absl::StripAsciiWhitespace(out));
  Answer plain{2, trimmed, "ttrpc", out};
  if (daemon == Series::k1_6) return plain;
  if (daemon == Series::k2_3) {
    containerd::runtime::bootstrap::v1::BootstrapResult result;
    if (result.ParseFromString(out) && !result.address().empty())
      return Answer{result.version(), result.address(), result.protocol(), out};
  }
  auto parsed = ParseJson(daemon == Series::k2_3 ? trimmed : out);
  if (!parsed.ok()) {
    if (daemon == Series::k1_7) plain.address = out;
    return plain;
  }
  if (parsed->version > (daemon == Series::k1_7 ? 2 : 3))
    return absl::UnimplementedError(
        absl::StrCat("unsupported shim version (", parsed->version, "): not implemented"));
  return parsed;
}

absl::Status Container::Connect() {
  auto connect =
      [](asio::io_context& io, ConnectFunction function, std::string address,
         std::shared_ptr<std::optional<absl::StatusOr<std::shared_ptr<ttrpc::Client>>>> result)
      -> Async<> {
    auto client = co_await function(io, std::move(address));
    *result = std::move(client);
  };
  ConnectFunction function = answer_.protocol == "grpc" ? GrpcConnect() : &ttrpc::Client::Connect;
  if (function == nullptr) return absl::UnimplementedError("this program has no gRPC");
  auto result = std::make_shared<std::optional<absl::StatusOr<std::shared_ptr<ttrpc::Client>>>>();
  Spawn(ctrd_.io(), connect(ctrd_.io(), function, answer_.address, result));
  if (!ctrd_.loop().RunUntil([&] { return result->has_value(); }))
    return absl::DeadlineExceededError("the test's limit passed while connecting");
  if (!(*result)->ok()) return (*result)->status();
  client_ = **std::move(*result);
  return absl::OkStatus();
}

void Container::Disconnect() {
  if (client_) client_->Close();
  client_.reset();
}

std::string Container::service() const {
  return answer_.version >= 3 ? "containerd.task.v3.Task" : "containerd.task.v2.Task";
}

ClientStdio Container::MakeStdio(const std::string& name, const ContainerOptions& options) {
  std::string directory = absl::StrCat(ctrd_.directory(), "/fifo");
  mkdir(directory.c_str(), 0700);
  auto path = [&](const char* stream) {
    std::string fifo = absl::StrCat(directory, "/", id_, "-", name, "-", stream);
    unlink(fifo.c_str());
    MakeFifo(fifo);
    return fifo;
  };
  ClientStdio stdio;
  if (options.in) stdio.in = std::make_unique<FifoWriter>(ctrd_.io(), path("stdin"));
  if (options.out) stdio.out = std::make_unique<FifoReader>(ctrd_.io(), path("stdout"));
  if (options.err && !options.spec.terminal)
    stdio.err = std::make_unique<FifoReader>(ctrd_.io(), path("stderr"));
  return stdio;
}

task::CreateTaskRequest Container::CreateRequest() {
  task::CreateTaskRequest request;
  request.set_id(id_);
  request.set_bundle(bundle_);
  if (options_.mount_rootfs) {
    auto* mount = request.add_rootfs();
    mount->set_type("bind");
    mount->set_source(ctrd_.rootfs());
    mount->add_options("rbind");
    mount->add_options("rw");
  }
  request.set_terminal(options_.spec.terminal);
  stdio_ = MakeStdio("init", options_);
  if (stdio_.in) request.set_stdin(stdio_.in->path());
  if (stdio_.out) request.set_stdout(stdio_.out->path());
  if (stdio_.err) request.set_stderr(stdio_.err->path());
  if (ctrd_.settings().options) *request.mutable_options() = ctrd_.Options();
  return request;
}

absl::StatusOr<uint32_t> Container::Create(const task::CreateTaskRequest& request) {
  ASSIGN_OR_RETURN(auto response, Call<task::CreateTaskResponse>("Create", request));
  return response.pid();
}

absl::StatusOr<uint32_t> Container::Start(const std::string& exec) {
  task::StartRequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  ASSIGN_OR_RETURN(auto response, Call<task::StartResponse>("Start", request));
  return response.pid();
}

absl::Status Container::Run() {
  RETURN_IF_ERROR(Create().status());
  return Start().status();
}

absl::StatusOr<task::DeleteResponse> Container::Delete(const std::string& exec) {
  task::DeleteRequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  return Call<task::DeleteResponse>("Delete", request);
}

absl::StatusOr<task::StateResponse> Container::State(const std::string& exec) {
  task::StateRequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  return Call<task::StateResponse>("State", request);
}

absl::StatusOr<task::PidsResponse> Container::Pids() {
  task::PidsRequest request;
  request.set_id(id_);
  return Call<task::PidsResponse>("Pids", request);
}

absl::Status Container::Kill(uint32_t signal, const std::string& exec, bool all) {
  task::KillRequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  request.set_signal(signal);
  request.set_all(all);
  return Call<Empty>("Kill", request).status();
}

task::ExecProcessRequest Container::ExecRequest(const std::string& exec,
                                                const std::vector<std::string>& args,
                                                ContainerOptions streams) {
  bool terminal = streams.spec.terminal;
  task::ExecProcessRequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  request.set_terminal(terminal);
  request.mutable_spec()->set_type_url("types.containerd.io/opencontainers/runtime-spec/1/Process");
  request.mutable_spec()->set_value(MakeProcess(args, terminal, streams.spec.env));
  ClientStdio& stdio = exec_stdio_[exec] = MakeStdio(absl::StrCat("x", exec), streams);
  if (stdio.in) request.set_stdin(stdio.in->path());
  if (stdio.out) request.set_stdout(stdio.out->path());
  if (stdio.err) request.set_stderr(stdio.err->path());
  return request;
}

absl::Status Container::Exec(const task::ExecProcessRequest& request) {
  return Call<Empty>("Exec", request).status();
}

absl::Status Container::ResizePty(uint32_t width, uint32_t height, const std::string& exec) {
  task::ResizePtyRequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  request.set_width(width);
  request.set_height(height);
  return Call<Empty>("ResizePty", request).status();
}

absl::Status Container::CloseIO(const std::string& exec) {
  task::CloseIORequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  request.set_stdin(true);
  return Call<Empty>("CloseIO", request).status();
}

Pending<task::WaitResponse> Container::WaitAsync(const std::string& exec,
                                                 std::optional<Clock::duration> timeout) {
  task::WaitRequest request;
  request.set_id(id_);
  request.set_exec_id(exec);
  return Send<task::WaitResponse>("Wait", request, timeout);
}

absl::StatusOr<task::WaitResponse> Container::Wait(const std::string& exec,
                                                   std::optional<Clock::duration> timeout) {
  return WaitAsync(exec, timeout).Get();
}

absl::StatusOr<task::ConnectResponse> Container::ConnectTask() {
  task::ConnectRequest request;
  request.set_id(id_);
  return Call<task::ConnectResponse>("Connect", request);
}

absl::Status Container::Pause() {
  task::PauseRequest request;
  request.set_id(id_);
  return Call<Empty>("Pause", request).status();
}

absl::Status Container::Resume() {
  task::ResumeRequest request;
  request.set_id(id_);
  return Call<Empty>("Resume", request).status();
}

absl::Status Container::Shutdown() {
  task::ShutdownRequest request;
  request.set_id(id_);
  absl::Status status = Call<Empty>("Shutdown", request).status();
  // The answer may lose the race against the process' end, which containerd tolerates.
  return absl::StrContains(status.message(), "ttrpc: closed") ? absl::OkStatus() : status;
}

absl::Status Container::Remove() {
  RETURN_IF_ERROR(Delete().status());
  RETURN_IF_ERROR(Shutdown());
  Disconnect();
  return RemoveBundle();
}

absl::Status Container::KillAndRemove() {
  auto wait = WaitAsync();
  absl::Status killed = Kill(SIGKILL);
  if (!killed.ok() && !absl::IsNotFound(killed)) return killed;
  RETURN_IF_ERROR(wait.Get().status());
  return Remove();
}

std::shared_ptr<std::optional<absl::StatusOr<std::string>>> Container::SendBytes(
    std::string service, std::string method, std::string bytes,
    std::optional<Clock::duration> timeout) {
  auto answer = std::make_shared<std::optional<absl::StatusOr<std::string>>>();
  auto call = [](std::shared_ptr<ttrpc::Client> client, std::string to, std::string name,
                 std::string request, std::optional<Clock::duration> limit, std::string name_space,
                 std::shared_ptr<std::optional<absl::StatusOr<std::string>>> result) -> Async<> {
    ttrpc::Client::Metadata metadata;
    metadata.emplace_back("containerd-namespace-ttrpc", std::move(name_space));
    absl::StatusOr<std::string> received = co_await client->Call(
        std::move(to), std::move(name), std::move(request), limit, std::move(metadata));
    *result = std::move(received);
  };
  if (client_ == nullptr)
    *answer = absl::UnavailableError("not connected");
  else
    Spawn(ctrd_.io(), call(client_, std::move(service), std::move(method), std::move(bytes),
                           timeout, ctrd_.name_space(), answer));
  return answer;
}

absl::Status Container::CallBytes(std::string service, std::string method, std::string bytes) {
  auto answer = SendBytes(std::move(service), std::move(method), std::move(bytes));
  if (!loop().RunUntil([&] { return answer->has_value(); }))
    return absl::DeadlineExceededError("the test's limit passed without an answer");
  return (*answer)->status();
}

bool Container::connected() const { return client_ && !client_->closed(); }
Loop& Container::loop() { return ctrd_.loop(); }

void Container::KillShim() {
  ctrd_.ForgiveShim(shim_pid_);
  kill(shim_pid_, SIGKILL);
  ctrd_.loop().RunUntil([&] { return ctrd_.ExitOf(shim_pid_).has_value(); });
  ctrd_.loop().RunUntil([&] { return !connected(); });
  Disconnect();
}

Container::DeleteResult Container::RunDelete() {
  DeleteResult result;
  HelperCommand command = ctrd_.Helper(*this, "delete");
  command.joined = false;
  command.null_input = true;
  result.helper = RunHelper(command);
  result.response.ParseFromString(result.helper.out);
  return result;
}

absl::Status Container::RemoveBundle() {
  std::string rootfs = bundle_ + "/rootfs";
  if (umount2(rootfs.c_str(), MNT_DETACH) == 0)
    return absl::InternalError(rootfs + " was still mounted");
  if (rmdir(rootfs.c_str()) < 0 && errno != ENOENT) return ErrnoError(errno, "rmdir " + rootfs);
  std::error_code error;
  std::filesystem::remove_all(bundle_, error);
  std::filesystem::remove_all(
      absl::StrCat(ctrd_.root_directory(), "/", ctrd_.name_space(), "/", id_), error);
  return error ? absl::InternalError(error.message()) : absl::OkStatus();
}

}  // namespace feather::test
