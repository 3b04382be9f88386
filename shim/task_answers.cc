// The requests that only look, or touch streams: none of them waits for a command of the OCI
// runtime.
#include <unistd.h>

#include <utility>

#include "proto/cgroups_v1.pb.h"
#include "proto/cgroups_v2.pb.h"
#include "proto/runc_options.pb.h"
#include "runtime/base/status.h"
#include "runtime/cgroup_metrics.h"
#include "shim/task.h"
#include "shim/task_service.h"

namespace feather {

namespace api = containerd::task::v2;

namespace {

containerd::v1::types::Status WireStatus(ProcessState state) {
  switch (state) {
    case ProcessState::kCreated:
    case ProcessState::kCreatedCheckpoint:
      return containerd::v1::types::CREATED;
    case ProcessState::kRunning:
      return containerd::v1::types::RUNNING;
    case ProcessState::kPausing:
      return containerd::v1::types::PAUSING;
    case ProcessState::kPaused:
      return containerd::v1::types::PAUSED;
    case ProcessState::kStopped:
    case ProcessState::kDeleted:
      return containerd::v1::types::STOPPED;
  }
  return containerd::v1::types::UNKNOWN;
}

const char* StateName(ProcessState state) {
  switch (state) {
    case ProcessState::kCreated:
    case ProcessState::kCreatedCheckpoint:
      return "created";
    case ProcessState::kRunning:
      return "running";
    case ProcessState::kPausing:
      return "pausing";
    case ProcessState::kPaused:
      return "paused";
    case ProcessState::kStopped:
    case ProcessState::kDeleted:
      return "stopped";
  }
  return "unknown";
}

template <typename Metrics>
void Pack(const Metrics& metrics, api::StatsResponse& response) {
  response.mutable_stats()->set_type_url(metrics.GetTypeName());
  response.mutable_stats()->set_value(metrics.SerializeAsString());
}

}  // namespace

absl::StatusOr<api::StateResponse> TaskService::State(const api::StateRequest& request) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  ASSIGN_OR_RETURN(std::shared_ptr<Process> process, task->container->Find(request.exec_id()));
  api::StateResponse response;
  response.set_id(process->is_init() ? request.id() : request.exec_id());
  response.set_bundle(task->container->config().bundle);
  response.set_pid(static_cast<uint32_t>(process->pid));
  response.set_status(WireStatus(task->container->StateOf(*process)));
  response.set_stdin(process->request.in);
  response.set_stdout(process->request.out);
  response.set_stderr(process->request.err);
  response.set_terminal(process->request.terminal);
  response.set_exit_status(process->exit.status);
  *response.mutable_exited_at() = ExitTime(*process);
  return response;
}

TaskService::Answer<api::WaitResponse> TaskService::Wait(rpc::CallContext context,
                                                         api::WaitRequest request) {
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Process> process,
                      FindProcess(request.id(), request.exec_id()));
  std::vector<Event*> either = {&process->exited, context.gone.get()};
  co_await WaitAny(std::move(either), context.deadline);
  if (!process->exited.set()) co_return context.OverError();
  api::WaitResponse response;
  response.set_exit_status(process->exit.status);
  *response.mutable_exited_at() = ExitTime(*process);
  co_return response;
}

absl::StatusOr<api::PidsResponse> TaskService::Pids(const api::PidsRequest& request) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  const Container& container = *task->container;
  std::vector<pid_t> pids;
  if (container.cgroup()) {
    auto found = CgroupPids(*container.cgroup());
    // A cgroup that is gone holds no process.
    if (!found.ok() && !absl::IsNotFound(found.status())) return found.status();
    if (found.ok()) pids = *std::move(found);
  }
  // When it starts, containerd (1.7 and later) takes a task without processes for a leaked one and
  // deletes it, and what it exited with is lost: for CRI it was 255. So the init counts, as it does
  // in State, until it is deleted.
  if (pids.empty() && container.init()->pid != 0) pids.push_back(container.init()->pid);
  api::PidsResponse response;
  for (pid_t pid : pids) {
    auto* process = response.add_processes();
    process->set_pid(static_cast<uint32_t>(pid));
    for (const auto& [exec_id, exec] : container.execs()) {
      if (exec->pid != pid || exec->exited.set()) continue;
      containerd::runc::v1::ProcessDetails details;
      details.set_exec_id(exec_id);
      process->mutable_info()->set_type_url(details.GetTypeName());
      process->mutable_info()->set_value(details.SerializeAsString());
    }
  }
  return response;
}

absl::StatusOr<api::StatsResponse> TaskService::Stats(const api::StatsRequest& request) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Task> task, Find(request.id()));
  const std::optional<Cgroup>& cgroup = task->container->cgroup();
  if (!cgroup) return absl::NotFoundError("cgroup does not exist: not found");
  const oom::Counters& counters = task->oom_counters();
  api::StatsResponse response;
  if (cgroup->unified) {
    ASSIGN_OR_RETURN(auto metrics, ReadMetricsV2(cgroup->path));
    // The cgroup may be gone with the container. containerd asks, when one exits with 137, whether
    // it was the OOM killer: the counters that were read last still say so.
    if (metrics.memory_events().oom_kill() < counters.oom_kill) {
      auto& events = *metrics.mutable_memory_events();
      events.set_low(counters.low);
      events.set_high(counters.high);
      events.set_max(counters.max);
      events.set_oom(counters.oom);
      events.set_oom_kill(counters.oom_kill);
      events.set_oom_group_kill(counters.oom_group_kill);
    }
    Pack(metrics, response);
  } else {
    ASSIGN_OR_RETURN(auto metrics, ReadMetricsV1(*cgroup));
    if (metrics.memory_oom_control().oom_kill() < counters.oom_kill)
      metrics.mutable_memory_oom_control()->set_oom_kill(counters.oom_kill);
    Pack(metrics, response);
  }
  return response;
}

absl::StatusOr<api::ConnectResponse> TaskService::Connect(
    const api::ConnectRequest& request) const {
  api::ConnectResponse response;
  response.set_shim_pid(static_cast<uint32_t>(getpid()));
  // No container is needed: containerd connects before it creates one.
  if (auto init = FindProcess(request.id(), ""); init.ok())
    response.set_task_pid(static_cast<uint32_t>((*init)->pid));
  return response;
}

absl::StatusOr<google::protobuf::Empty> TaskService::ResizePty(
    const api::ResizePtyRequest& request) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Process> process, FindProcess(request.id(), request.exec_id()));
  RETURN_IF_ERROR(process->is_init() ? AllowedForInit(process->state, Operation::kResize)
                                     : AllowedForExec(process->state, Operation::kResize));
  if (process->stdio)
    RETURN_IF_ERROR(process->stdio->Resize(static_cast<uint16_t>(request.width()),
                                           static_cast<uint16_t>(request.height())));
  return Empty();
}

absl::StatusOr<google::protobuf::Empty> TaskService::CloseIO(
    const api::CloseIORequest& request) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Process> process, FindProcess(request.id(), request.exec_id()));
  if (process->stdio) process->stdio->CloseStdin();
  return Empty();
}

void TaskService::Describe(inspect::v1::ShimResponse& shim) const {
  uint64_t oom_kills = oom_kills_of_deleted_;
  for (const auto& [id, task] : tasks_) {
    // Only its answer is left, for a Delete that is tried again.
    if (task->deleted) continue;
    const Container& container = *task->container;
    const Process& init = *container.init();
    inspect::v1::Container& described = *shim.add_containers();
    described.set_id(id);
    described.set_state(StateName(container.StateOf(init)));
    described.set_pid(static_cast<uint32_t>(init.pid));
    described.set_bundle(container.config().bundle);
    if (const std::optional<Cgroup>& cgroup = container.cgroup()) {
      auto memory = cgroup->controllers.find("memory");
      described.set_cgroup(memory == cgroup->controllers.end() ? cgroup->path : memory->second);
    }
    described.set_oom_kills(task->oom_counters().oom_kill);
    oom_kills += described.oom_kills();
    if (init.exited.set()) {
      described.set_exit_status(init.exit.status);
      *described.mutable_exited_at() = ExitTime(init);
    }
    for (const auto& [exec_id, exec] : container.execs()) {
      inspect::v1::Exec& part = *described.add_execs();
      part.set_id(exec_id);
      part.set_state(StateName(container.StateOf(*exec)));
      part.set_pid(static_cast<uint32_t>(exec->pid));
      part.set_exit_status(exec->exit.status);
    }
  }
  shim.set_oom_kills(oom_kills);
}

}  // namespace feather
