#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "oom/watch.h"
#include "proto/inspect.pb.h"
#include "proto/task.pb.h"
#include "runtime/container.h"
#include "shim/publisher.h"
#include "shim/rpc/method_table.h"

namespace feather {

// The task API of a shim (containerd.task.v2.Task and containerd.task.v3.Task, which differ in
// nothing but the name): translates requests into operations on containers, and what happens to
// containers into events. This is the one place where containers, the OOM watch and RPC meet.
//
// A container whose creator has gone by the time that it is there is deleted again: containerd does
// not know of it.
//
// State, Connect, Wait and Pids never wait for anything that happens to another container, nor for
// a command of the OCI runtime in flight.
class TaskService {
 public:
  struct Config {
    std::string name_space;
    // The bundle that the shim was started with (members.h); empty: none.
    std::string bundle;
    // A sandbox needs the shim, whether there are containers or not.
    std::function<bool()> has_sandbox = [] { return false; };
    // Called with a container's bundle, before the OCI runtime reads it, and with its options.
    std::function<absl::Status(const std::string& bundle, RuntimeOptions& options)> prepare_bundle =
        [](const std::string&, RuntimeOptions&) { return absl::OkStatus(); };
    // Called when containerd, by a Shutdown, is done with a container that is not here (any more);
    // the shim may go on for others.
    std::function<void(const std::string& id)> released = [](const std::string&) {};
    // SIGKILL for an exec is for everything that it has started.
    bool kill_exec_trees = false;
  };

  // `on_shutdown` is called when Shutdown came and no container or sandbox is left; the answer is
  // sent after it.
  TaskService(asio::io_context& io, Reaper& reaper, Publisher& publisher, Config config,
              std::function<void()> on_shutdown);

  // Under both names. The service must outlive the calls.
  void Register(rpc::MethodTable& methods);

  // No container exists or is being created; one that has ended and that containerd has given up
  // does not count.
  bool idle() const;
  // Has the answer to a Delete whose caller gave up, for one who may come yet.
  bool has_unheard_answer() const;
  // Calls `on_shutdown` if there is neither a container nor a sandbox.
  void EndIfUnused();

  // Adds its containers.
  void Describe(inspect::v1::ShimResponse& shim) const;

 private:
  struct Deletion;
  struct Task;
  // While it lives, an id is taken by a container that is being created, or of which a creation
  // that failed has left something.
  using Reservation = std::shared_ptr<void>;
  template <typename Response>
  using Answer = Async<absl::StatusOr<Response>>;
  using Empty = google::protobuf::Empty;

  // task_service.cc: what makes, changes and ends containers
  Answer<containerd::task::v2::CreateTaskResponse> Create(
      rpc::CallContext context, containerd::task::v2::CreateTaskRequest request);
  Answer<containerd::task::v2::StartResponse> Start(rpc::CallContext context,
                                                    containerd::task::v2::StartRequest request);
  Answer<containerd::task::v2::DeleteResponse> Delete(rpc::CallContext context,
                                                      containerd::task::v2::DeleteRequest request);
  absl::StatusOr<Empty> Exec(const containerd::task::v2::ExecProcessRequest& request) const;
  Answer<Empty> Kill(rpc::CallContext context, containerd::task::v2::KillRequest request);
  Answer<Empty> Pause(rpc::CallContext context, containerd::task::v2::PauseRequest request);
  Answer<Empty> Resume(rpc::CallContext context, containerd::task::v2::ResumeRequest request);
  Answer<Empty> Update(rpc::CallContext context, containerd::task::v2::UpdateTaskRequest request);
  Answer<Empty> Checkpoint(rpc::CallContext context,
                           containerd::task::v2::CheckpointTaskRequest request);
  Answer<Empty> Shutdown(rpc::CallContext context, containerd::task::v2::ShutdownRequest request);

  // task_answers.cc: what only looks, or touches streams
  Answer<containerd::task::v2::WaitResponse> Wait(rpc::CallContext context,
                                                  containerd::task::v2::WaitRequest request);
  absl::StatusOr<containerd::task::v2::PidsResponse> Pids(
      const containerd::task::v2::PidsRequest& request) const;
  absl::StatusOr<Empty> ResizePty(const containerd::task::v2::ResizePtyRequest& request) const;
  absl::StatusOr<Empty> CloseIO(const containerd::task::v2::CloseIORequest& request) const;
  absl::StatusOr<containerd::task::v2::StateResponse> State(
      const containerd::task::v2::StateRequest& request) const;
  absl::StatusOr<containerd::task::v2::StatsResponse> Stats(
      const containerd::task::v2::StatsRequest& request) const;
  absl::StatusOr<containerd::task::v2::ConnectResponse> Connect(
      const containerd::task::v2::ConnectRequest& request) const;

  template <typename Request, typename Response>
  void Add(rpc::MethodTable& methods, absl::string_view method,
           Answer<Response> (TaskService::*handler)(rpc::CallContext, Request));
  template <typename Request, typename Response>
  void Add(rpc::MethodTable& methods, absl::string_view method,
           absl::StatusOr<Response> (TaskService::*function)(const Request&) const);

  // Created, or being created, and not deleted.
  bool Exists(const std::string& id) const;
  absl::StatusOr<std::shared_ptr<Task>> Find(const std::string& id) const;
  absl::StatusOr<std::shared_ptr<Process>> FindProcess(const std::string& id,
                                                       const std::string& exec_id) const;
  absl::StatusOr<std::shared_ptr<Task>> NewTask(
      const containerd::task::v2::CreateTaskRequest& request);
  Reservation Reserve(const std::string& id);
  // Tells of a container that is there, and watches it for OOM kills.
  void AnnounceCreation(containerd::task::v2::CreateTaskRequest& request, Task& task);
  Answer<containerd::task::v2::DeleteResponse> DeleteTask(rpc::CallContext context,
                                                          std::shared_ptr<Task> task);
  // The one under way, or a new one.
  std::shared_ptr<Deletion> BeginDeletion(std::shared_ptr<Task> task);
  Async<> RunDeletion(std::shared_ptr<Task> task);
  void AnnounceDeletion(Task& task);
  // Containers that containerd does not know of. Nobody else will: tried until it succeeds.
  Async<> DeleteAbandoned(std::shared_ptr<Task> task);
  Async<> DeleteLeftOver(std::shared_ptr<Container> container, Reservation reservation);
  void StartOomWatch(Task& task);
  void OomKilled(const Task& task);
  // The init of a container without a watch has ended, mostly with its cgroup.
  void FindUnwatchedKill(Task& task);
  void ReadOomCounters(Task& task, const Process& process);
  void Exited(Task& task, const Process& process) noexcept;
  void PublishExit(const std::string& id, const Process& process);
  // For which there was no memory: tried until there is.
  Async<> PublishLateExit(std::string id, std::shared_ptr<Process> process);

  template <typename Event>
  void Publish(absl::string_view topic, const Event& event, absl::Time at = absl::Now()) const;

  asio::io_context& io_;
  Reaper& reaper_;
  Publisher& publisher_;
  Config config_;
  std::function<void()> on_shutdown_;
  std::map<std::string, std::shared_ptr<Task>> tasks_;
  std::set<std::string> creating_;  // by Reservation
  uint64_t oom_kills_of_deleted_ = 0;
  bool ending_ = false;  // on_shutdown has been called
};

}  // namespace feather
