// Execs, and the exits of all processes.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/container.h"

namespace feather {
namespace {

// A file in memory that holds `data`; other processes read it as /proc/<our pid>/fd/<descriptor>.
absl::StatusOr<UniqueFd> MemoryFile(const char* name, absl::string_view data) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd) return ErrnoError(errno, "memfd_create");
  RETURN_IF_ERROR(WriteAll(fd.get(), data));
  return fd;
}

// Of whatever user.
int Signal(pid_t pid, int signal) {
  RaisedCapabilities raised({CAP_KILL});
  return kill(pid, signal);
}

}  // namespace

absl::Status Container::AddExec(std::string exec_id, std::string spec, StdioRequest stdio) {
  if (execs_.contains(exec_id))
    return absl::AlreadyExistsError(absl::StrCat("id ", exec_id, ": already exists"));
  RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kExec));
  auto exec = std::make_shared<Process>();
  exec->exec_id = exec_id;
  exec->spec = std::move(spec);
  exec->request = std::move(stdio);
  execs_.emplace(std::move(exec_id), std::move(exec));
  return absl::OkStatus();
}

Async<absl::Status> Container::StartExec(std::shared_ptr<Process> exec, ExitHold* hold) {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await exec->operations.Acquire();
  hold->Take(self, exec);
  if (init_gone_)
    co_return absl::FailedPreconditionError(absl::StrCat(
        "container ", config_.id, " init process is not running: failed precondition"));
  CO_RETURN_IF_ERROR(AllowedForExec(exec->state, Operation::kStart));
  if (exec->exited.set()) co_return AllowedForExec(ProcessState::kStopped, Operation::kStart);

  ++live_execs_;
  absl::Status status = co_await RunExec(exec);
  if (exec->pid == 0) {
    // Nothing runs: whoever waits for this exec is told at once.
    exec->exited.Set();
    if (exec->stdio) co_await exec->stdio->Close();
    ExecEnded();
  } else if (!status.ok()) {
    // It runs, but its streams cannot be served. Its exit is reported when it has been reaped.
    if (!exec->reaped()) Signal(exec->pid, SIGKILL);
    if (exec->stdio) co_await exec->stdio->Close();
  }
  co_return status;
}

Async<absl::Status> Container::RunExec(std::shared_ptr<Process> exec) {
  CO_RETURN_IF_ERROR(co_await PrepareStdio(exec));
  // The process file never touches a disk: an exec probe would pay for that.
  CO_ASSIGN_OR_RETURN(UniqueFd process_file, MemoryFile("runc-process", exec->spec));
  OciRuntime::ExecArgs args;
  args.process_file = absl::StrCat("/proc/", getpid(), "/fd/", process_file.get());
  args.pid_file = PidFile(exec->exec_id);
  args.console_socket = exec->stdio->console_socket();
  args.stdio = exec->stdio->child_fds();
  args.started = [stdio = exec->stdio] { stdio->RuntimeStarted(); };

  Reaper::Expectation expectation(reaper_);
  CO_RETURN_IF_ERROR(co_await runtime_.Exec(std::move(args)));
  CO_ASSIGN_OR_RETURN(pid_t pid, ReadPid(exec->exec_id));
  exec->state = ProcessState::kRunning;
  std::string().swap(exec->spec);
  Adopt(exec, pid);
  co_return co_await exec->stdio->Attach();
}

Async<absl::Status> Container::KillExec(std::shared_ptr<Process> exec, uint32_t signal) {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await exec->operations.Acquire();
  CO_RETURN_IF_ERROR(AllowedForExec(exec->state, Operation::kKill));
  if (exec->reaped()) co_return absl::NotFoundError("process already finished: not found");
  if (exec->pid == 0)
    co_return absl::FailedPreconditionError("process not created: failed precondition");
  // The pid is ours until the reaper has delivered its exit: it cannot be another process' by now.
  if (Signal(exec->pid, static_cast<int>(signal)) < 0) {
    if (errno == ESRCH) co_return absl::NotFoundError("process already finished: not found");
    co_return Annotate(ErrnoError(errno, "unknown error after kill"), "exec kill error");
  }
  co_return absl::OkStatus();
}

Async<absl::Status> Container::DeleteExec(std::shared_ptr<Process> exec) {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await exec->operations.Acquire();
  CO_RETURN_IF_ERROR(AllowedForExec(exec->state, Operation::kDelete));
  if (exec->stdio) {
    if (exec->state == ProcessState::kStopped) {
      bool drained = co_await exec->stdio->Drain(kDrainLimit);
      if (!drained)
        LogWarning("output is still held open by a child of the exec: it ends here",
                   {{"exec_id", exec->exec_id}, {"id", config_.id}});
    }
    co_await exec->stdio->Close();
  }
  unlink(PidFile(exec->exec_id).c_str());
  exec->state = ProcessState::kDeleted;
  exec->exited.Set();
  execs_.erase(exec->exec_id);
  co_return absl::OkStatus();
}

Async<> Container::EndExecs() {
  // A client that has gone leaves them behind. Their streams and loggers live on by themselves, for
  // as long as the shim does, and so would whoever waits for one that was never started.
  std::vector<std::shared_ptr<Process>> execs;
  for (const auto& [exec_id, exec] : execs_) execs.push_back(exec);
  for (const std::shared_ptr<Process>& exec : execs) {
    if (exec->stdio) co_await exec->stdio->Close();
    exec->exited.Set();
  }
}

void Container::Adopt(std::shared_ptr<Process> process, pid_t pid) {
  process->pid = pid;
  reaper_.Watch(
      pid, [self = shared_from_this(), process](const Exit& exit) { self->Reaped(process, exit); });
}

void Container::Reaped(std::shared_ptr<Process> process, const Exit& exit) {
  if (process->is_init()) init_gone_ = true;
  if (process->exit_holds > 0) {
    process->held_exit = exit;
  } else {
    Handle(std::move(process), exit);
  }
}

void Container::Handle(std::shared_ptr<Process> process, const Exit& exit) {
  if (process->is_init()) {
    feather::Spawn(io_, InitExited(shared_from_this(), exit));
    return;
  }
  Finish(*process, exit);
  ExecEnded();
}

Async<> Container::InitExited(std::shared_ptr<Container> self, Exit exit) {
  const std::string& id = self->config_.id;
  Process& init = *self->init_;
  if (init.state == ProcessState::kPaused || init.state == ProcessState::kPausing) {
    // What else is in the container could not even be killed while it is frozen.
    absl::Status resumed = co_await self->runtime_.Resume();
    if (!resumed.ok())
      LogDebug("cannot resume after the init's exit",
               {{"error", std::string(resumed.message())}, {"id", id}});
  }
  if (!self->config_.private_pid_namespace) {
    absl::Status killed = co_await self->runtime_.Kill(SIGKILL, true);
    if (!killed.ok() && !absl::IsNotFound(killed))
      LogWarning("cannot kill the rest of the container after its init's exit",
                 {{"error", std::string(killed.message())}, {"id", id}});
  }
  while (self->live_execs_ > 0) {
    if (!self->no_execs_ || self->no_execs_->set()) self->no_execs_ = std::make_shared<Event>();
    std::shared_ptr<Event> none = self->no_execs_;
    co_await none->Wait();
  }
  self->Finish(init, exit);
}

void Container::Finish(Process& process, const Exit& exit) {
  process.exit = exit;
  process.state = ProcessState::kStopped;
  if (process.stdio) process.stdio->ProcessExited();
  on_exit_(process);
  process.exited.Set();
}

void Container::ExecEnded() {
  if (--live_execs_ == 0 && no_execs_) no_execs_->Set();
}

void ExitHold::Take(std::shared_ptr<Container> container, std::shared_ptr<Process> process) {
  container_ = std::move(container);
  process_ = std::move(process);
  ++process_->exit_holds;
}

ExitHold::~ExitHold() {
  if (!process_) return;
  if (--process_->exit_holds > 0 || !process_->held_exit) return;
  Exit exit = *process_->held_exit;
  process_->held_exit.reset();
  container_->Handle(process_, exit);
}

}  // namespace feather
