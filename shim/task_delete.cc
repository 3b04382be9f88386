// A container's end, and an exec's.
#include <algorithm>
#include <chrono>
#include <functional>
#include <new>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "proto/events.pb.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/base/trim.h"
#include "shim/members.h"
#include "shim/task.h"
#include "shim/task_service.h"

namespace feather {

namespace api = containerd::task::v2;
namespace events = containerd::events;

namespace {

constexpr Clock::duration kFirstRetry = std::chrono::seconds(1);
constexpr Clock::duration kLastRetry = std::chrono::minutes(1);
// For a Kill whose OCI runtime hangs.
constexpr Clock::duration kKillLimit = std::chrono::seconds(5);

// For what nobody else would do: tried until it is done.
Async<> TryUntilDone(std::function<Async<bool>()> attempt) {
  Clock::duration pause = kFirstRetry;
  while (true) {
    bool done = false;
    try {
      done = co_await attempt();
    } catch (const std::bad_alloc&) {
      NoMemoryError().IgnoreError();
    }
    if (done) co_return;
    co_await SleepFor(pause);
    pause = std::min<Clock::duration>(pause * 2, kLastRetry);
  }
}

}  // namespace

TaskService::Answer<api::DeleteResponse> TaskService::Delete(rpc::CallContext context,
                                                             api::DeleteRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  if (request.exec_id().empty()) co_return co_await DeleteTask(std::move(context), task);
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Process> exec, task->container->Find(request.exec_id()));
  CO_RETURN_IF_ERROR(co_await task->container->DeleteExec(exec));
  LogStateChange("delete", task->id(), exec->exec_id, absl::StrCat(exec->exit.status));
  TrimSoon(io_);
  api::DeleteResponse response;
  response.set_pid(static_cast<uint32_t>(exec->pid));
  response.set_exit_status(exec->exit.status);
  *response.mutable_exited_at() = ExitTime(*exec);
  co_return response;
}

TaskService::Answer<api::DeleteResponse> TaskService::DeleteTask(rpc::CallContext context,
                                                                 std::shared_ptr<Task> task) {
  std::shared_ptr<Deletion> deletion = BeginDeletion(task);
  std::vector<Event*> either = {&deletion->done, context.gone.get()};
  co_await WaitAny(std::move(either), context.deadline);
  // The deletion goes on; its answer is kept for the next Delete.
  if (!deletion->done.set() || context.IsOver()) co_return context.OverError();
  CO_RETURN_IF_ERROR(deletion->status);
  auto known = tasks_.find(task->id());
  if (known != tasks_.end() && known->second == task) tasks_.erase(known);
  const Process& init = *task->container->init();
  api::DeleteResponse response;
  response.set_pid(static_cast<uint32_t>(init.pid));
  response.set_exit_status(init.exit.status);
  *response.mutable_exited_at() = ExitTime(init);
  co_return response;
}

Async<> TaskService::DeleteAbandoned(std::shared_ptr<Task> task) {
  return TryUntilDone([this, task]() -> Async<bool> {
    std::shared_ptr<Deletion> deletion = BeginDeletion(task);
    co_await deletion->done.Wait();
    if (!deletion->status.ok())
      LogWarning("cannot delete a container whose creator has gone",
                 {{"error", std::string(deletion->status.message())}, {"id", task->id()}});
    co_return deletion->status.ok();
  });
}

Async<> TaskService::DeleteLeftOver(std::shared_ptr<Container> container, Reservation reservation) {
  return TryUntilDone([this, container, reservation]() -> Async<bool> {
    co_await container->DeleteLeftOver();
    if (container->left_over()) co_return false;
    ForgetMember(config_.bundle, container->config().id);
    co_return true;
  });
}

std::shared_ptr<TaskService::Deletion> TaskService::BeginDeletion(std::shared_ptr<Task> task) {
  if (task->deletion) return task->deletion;
  std::shared_ptr<Deletion> deletion = task->deletion = std::make_shared<Deletion>();
  absl::Cleanup never = [&task] { task->deletion.reset(); };
  // One that fails at once is over, and forgotten by the task, when Spawn returns.
  Spawn(io_, RunDeletion(task));
  std::move(never).Cancel();
  return deletion;
}

Async<> TaskService::RunDeletion(std::shared_ptr<Task> task) {
  std::shared_ptr<Deletion> deletion = task->deletion;
  // Whatever there is no memory for: nobody waits for it in vain, and the next Delete tries again.
  absl::Cleanup over = [task, deletion] {
    if (!deletion->status.ok()) task->deletion.reset();
    deletion->done.Set();
  };
  // CRI deletes at once when it hears of the exit, and closes the connection then: a StopPodSandbox
  // that still waits for the answer to its Kill would fail.
  absl::Status status;
  try {
    if (task->kills > 0 && task->container->init()->exit.pid != 0) {
      std::shared_ptr<Event> answered = task->kills_answered;
      co_await answered->WaitUntil(Clock::now() + kKillLimit);
    }
    status = co_await task->container->Delete();
  } catch (const std::bad_alloc&) {
    status = NoMemoryError();
  }
  TrimSoon(io_);
  deletion->status = status;
  if (!status.ok()) co_return;
  task->deleted = true;
  std::function<Async<bool>()> announce = [this, task]() -> Async<bool> {
    AnnounceDeletion(*task);
    co_return true;
  };
  co_await TryUntilDone(std::move(announce));
}

void TaskService::AnnounceDeletion(Task& task) {
  ForgetMember(config_.bundle, task.id());
  if (task.oom_watch) task.oom_watch->Finish();
  const Process& init = *task.container->init();
  events::TaskDelete event;
  event.set_container_id(task.id());
  event.set_pid(static_cast<uint32_t>(init.pid));
  event.set_exit_status(init.exit.status);
  *event.mutable_exited_at() = ExitTime(init);
  Publish("/tasks/delete", event);
  oom_kills_of_deleted_ += task.oom_counters().oom_kill;
}

Async<> TaskService::PublishLateExit(std::string id, std::shared_ptr<Process> process) {
  return TryUntilDone([this, id = std::move(id), process]() -> Async<bool> {
    PublishExit(id, *process);
    co_return true;
  });
}

}  // namespace feather
