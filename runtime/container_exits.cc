// How the exits of a container's processes are taken in and told.
#include <signal.h>

#include <new>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/container.h"

namespace feather {

void Container::Adopt(std::shared_ptr<Process> process, pid_t pid) {
  process->pid = pid;
  reaper_.Watch(
      pid, [self = shared_from_this(), process](const Exit& exit) { self->Reaped(process, exit); });
}

void Container::Disown(Process& process) {
  process.pid = 0;
  process.held_exit.reset();
  if (!process.is_init()) return;
  init_gone_ = rest_ended_ = false;
  init_exit_.reset();
}

void Container::Reaped(std::shared_ptr<Process> process, const Exit& exit) {
  if (process->pid != exit.pid) return;
  process->gone.Set();
  if (process->is_init()) {
    init_gone_ = true;
    for (const auto& [exec_id, exec] : execs_)
      if (exec->stdio) exec->stdio->GiveUpOpening();
  }
  if (process->exit_holds > 0) {
    process->held_exit = exit;
  } else {
    Handle(std::move(process), exit);
  }
}

void Container::Handle(std::shared_ptr<Process> process, const Exit& exit) {
  if (!process->is_init()) {
    Finish(*process, exit);
    ExecEnded();
    return;
  }
  init_exit_ = exit;
  try {
    feather::Spawn(io_, EndRest(shared_from_this()));
  } catch (const std::bad_alloc&) {
    NoMemoryError().IgnoreError();
    rest_ended_ = true;
    TellInitsExit();
  }
}

Async<> Container::EndRest(std::shared_ptr<Container> self) {
  // Also when there is no memory for it: the exit is not to be lost.
  absl::Cleanup over = [self] {
    self->rest_ended_ = true;
    self->TellInitsExit();
  };
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
}

void Container::TellInitsExit() {
  if (!init_exit_ || !rest_ended_ || live_execs_ > 0) return;
  Finish(*init_, *std::exchange(init_exit_, std::nullopt));
}

void Container::Finish(Process& process, const Exit& exit) noexcept {
  process.exit = exit;
  process.state = ProcessState::kStopped;
  try {
    if (process.stdio) process.stdio->ProcessExited();
  } catch (const std::bad_alloc&) {
    NoMemoryError().IgnoreError();
  }
  on_exit_(process);
  process.exited.Set();
}

void Container::ExecEnded() {
  if (--live_execs_ == 0) TellInitsExit();
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
