// Execs.
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/container.h"
#include "runtime/process_tree.h"

namespace feather {
namespace {

// A client that was refused an exec since the init had been killed may ask for the container's
// state next, and the init's exit may be an instant later than the OCI runtime's.
constexpr auto kDyingLimit = std::chrono::seconds(1);

// As ProcessStat has the start of a process.
uint64_t TicksSinceBoot() {
  const auto per_second = static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * per_second +
         static_cast<uint64_t>(now.tv_nsec) * per_second / 1'000'000'000;
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
  if (init_gone_) co_return InitIsGone();
  CO_RETURN_IF_ERROR(AllowedForExec(exec->state, Operation::kStart));
  if (exec->exited.set()) co_return AllowedForExec(ProcessState::kStopped, Operation::kStart);

  exec->starting = std::make_shared<Event>();
  ++live_execs_;
  absl::Status status;
  try {
    status = co_await RunExec(exec);
  } catch (const std::bad_alloc&) {
    status = NoMemoryError();
  }
  exec->starting->Set();
  if (exec->pid == 0) {
    // Nothing runs: whoever waits for this exec is told at once.
    exec->exited.Set();
    {
      absl::Cleanup ended = [this] { ExecEnded(); };
      if (exec->stdio) co_await exec->stdio->Close();
    }
    if (live_execs_ == 0 && init_is_dying()) {
      Clock::time_point limit = Clock::now() + kDyingLimit;
      co_await init_->exited.WaitUntil(limit);
    }
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

  std::optional<Reaper::Expectation> expectation(std::in_place, reaper_);
  const uint64_t begun = TicksSinceBoot();
  CO_RETURN_IF_ERROR(co_await runtime_.Exec(std::move(args)));
  absl::StatusOr<pid_t> pid = ReadPid(exec->exec_id);
  // Something runs, then: it must not go on without anybody who knows of it.
  pid_t adopted = pid.ok() ? *pid : FindUnclaimed(exec->exec_id, begun);
  if (adopted == 0) {
    LogError("the process of an exec cannot be found, and may run on",
             {{"error", std::string(pid.status().message())},
              {"exec_id", exec->exec_id},
              {"id", config_.id}});
    co_return pid.status();
  }
  exec->state = ProcessState::kRunning;
  std::string().swap(exec->spec);
  Adopt(exec, adopted);
  exec->starting->Set();
  expectation.reset();
  CO_RETURN_IF_ERROR(pid.status());
  // The init's exit is told after this exec's, and must not wait for a client that may never come.
  if (init_gone_) exec->stdio->GiveUpOpening();
  absl::Status attached = co_await exec->stdio->Attach();
  if (!attached.ok() && init_gone_) co_return InitIsGone();
  co_return attached;
}

bool Container::init_is_dying() const {
  if (init_gone_ || init_->pid == 0) return init_gone_;
  return ReadProcessStat(init_->pid).value_or(ProcessStat()).exiting;
}

absl::Status Container::InitIsGone() const {
  return absl::FailedPreconditionError(
      absl::StrCat("container ", config_.id, " init process is not running: failed precondition"));
}

pid_t Container::FindUnclaimed(const std::string& exec_id, uint64_t begun) const {
  if (!cgroup_) return 0;
  absl::StatusOr<std::vector<pid_t>> pids = CgroupPids(*cgroup_);
  if (!pids.ok()) return 0;
  std::vector<pid_t> unclaimed;
  for (pid_t pid : *pids) {
    const ProcessStat stat = ReadProcessStat(pid).value_or(ProcessStat());
    // Older ones that lost their parent are the shim's, too, in a container without PIDs of its
    // own.
    bool claimed = pid == init_->pid || stat.parent != getpid() || stat.start < begun;
    // Another one may be about to be claimed.
    for (const auto& [other_id, other] : execs_)
      if (other_id != exec_id)
        claimed = claimed || other->pid == pid || ReadPid(other_id).value_or(0) == pid;
    if (!claimed) unclaimed.push_back(pid);
  }
  return unclaimed.size() == 1 ? unclaimed[0] : 0;
}

Async<absl::Status> Container::KillExec(std::shared_ptr<Process> exec, uint32_t signal, bool tree) {
  auto self = shared_from_this();
  // Not until a start has ended: it may wait for its client's streams.
  if (std::shared_ptr<Event> starting = exec->starting) co_await starting->Wait();
  co_return SignalExec(*exec, static_cast<int>(signal), tree);
}

absl::Status Container::SignalExec(const Process& exec, int signal, bool tree) const {
  RETURN_IF_ERROR(AllowedForExec(exec.state, Operation::kKill));
  if (exec.pid != 0 && tree && cgroup_) {
    auto signalled = SignalProcessTree(exec.pid, signal, [this] { return CgroupPids(*cgroup_); });
    if (!signalled.ok())
      return Annotate(absl::UnknownError(signalled.status().message()), "exec kill error");
    if (*signalled > 0) return absl::OkStatus();
  }
  if (exec.reaped()) return absl::NotFoundError("process already finished: not found");
  if (exec.pid == 0)
    return absl::FailedPreconditionError("process not created: failed precondition");
  // The pid is ours until the reaper has delivered its exit: it cannot be another process' by now.
  if (Signal(exec.pid, signal) == 0) return absl::OkStatus();
  if (errno == ESRCH) return absl::NotFoundError("process already finished: not found");
  return Annotate(ErrnoError(errno, "unknown error after kill"), "exec kill error");
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

}  // namespace feather
