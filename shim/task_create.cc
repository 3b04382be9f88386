// A container's beginning.
#include <map>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "oom/kernel_log.h"
#include "proto/events.pb.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/base/trim.h"
#include "runtime/bundle.h"
#include "runtime/cgroup.h"
#include "shim/members.h"
#include "shim/options.h"
#include "shim/task.h"
#include "shim/task_service.h"

namespace feather {

namespace api = containerd::task::v2;
namespace events = containerd::events;

namespace {

// A creation waits for its client to open the streams, which one that has gone will never do.
Async<> AbandonWithItsCaller(rpc::CallContext context, std::shared_ptr<Container> container,
                             std::shared_ptr<Event> created) {
  std::vector<Event*> either = {created.get(), context.gone.get()};
  co_await WaitAny(std::move(either), context.deadline);
  if (!created->set()) co_await container->AbandonStreams();
}

}  // namespace

absl::StatusOr<std::shared_ptr<TaskService::Task>> TaskService::NewTask(
    const api::CreateTaskRequest& request) {
  RETURN_IF_ERROR(ValidateId(request.id()));
  ASSIGN_OR_RETURN(Bundle bundle, Bundle::Open(request.bundle()));
  Container::Config config;
  config.id = request.id();
  config.name_space = config_.name_space;
  config.bundle = request.bundle();
  ASSIGN_OR_RETURN(config.options, DecodeOptions(request.options()));
  // The one key without which containers go wrong silently; the driver shows in the path.
  if (SayNothing(request.options()) && bundle.spec().in_slice())
    config.options.systemd_cgroup = true;
  RETURN_IF_ERROR(config_.prepare_bundle(request.bundle(), config.options));
  RETURN_IF_ERROR(WriteOptions(request.bundle(), config.options));
  for (const auto& mount : request.rootfs())
    config.rootfs.push_back({.type = mount.type(),
                             .source = mount.source(),
                             .target = mount.target(),
                             .options = {mount.options().begin(), mount.options().end()}});
  config.stdio = {request.stdin(), request.stdout(), request.stderr(), request.terminal()};
  config.checkpoint = request.checkpoint();
  config.parent_checkpoint = request.parent_checkpoint();
  config.private_pid_namespace = bundle.spec().has_private_pid_namespace;

  auto task = std::make_shared<Task>();
  if (auto unified = IsUnified(); unified.ok()) {
    const std::string& path = bundle.spec().cgroups_path;
    task->expected_cgroup = ExpectedMemoryCgroup(*unified, path);
    for (const std::string& directory : PossibleMemoryCgroups(*unified, path, request.id())) {
      ASSIGN_OR_RETURN(task->kills_before[directory], oom::CountKills(*unified, directory));
    }
    // A restored one is made by its Start.
    if (config.checkpoint.empty()) task->log_mark = std::make_unique<oom::KernelLogMark>();
  }
  // It is for the case that this process is killed: no reason not to run the
  // container. Last, since whatever fails from here on forgets it.
  if (absl::Status noted = NoteMember(config_.bundle, config.id, config.bundle, config.options);
      !noted.ok())
    LogWarning("cannot note a member of the pod",
               {{"error", std::string(noted.message())}, {"id", config.id}});
  task->container = std::make_shared<Container>(
      io_, reaper_, std::move(config), [this, weak = std::weak_ptr<Task>(task)](const Process& p) {
        if (std::shared_ptr<Task> exited = weak.lock()) Exited(*exited, p);
      });
  return task;
}

TaskService::Reservation TaskService::Reserve(const std::string& id) {
  auto place = creating_.insert(id).first;
  return Reservation(nullptr, [this, place](void*) { creating_.erase(place); });
}

TaskService::Answer<api::CreateTaskResponse> TaskService::Create(rpc::CallContext context,
                                                                 api::CreateTaskRequest request) {
  // Over a connection that was there before; the container would lose its shim at once.
  if (ending_) co_return absl::UnavailableError("the shim is ending");
  const std::string& id = request.id();
  std::erase_if(tasks_, [](const auto& known) { return known.second->forgotten(); });
  if (Exists(id))
    co_return absl::AlreadyExistsError(absl::StrCat("container ", id, ": already exists"));
  CO_ASSIGN_OR_RETURN(std::shared_ptr<Task> task, NewTask(request));
  std::shared_ptr<Container> container = task->container;
  std::shared_ptr<Process> init = container->init();

  Reservation reservation = Reserve(id);
  // Once it is there, no memory is needed to know of it.
  std::map<std::string, std::shared_ptr<Task>> known;
  known.emplace(id, task);
  ExitHold hold;
  hold.Take(container, init);
  auto created = std::make_shared<Event>();
  absl::Cleanup over = [created] { created->Set(); };
  Spawn(io_, AbandonWithItsCaller(context, container, created));
  absl::Status status = co_await container->Create();
  if (container->left_over())
    Spawn(io_, DeleteLeftOver(container, std::move(reservation)));
  else if (!status.ok())
    ForgetMember(config_.bundle, id);
  TrimSoon(io_);
  if (!status.ok()) co_return status;
  // Of a deleted one, its answer.
  tasks_.erase(id);
  tasks_.merge(known);
  try {
    AnnounceCreation(request, *task);
  } catch (const std::bad_alloc&) {
    status = NoMemoryError();
  }
  if (status.ok() && context.IsOver()) status = context.OverError();
  if (!status.ok()) {
    Spawn(io_, DeleteAbandoned(task));
    co_return status;
  }
  api::CreateTaskResponse response;
  response.set_pid(static_cast<uint32_t>(init->pid));
  co_return response;
}

void TaskService::AnnounceCreation(api::CreateTaskRequest& request, Task& task) {
  events::TaskCreate event;
  event.set_container_id(task.id());
  event.set_bundle(request.bundle());
  event.mutable_rootfs()->Swap(request.mutable_rootfs());
  event.mutable_io()->set_stdin(request.stdin());
  event.mutable_io()->set_stdout(request.stdout());
  event.mutable_io()->set_stderr(request.stderr());
  event.mutable_io()->set_terminal(request.terminal());
  event.set_checkpoint(request.checkpoint());
  event.set_pid(static_cast<uint32_t>(task.container->init()->pid));
  Publish("/tasks/create", event);
  StartOomWatch(task);
}

}  // namespace feather
