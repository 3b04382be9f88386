#include "runtime/oci_runtime.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/this_coro.hpp>
#include <cerrno>
#include <memory>
#include <new>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/descriptor.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/runtime_log.h"
#include "runtime/spawn.h"

namespace feather {
namespace {

constexpr char kFailed[] = " did not terminate successfully: exit status ";
constexpr size_t kOutputKept = 64 << 10;
// Read between two turns of the loop, and after the runtime's end, by when all it can have left is
// one full pipe.
constexpr size_t kOutputTurn = 1 << 20;

// A running OCI runtime: shared by the coroutine and the reaper's callback.
struct Child {
  explicit Child(const asio::any_io_executor& executor) : pipe(executor) {}

  asio::posix::stream_descriptor pipe;  // stdout and stderr; closed: not captured, or at its end
  std::string output;
  std::unique_ptr<Launch> launch;
  Event ended;
  Exit exit;
};

// A runtime that nobody can wait for, for want of memory, must not go on: what it has made would
// come after what undoes it.
struct Running {
  ~Running() {
    if (pid == 0) return;
    asio::error_code ignored;
    child.pipe.close(ignored);
    siginfo_t info;
    const auto id = static_cast<id_t>(pid);
    // It may have been reaped already.
    if (waitid(P_PID, id, &info, WEXITED | WNOHANG | WNOWAIT) < 0) return;
    kill(pid, SIGKILL);
    // Its status is the reaper's.
    while (waitid(P_PID, id, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
    }
  }
  pid_t pid;
  Child& child;
};

// Takes what the pipe holds now; closes it at its end.
void ReadOutput(Child& child) {
  char buffer[16384];
  for (size_t total = 0; child.pipe.is_open() && total < kOutputTurn;) {
    ssize_t n = read(child.pipe.native_handle(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    asio::error_code error;
    if (n <= 0) child.pipe.close(error);
    if (n <= 0) return;
    auto size = static_cast<size_t>(n);
    total += size;
    try {
      child.output.append(buffer, std::min(size, kOutputKept - child.output.size()));
    } catch (const std::bad_alloc&) {
      // Less is known of its error, then.
    }
  }
}

// A process that the runtime has left behind may keep the pipe open: its end is not waited for.
Async<> AwaitEnd(std::shared_ptr<Child> child) {
  while (child->pipe.is_open() && !child->ended.set()) {
    ReadOutput(*child);
    if (!child->pipe.is_open()) break;
    auto [error] =
        co_await child->pipe.async_wait(asio::posix::stream_descriptor::wait_read, kAwait);
    if (error) break;
  }
  co_await child->ended.Wait();
  ReadOutput(*child);
  asio::error_code ignored;
  child->pipe.close(ignored);
}

// The writing end of a pipe whose reading end `child` has got.
absl::StatusOr<UniqueFd> OpenPipe(Child& child) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  if (fcntl(reader.get(), F_SETFL, O_NONBLOCK) < 0) return ErrnoError(errno, "pipe");
  RETURN_IF_ERROR(Assign(child.pipe, std::move(reader)));
  return writer;
}

Async<> EndUseless(std::shared_ptr<Child> child, pid_t pid, std::shared_ptr<Event> useless) {
  std::vector<Event*> either = {&child->ended, useless.get()};
  co_await WaitAny(std::move(either), std::nullopt);
  if (!child->ended.set())
    co_await child->ended.WaitUntil(Clock::now() + OciRuntime::kUselessLimit);
  if (!child->ended.set()) kill(pid, SIGKILL);
}

void AppendFlag(std::vector<std::string>& arguments, bool wanted, absl::string_view flag) {
  if (wanted) arguments.emplace_back(flag);
}

void AppendOption(std::vector<std::string>& arguments, absl::string_view flag,
                  const std::string& value) {
  if (value.empty()) return;
  arguments.emplace_back(flag);
  arguments.push_back(value);
}

}  // namespace

OciRuntime::Config MakeRuntimeConfig(const RuntimeOptions& options, absl::string_view name_space,
                                     std::string bundle, std::string id) {
  std::string root = options.root.empty() ? kDefaultRuntimeRoot : options.root;
  return {.binary = options.binary(),
          .root = absl::StrCat(root, "/", name_space),
          .bundle = std::move(bundle),
          .id = std::move(id),
          .systemd_cgroup = options.systemd_cgroup,
          .criu_path = options.criu_path};
}

OciRuntime::OciRuntime(Reaper& reaper, Config config)
    : reaper_(reaper), config_(std::move(config)) {
  if (config_.binary.empty()) config_.binary = "runc";
}

// A container must not outlive its bundle because its runtime has nowhere to write its log to.
std::string OciRuntime::LogPath() const {
  return BundleExists() ? absl::StrCat(config_.bundle, "/log.json") : "/dev/null";
}

bool OciRuntime::BundleExists() const {
  return access(config_.bundle.c_str(), F_OK) == 0 || errno != ENOENT;
}

std::vector<std::string> OciRuntime::CommandLine(const std::vector<std::string>& arguments) const {
  std::vector<std::string> line = {config_.binary};
  AppendOption(line, "--root", config_.root);
  AppendOption(line, "--log", LogPath());
  AppendOption(line, "--log-format", "json");
  AppendOption(line, "--criu", config_.criu_path);
  AppendFlag(line, config_.systemd_cgroup, "--systemd-cgroup");
  line.insert(line.end(), arguments.begin(), arguments.end());
  return line;
}

Async<absl::Status> OciRuntime::Execute(Invocation invocation) {
  auto child = std::make_shared<Child>(co_await asio::this_coro::executor);
  Command command;
  command.argv = CommandLine(invocation.arguments);
  command.env = InheritedEnvironment();
  // Where containerd's own shim is, and stays; wrappers around a runtime look for config.json
  // there.
  if (BundleExists()) command.working_directory = config_.bundle;
  UniqueFd input;
  if (!invocation.input.empty()) {
    CO_ASSIGN_OR_RETURN(input, MemoryFile("feather-input", invocation.input));
    invocation.stdio[0] = input.get();
  }
  UniqueFd output;
  if (invocation.capture) {
    CO_ASSIGN_OR_RETURN(output, OpenPipe(*child));
    for (size_t i : {1, 2})
      if (invocation.stdio[i] < 0) invocation.stdio[i] = output.get();
  }
  for (size_t i = 0; i < invocation.stdio.size(); ++i)
    if (invocation.stdio[i] >= 0)
      command.fds.emplace_back(invocation.stdio[i], static_cast<int>(i));

  // go-runc adds ": <nil>" to this, and to what is wrong with the launch, when the command would
  // have been captured.
  auto launch = Launch::Begin(std::move(command));
  if (!launch.ok()) co_return absl::UnknownError(launch.status().message());
  child->launch = *std::move(launch);
  const pid_t pid = child->launch->pid();
  Running running{pid, *child};
  reaper_.Watch(pid, [child](const Exit& exit) {
    child->exit = exit;
    child->ended.Set();
    asio::error_code ignored;
    child->pipe.cancel(ignored);
  });
  output.Reset();
  if (invocation.started) invocation.started();
  if (invocation.useless) {
    auto executor = co_await asio::this_coro::executor;
    Spawn(executor, EndUseless(child, pid, std::move(invocation.useless)));
  }
  co_await AwaitEnd(child);
  running.pid = 0;
  if (absl::Status launched = child->launch->status(); !launched.ok())
    co_return absl::UnknownError(launched.message());
  if (child->exit.status == 0) co_return absl::OkStatus();
  co_return absl::UnknownError(absl::StrCat(config_.binary, kFailed, child->exit.status,
                                            invocation.capture ? ": " : "", child->output));
}

absl::Status OciRuntime::Explain(absl::string_view prefix, off_t log_end,
                                 const absl::Status& status) const {
  auto logged = LastRuntimeError(LogPath(), log_end);
  if (!logged.ok())
    return absl::UnknownError(absl::StrCat(prefix, ": unable to retrieve OCI runtime error (",
                                           logged.status().message(), "): ", status.message()));
  return absl::UnknownError(
      absl::StrCat(prefix, ": ", logged->empty() ? status.message() : absl::string_view(*logged)));
}

// runc says so; crun (1.8) complains of its missing state directory, whose place is runc's.
bool OciRuntime::IsUnknownContainer(const absl::Status& status) const {
  if (absl::StrContains(status.message(), "does not exist")) return true;
  return absl::StrContains(status.message(), kFailed) && !HasState();
}

bool OciRuntime::HasState() const {
  return access(absl::StrCat(config_.root, "/", config_.id).c_str(), F_OK) == 0 || errno != ENOENT;
}

Async<absl::Status> OciRuntime::Run(std::string prefix, Invocation invocation) {
  off_t log_end = RuntimeLogEnd(LogPath());
  absl::Status status = co_await Execute(std::move(invocation));
  co_return status.ok() ? status : Explain(prefix, log_end, status);
}

Async<absl::Status> OciRuntime::Run(std::string prefix, std::vector<std::string> arguments) {
  Invocation invocation;
  invocation.arguments = std::move(arguments);
  co_return co_await Run(std::move(prefix), std::move(invocation));
}

// An earlier command's pid is not this one's. runc writes the pid into a file beside this one, by a
// name with a dot before it, and renames that. On a full disk it leaves it, and would refuse every
// other process of the same id.
Async<absl::Status> OciRuntime::MakeProcess(std::string prefix, std::string pid_file,
                                            Invocation invocation) {
  unlink(pid_file.c_str());
  absl::Status status = co_await Run(std::move(prefix), std::move(invocation));
  const size_t name = pid_file.rfind('/') + 1;
  if (!status.ok() && name > 0) unlink(pid_file.insert(name, ".").c_str());
  co_return status;
}

Async<absl::Status> OciRuntime::Create(CreateArgs args) {
  Invocation invocation;
  std::vector<std::string>& line = invocation.arguments;
  line = {"create", "--bundle", config_.bundle};
  AppendOption(line, "--pid-file", args.pid_file);
  AppendOption(line, "--console-socket", args.console_socket);
  AppendFlag(line, args.no_pivot_root, "--no-pivot");
  AppendFlag(line, args.no_new_keyring, "--no-new-keyring");
  line.push_back(config_.id);
  invocation.stdio = args.stdio;
  invocation.capture = !args.console_socket.empty();
  invocation.started = std::move(args.started);
  co_return co_await MakeProcess("OCI runtime create failed", std::move(args.pid_file),
                                 std::move(invocation));
}

Async<absl::Status> OciRuntime::Start(std::shared_ptr<Event> init_gone) {
  Invocation invocation;
  invocation.arguments = {"start", config_.id};
  invocation.useless = std::move(init_gone);
  co_return co_await Run("OCI runtime start failed", std::move(invocation));
}

Async<absl::Status> OciRuntime::Exec(ExecArgs args) {
  Invocation invocation;
  std::vector<std::string>& line = invocation.arguments;
  line = {"exec"};
  AppendOption(line, "--process", args.process_file);
  AppendOption(line, "--console-socket", args.console_socket);
  AppendFlag(line, true, "--detach");
  AppendOption(line, "--pid-file", args.pid_file);
  line.push_back(config_.id);
  invocation.stdio = args.stdio;
  invocation.capture = !args.console_socket.empty();
  invocation.started = std::move(args.started);
  co_return co_await MakeProcess("OCI runtime exec failed", std::move(args.pid_file),
                                 std::move(invocation));
}

Async<absl::Status> OciRuntime::Restore(RestoreArgs args) {
  Invocation invocation;
  std::vector<std::string>& line = invocation.arguments;
  line = {"restore"};
  AppendOption(line, "--image-path", args.image_path);
  AppendOption(line, "--work-path", args.work_path);
  AppendOption(line, "--parent-path", args.parent_path);
  AppendFlag(line, true, "--detach");
  AppendOption(line, "--pid-file", args.create.pid_file);
  AppendOption(line, "--console-socket", args.create.console_socket);
  AppendFlag(line, args.create.no_pivot_root, "--no-pivot");
  // The single dash is go-runc's.
  AppendFlag(line, true, "-no-subreaper");
  AppendOption(line, "--bundle", config_.bundle);
  line.push_back(config_.id);
  invocation.stdio = args.create.stdio;
  invocation.capture = !args.create.console_socket.empty();
  invocation.started = std::move(args.create.started);
  co_return co_await MakeProcess("OCI runtime restore failed", std::move(args.create.pid_file),
                                 std::move(invocation));
}

Async<absl::Status> OciRuntime::Kill(uint32_t signal, bool all) {
  Invocation invocation;
  invocation.arguments = {"kill"};
  AppendFlag(invocation.arguments, all, "--all");
  invocation.arguments.push_back(config_.id);
  invocation.arguments.push_back(absl::StrCat(signal));
  absl::Status status = co_await Execute(std::move(invocation));
  if (status.ok()) co_return status;
  absl::string_view text = status.message();
  // The last is crun's, "the container `x` is not running".
  if (absl::StrContains(text, "os: process already finished") ||
      absl::StrContains(text, "container not running") ||
      absl::StrContains(absl::AsciiStrToLower(text), "no such process") ||
      absl::StrContains(text, "` is not running"))
    co_return absl::NotFoundError("process already finished: not found");
  if (IsUnknownContainer(status)) co_return absl::NotFoundError("no such container: not found");
  co_return absl::UnknownError(absl::StrCat("unknown error after kill: ", text));
}

Async<absl::Status> OciRuntime::Delete(bool force) {
  off_t log_end = RuntimeLogEnd(LogPath());
  Invocation invocation;
  invocation.arguments = {"delete"};
  AppendFlag(invocation.arguments, force, "--force");
  invocation.arguments.push_back(config_.id);
  absl::Status status = co_await Execute(std::move(invocation));
  if (status.ok() || IsUnknownContainer(status)) co_return absl::OkStatus();
  co_return Explain("failed to delete task", log_end, status);
}

Async<absl::Status> OciRuntime::Pause() {
  std::vector<std::string> arguments = {"pause", config_.id};
  co_return co_await Run("OCI runtime pause failed", std::move(arguments));
}

Async<absl::Status> OciRuntime::Resume() {
  std::vector<std::string> arguments = {"resume", config_.id};
  co_return co_await Run("OCI runtime resume failed", std::move(arguments));
}

Async<absl::Status> OciRuntime::Update(std::string resources) {
  Invocation invocation;
  invocation.arguments = {"update", "--resources=-", config_.id};
  invocation.input = absl::StrCat(resources, "\n");
  co_return co_await Execute(std::move(invocation));
}

Async<absl::Status> OciRuntime::Checkpoint(CheckpointArgs args) {
  Invocation invocation;
  std::vector<std::string>& line = invocation.arguments;
  line = {"checkpoint"};
  AppendOption(line, "--image-path", args.image_path);
  AppendOption(line, "--work-path", args.work_path);
  AppendOption(line, "--parent-path", args.parent_path);
  AppendFlag(line, args.open_tcp, "--tcp-established");
  AppendFlag(line, args.external_unix_sockets, "--ext-unix-sk");
  AppendFlag(line, args.terminal, "--shell-job");
  AppendFlag(line, args.file_locks, "--file-locks");
  for (const std::string& name : args.empty_namespaces) AppendOption(line, "--empty-ns", name);
  AppendFlag(line, args.leave_running, "--leave-running");
  line.push_back(config_.id);
  co_return co_await Execute(std::move(invocation));
}

}  // namespace feather
