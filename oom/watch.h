#pragma once

#include <asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace feather::oom {

// The counters of memory.events (cgroup2) or memory.oom_control (cgroup1) as last read.
struct Counters {
  uint64_t low = 0;
  uint64_t high = 0;
  uint64_t max = 0;
  uint64_t oom = 0;
  uint64_t oom_kill = 0;
  uint64_t oom_group_kill = 0;
};

// Watches one container's cgroup for OOM kills. Back ends: cgroup2 (memory.events and cgroup.events
// polled for EPOLLPRI, no inotify) and cgroup1 (memory.oom_control with an eventfd).
//
// `on_kill` is called from the loop, or from inside Read and Finish, each time oom_kill was found
// greater than before, with the counters. It must not destroy the watch.
class Watch {
 public:
  using OnKill = std::function<void(const Counters&)>;

  // `directory`: the container's cgroup; on cgroup1 that of the memory controller.
  static absl::StatusOr<std::unique_ptr<Watch>> Start(asio::io_context& io, bool unified,
                                                      std::string directory, OnKill on_kill);
  virtual ~Watch() = default;

  // Reads the counters now. Call it before the exit of any process of the container is published:
  // the kernel raises the counter before it sends the SIGKILL (mm/oom_kill.c), so that a kill is
  // always told before the exit that it caused.
  virtual void Read() = 0;
  // Reads a last time and closes every descriptor. Idempotent.
  virtual void Finish() = 0;
  // As last read; still there after Finish.
  virtual const Counters& counters() const = 0;
};

}  // namespace feather::oom
