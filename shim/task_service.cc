#include "shim/task_service.h"

#include <signal.h>

#include <new>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "proto/events.pb.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/base/trim.h"
#include "runtime/bundle.h"
#include "shim/exit_file.h"
#include "shim/options.h"
#include "shim/task.h"

namespace feather {

namespace api = containerd::task::v2;
namespace events = containerd::events;

namespace {

// The exit status of what SIGKILL has ended.
constexpr uint32_t kKilled = 128 + SIGKILL;

void LogOomKill(const std::string& id, const oom::Explanation& kill) {
  std::string processes, limit_of;
  for (const oom::Victim& victim : kill.victims) {
    absl::StrAppend(&processes, processes.empty() ? "" : ", ", victim.pid, " (", victim.name, ")");
    if (!victim.limit_of.empty()) limit_of = victim.limit_of;
  }
  LogInfo("the kernel's OOM killer took a process of the container",
          {{"id", id},
           {"cgroup", kill.cgroup},
           {"limit", kill.limit.empty() ? "unknown" : kill.limit},
           {"oom", absl::StrCat(kill.counters.oom)},
           {"oom_kill", absl::StrCat(kill.counters.oom_kill)},
           {"process", processes.empty() ? "unknown" : processes},
           {"limit_of", limit_of.empty() ? "unknown" : limit_of}});
}

}  // namespace

TaskService::TaskService(asio::io_context& io, Reaper& reaper, Publisher& publisher, Config config,
                         std::function<void()> on_shutdown)
    : io_(io),
      reaper_(reaper),
      publisher_(publisher),
      config_(std::move(config)),
      on_shutdown_(std::move(on_shutdown)) {}

template <typename Request, typename Response>
void TaskService::Add(rpc::MethodTable& methods, absl::string_view method,
                      Answer<Response> (TaskService::*handler)(rpc::CallContext, Request)) {
  for (absl::string_view service : {"containerd.task.v2.Task", "containerd.task.v3.Task"})
    methods.AddUnary<Request, Response>(
        service, method, [this, handler](rpc::CallContext context, Request request) {
          return (this->*handler)(std::move(context), std::move(request));
        });
}

template <typename Request, typename Response>
void TaskService::Add(rpc::MethodTable& methods, absl::string_view method,
                      absl::StatusOr<Response> (TaskService::*function)(const Request&) const) {
  for (absl::string_view service : {"containerd.task.v2.Task", "containerd.task.v3.Task"})
    methods.AddImmediate<Request, Response>(
        service, method,
        [this, function](const Request& request) { return (this->*function)(request); });
}

void TaskService::Register(rpc::MethodTable& methods) {
  Add(methods, "State", &TaskService::State);
  Add(methods, "Create", &TaskService::Create);
  Add(methods, "Start", &TaskService::Start);
  Add(methods, "Delete", &TaskService::Delete);
  Add(methods, "Pids", &TaskService::Pids);
  Add(methods, "Pause", &TaskService::Pause);
  Add(methods, "Resume", &TaskService::Resume);
  Add(methods, "Checkpoint", &TaskService::Checkpoint);
  Add(methods, "Kill", &TaskService::Kill);
  Add(methods, "Exec", &TaskService::Exec);
  Add(methods, "ResizePty", &TaskService::ResizePty);
  Add(methods, "CloseIO", &TaskService::CloseIO);
  Add(methods, "Update", &TaskService::Update);
  Add(methods, "Wait", &TaskService::Wait);
  Add(methods, "Stats", &TaskService::Stats);
  Add(methods, "Connect", &TaskService::Connect);
  Add(methods, "Shutdown", &TaskService::Shutdown);
}

bool TaskService::idle() const {
  for (const auto& [id, task] : tasks_)
    if (!task->deleted && !task->given_up()) return false;
  return creating_.empty();
}

bool TaskService::has_unheard_answer() const {
  for (const auto& [id, task] : tasks_)
    if (task->deleted && !task->forgotten()) return true;
  return false;
}

bool TaskService::Exists(const std::string& id) const {
  auto known = tasks_.find(id);
  return (known != tasks_.end() && !known->second->deleted) || creating_.contains(id);
}

absl::StatusOr<std::shared_ptr<TaskService::Task>> TaskService::Find(const std::string& id) const {
  auto it = tasks_.find(id);
  if (it == tasks_.end() || it->second->forgotten())
    return absl::NotFoundError("container not created: not found");
  return it->second;
}

absl::StatusOr<std::shared_ptr<Process>> TaskService::FindProcess(
    const std::string& id, const std::string& exec_id) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(id));
  return task->container->Find(exec_id);
}

TaskService::Answer<api::StartResponse> TaskService::Start(rpc::CallContext,
                                                           api::StartRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  std::shared_ptr<Container> container = task->container;
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Process> process, container->Find(request.exec_id()));

  ExitHold hold;
  absl::Status status;
  if (process->is_init()) {
    const bool restored = process->state == ProcessState::kCreatedCheckpoint && !task->log_mark;
    if (restored) task->log_mark = std::make_unique<oom::KernelLogMark>();
    status = co_await container->Start(&hold);
    if (restored && !status.ok()) task->log_mark.reset();
  } else {
    status = co_await container->StartExec(process, &hold);
  }
  TrimSoon(io_);
  if (!status.ok()) co_return status;
  if (process->is_init()) {
    // A restored one has its cgroup only now, and has been running in it for a moment.
    if (!task->oom_watch) StartOomWatch(*task);
    events::TaskStart event;
    event.set_container_id(request.id());
    event.set_pid(static_cast<uint32_t>(process->pid));
    Publish("/tasks/start", event);
  } else {
    events::TaskExecStarted event;
    event.set_container_id(request.id());
    event.set_exec_id(request.exec_id());
    event.set_pid(static_cast<uint32_t>(process->pid));
    Publish("/tasks/exec-started", event);
  }
  api::StartResponse response;
  response.set_pid(static_cast<uint32_t>(process->pid));
  co_return response;
}

absl::StatusOr<google::protobuf::Empty> TaskService::Exec(
    const api::ExecProcessRequest& request) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  RETURN_IF_ERROR(ValidateId(request.exec_id()));
  if (!request.has_spec()) return absl::InvalidArgumentError("exec without a process spec");
  ASSIGN_OR_RETURN(std::string spec, ProcessSpec(request.spec().value(), request.terminal()));
  StdioRequest stdio{request.stdin(), request.stdout(), request.stderr(), request.terminal()};
  RETURN_IF_ERROR(task->container->AddExec(request.exec_id(), std::move(spec), std::move(stdio)));
  // One that could not be told of (for want of memory) would only be in the way of the repeat.
  absl::Cleanup untold = [&] { task->container->ForgetExec(request.exec_id()); };
  events::TaskExecAdded event;
  event.set_container_id(request.id());
  event.set_exec_id(request.exec_id());
  Publish("/tasks/exec-added", event);
  std::move(untold).Cancel();
  return Empty();
}

TaskService::Answer<google::protobuf::Empty> TaskService::Kill(rpc::CallContext,
                                                               api::KillRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Process> process, task->container->Find(request.exec_id()));
  absl::Status status;
  if (process->is_init()) {
    if (task->kills == 0) task->kills_answered = std::make_shared<Event>();
    ++task->kills;
    absl::Cleanup answered = [&task] {
      if (--task->kills == 0) task->kills_answered->Set();
    };
    status = co_await task->container->Kill(request.signal(), request.all());
  } else {
    // What containerd's own shim ignores; and one that is killed because its time is over (CRI's
    // exec-sync) cannot be asked for more than its first process.
    bool tree = request.all() || (config_.kill_exec_trees && request.signal() == SIGKILL);
    status = co_await task->container->KillExec(process, request.signal(), tree);
  }
  CO_RETURN_IF_ERROR(status);
  co_return Empty();
}

TaskService::Answer<google::protobuf::Empty> TaskService::Pause(rpc::CallContext,
                                                                api::PauseRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  CO_RETURN_IF_ERROR(co_await task->container->Pause());
  events::TaskPaused event;
  event.set_container_id(request.id());
  Publish("/tasks/paused", event);
  co_return Empty();
}

TaskService::Answer<google::protobuf::Empty> TaskService::Resume(rpc::CallContext,
                                                                 api::ResumeRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  CO_RETURN_IF_ERROR(co_await task->container->Resume());
  events::TaskResumed event;
  event.set_container_id(request.id());
  Publish("/tasks/resumed", event);
  co_return Empty();
}

TaskService::Answer<google::protobuf::Empty> TaskService::Update(rpc::CallContext,
                                                                 api::UpdateTaskRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  CO_ASSIGN_OR_RETURN(std::string resources, Resources(request.resources().value()));
  CO_RETURN_IF_ERROR(co_await task->container->Update(std::move(resources)));
  co_return Empty();
}

TaskService::Answer<google::protobuf::Empty> TaskService::Checkpoint(
    rpc::CallContext, api::CheckpointTaskRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  CO_ASSIGN_OR_RETURN(OciRuntime::CheckpointArgs args, DecodeCheckpointOptions(request.options()));
  args.image_path = request.path();
  CO_RETURN_IF_ERROR(co_await task->container->Checkpoint(std::move(args)));
  co_return Empty();
}

TaskService::Answer<google::protobuf::Empty> TaskService::Shutdown(rpc::CallContext,
                                                                   api::ShutdownRequest request) {
  EndIfUnused();
  if (!Exists(request.id())) config_.released(request.id());
  co_return Empty();
}

void TaskService::EndIfUnused() {
  if (!idle() || config_.has_sandbox()) return;
  ending_ = true;
  on_shutdown_();
}

void TaskService::StartOomWatch(Task& task) {
  const std::optional<Cgroup>& cgroup = task.container->cgroup();
  // One that has ended already has no cgroup any more on cgroup1.
  std::string directory = task.expected_cgroup;
  bool unified = false;
  if (cgroup) {
    unified = cgroup->unified;
    directory = cgroup->path;
    if (!unified) {
      auto memory = cgroup->controllers.find("memory");
      if (memory == cgroup->controllers.end()) return;
      directory = memory->second;
    }
  } else if (task.container->init()->pid == 0 || directory.empty()) {
    return;
  }
  oom::Beginning beginning;
  beginning.log = task.log_mark.get();
  beginning.init = task.container->init()->pid;
  beginning.local_events = cgroup && cgroup->local_events;
  // Elsewhere, what was there before is not known.
  if (auto before = task.kills_before.find(directory); before != task.kills_before.end())
    beginning.kills = before->second;
  auto watch = oom::Watch::Start(
      io_, unified, directory, [this, &task](const oom::Counters&) { OomKilled(task); }, beginning,
      [id = task.id()](const oom::Explanation& kill) { LogOomKill(id, kill); });
  if (watch.ok()) {
    task.oom_watch = *std::move(watch);
    task.log_mark.reset();
  } else {
    LogWarning("OOM kills of this container cannot be reported",
               {{"error", std::string(watch.status().message())}, {"id", task.id()}});
  }
}

void TaskService::OomKilled(const Task& task) {
  events::TaskOOM event;
  event.set_container_id(task.id());
  Publish("/tasks/oom", event);
}

void TaskService::FindUnwatchedKill(Task& task) {
  if (!task.log_mark) return;
  const auto kill =
      oom::FindKillOfInit(task.expected_cgroup, *task.log_mark, task.container->init()->pid);
  if (!kill) return;
  task.unwatched_counters = kill->counters;
  OomKilled(task);
  LogOomKill(task.id(), *kill);
}

void TaskService::ReadOomCounters(Task& task, const Process& process) {
  if (task.oom_watch) {
    if (process.is_init()) {
      task.oom_watch->Finish();
    } else {
      task.oom_watch->Read();
    }
  } else if (process.is_init() && process.exit.status == kKilled) {
    FindUnwatchedKill(task);
  }
}

// For want of memory neither part may keep the other from its turn.
void TaskService::Exited(Task& task, const Process& process) noexcept {
  if (process.is_init()) NoteExit(task.container->config().bundle, process.exit);
  // The counter was raised before the kill: an OOM is told before the exit that it caused.
  CatchNoMemory([&] { ReadOomCounters(task, process); }).IgnoreError();
  if (process.is_init()) task.log_mark.reset();
  if (CatchNoMemory([&] { PublishExit(task.id(), process); }).ok()) return;
  try {
    auto exited = task.container->Find(process.exec_id);
    if (exited.ok()) Spawn(io_, PublishLateExit(task.id(), *std::move(exited)));
  } catch (const std::bad_alloc&) {
    LogError("an exit cannot be told", {{"id", task.id()}});
  }
}

void TaskService::PublishExit(const std::string& id, const Process& process) {
  events::TaskExit event;
  event.set_container_id(id);
  event.set_id(process.is_init() ? id : process.exec_id);
  event.set_pid(static_cast<uint32_t>(process.pid));
  event.set_exit_status(process.exit.status);
  *event.mutable_exited_at() = ExitTime(process);
  Publish("/tasks/exit", event, process.exit.at);
}

}  // namespace feather
