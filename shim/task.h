#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"
#include "oom/kernel_log.h"
#include "oom/watch.h"
#include "runtime/base/log.h"
#include "runtime/container.h"
#include "shim/task_service.h"

namespace feather {

// The end of a container: one operation, however many Delete requests ask for it.
struct TaskService::Deletion {
  Event done;
  absl::Status status = absl::CancelledError();  // until it has ended
};

// A container as the service knows it. After its deletion it stays in the map until the answer has
// been given to somebody who could still hear it, so that a Delete whose caller gave up can be
// retried; or until its bundle is gone, after which nobody asks.
struct TaskService::Task {
  std::shared_ptr<Container> container;
  std::unique_ptr<oom::Watch> oom_watch;
  // Where its memory cgroup was expected before its creation; empty: not known.
  std::string expected_cgroup;
  // The kernel's log from before the OCI runtime makes it, until it is watched or has ended.
  std::unique_ptr<oom::KernelLogMark> log_mark;
  // The kills that were counted by then in the cgroup, or in those that it may turn out to be.
  std::map<std::string, uint64_t> kills_before;
  // Of a container that could not be watched: of the kill of its init.
  oom::Counters unwatched_counters;
  std::shared_ptr<Deletion> deletion;
  bool deleted = false;
  // Kills of its init that are not answered yet; set with the last of them.
  size_t kills = 0;
  std::shared_ptr<Event> kills_answered;

  const std::string& id() const { return container->config().id; }
  const oom::Counters& oom_counters() const {
    return oom_watch ? oom_watch->counters() : unwatched_counters;
  }
  // containerd removes a bundle once it has deleted the container, and also when it has given up
  // the shim: then nobody asks for the container any more.
  bool has_no_bundle() const {
    return access(container->config().bundle.c_str(), F_OK) < 0 && errno == ENOENT;
  }
  bool forgotten() const { return deleted && has_no_bundle(); }
  bool given_up() const { return container->init()->exit.pid != 0 && !deletion && has_no_bundle(); }
};

// Go's zero time, which clients know, for a process that has not exited.
inline google::protobuf::Timestamp ExitTime(const Process& process) {
  google::protobuf::Timestamp timestamp;
  if (process.exit.pid == 0) {
    timestamp.set_seconds(-62135596800);
    return timestamp;
  }
  timespec time = absl::ToTimespec(process.exit.at);
  timestamp.set_seconds(time.tv_sec);
  timestamp.set_nanos(static_cast<int32_t>(time.tv_nsec));
  return timestamp;
}

// A change of a container's state, or of an exec's (empty for the container itself), as a line of
// the log; `change`: the last part of an event's topic. `status`: the exit's, empty for what is
// none.
inline void LogStateChange(absl::string_view change, const std::string& id,
                           const std::string& exec_id, const std::string& status = "") {
  LogDebug(
      "state changed",
      {{"change", std::string(change)}, {"exec_id", exec_id}, {"exit_status", status}, {"id", id}});
}

template <typename Event>
void TaskService::Publish(absl::string_view topic, const Event& event, absl::Time at) const {
  std::string exec_id;
  std::string status;
  if constexpr (requires { event.exec_id(); }) exec_id = event.exec_id();
  if constexpr (requires { event.exit_status(); }) {
    if (!event.id().empty() && event.id() != event.container_id()) exec_id = event.id();
    status = absl::StrCat(event.exit_status());
  }
  LogStateChange(topic.substr(topic.rfind('/') + 1), event.container_id(), exec_id, status);
  publisher_.Publish(topic, event.GetTypeName(), event.SerializeAsString(), at);
}

}  // namespace feather
