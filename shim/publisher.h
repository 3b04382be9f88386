#pragma once

#include <asio/io_context.hpp>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/base/async.h"

namespace feather {

// Sends the shim's events to containerd's ttrpc socket
// (containerd.services.events.ttrpc.v1.Events/Forward), in the order in which they were published,
// one in flight at a time: containerd serves requests concurrently, so a second one in flight could
// overtake the first.
//
// An event leaves the queue when containerd has answered, with success or with a refusal (logged;
// retrying a refusal would block all behind it). A lost connection, Unavailable and a time-out keep
// it: the publisher reconnects, with pauses from 10 ms to 1 s, for as long as it takes. The queue
// is bounded (kMaxPending); when it is full the oldest event that is not a TaskExit, TaskOOM or
// TaskDelete makes room, then the new event if it is none of these, and only then the queue grows
// beyond the bound: an exit is never dropped.
class Publisher {
 public:
  static constexpr size_t kMaxPending = 2048;

  // `address`: containerd's ttrpc socket (TTRPC_ADDRESS); empty, or what cannot be a socket's path
  // (logged): events are dropped. `name_space`: containerd's.
  Publisher(asio::io_context& io, std::string address, std::string name_space);
  ~Publisher();

  // `type`: the event's full message name, `event`: its serialized form. `at`: when it happened.
  void Publish(absl::string_view topic, absl::string_view type, std::string event,
               absl::Time at = absl::Now());

  size_t pending() const;
  // Waits until the queue is empty; false if `limit` passed first.
  Async<bool> Drain(Clock::duration limit);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace feather
