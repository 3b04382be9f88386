#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/events.pb.h"
#include "tests/support/shim_loop.h"

namespace feather::test {

// One event as it arrived.
struct RecordedEvent {
  std::string topic;
  std::string name_space;
  std::string type;   // type URL of the message
  std::string value;  // the message
  absl::Time timestamp;
  Clock::time_point arrived;

  // The fields that several events have; empty or 0 where this one has not. `id` is the process: a
  // TaskExit's id, the exec id of the exec events, else the container's id.
  std::string container;
  std::string id;
  uint32_t pid = 0;
  uint32_t status = 0;
  absl::Time exited_at = absl::InfinitePast();

  template <typename Message>
  Message As() const {
    Message message;
    message.ParseFromString(value);
    return message;
  }
  // "/tasks/exit c e 137": topic, container, process unless it is the init, exit status.
  std::string Summary() const;
};

// containerd's end of the event stream: serves containerd.services.events.ttrpc.v1.Events at a path
// and keeps what it has answered with success, in order of arrival.
class EventsServer {
 public:
  EventsServer(asio::io_context& io, std::string path);
  ~EventsServer();

  // As a containerd that goes away (its socket too), and comes back. Running from the start.
  void Stop();
  void Start();
  // From now on every answer comes so much later / is this refusal (OK: none), after which the
  // event is not recorded.
  void SetDelay(Clock::duration delay) { delay_ = delay; }
  void SetRefusal(absl::Status refusal) { refusal_ = std::move(refusal); }

  const std::vector<RecordedEvent>& events() const { return events_; }
  // What was refused.
  const std::vector<RecordedEvent>& refused() const { return refused_; }
  const std::string& path() const { return path_; }
  // Requests that were being answered at the same time, at most.
  int most_in_flight() const { return most_in_flight_; }

  // Summaries of the events of one container (empty: of all), in order.
  std::vector<std::string> Summaries(const std::string& container = "") const;
  // The first that fits, or null.
  const RecordedEvent* Find(const std::function<bool(const RecordedEvent&)>& fits) const;
  // The exit of a process, or null.
  const RecordedEvent* FindExit(const std::string& container, const std::string& id) const;

 private:
  struct Service;
  std::string path_;
  std::unique_ptr<Service> service_;
  Clock::duration delay_{};
  absl::Status refusal_;
  int in_flight_ = 0;
  int most_in_flight_ = 0;
  std::vector<RecordedEvent> events_;
  std::vector<RecordedEvent> refused_;
};

}  // namespace feather::test
