#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <functional>
#include <memory>
#include <unordered_map>

#include "absl/time/time.h"
#include "runtime/base/async.h"

namespace feather {

// How a process ended.
struct Exit {
  pid_t pid = 0;
  // What containerd calls the exit status: the exit code, or 128 + the signal's number.
  uint32_t status = 0;
  absl::Time at;  // when the shim reaped it
};

// Owns SIGCHLD and is the only caller of wait*(2). Since nothing else reaps, a pid stays valid (and
// cannot be taken by another process) until its exit has been delivered here.
//
// The shim is a child subreaper, so every orphan of its containers arrives here too; an exit nobody
// asked for is reaped and forgotten, unless an Expectation is alive: the pid of a container's
// process is known only after the OCI runtime has returned, and the process may be gone by then.
// Exits that arrive meanwhile are kept until the last Expectation that saw them has ended.
class Reaper {
 public:
  using Callback = std::function<void(const Exit&)>;

  explicit Reaper(asio::io_context& io);
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;
  ~Reaper();

  // Keeps unclaimed exits while it lives. Make one before starting whatever creates the process.
  class Expectation {
   public:
    explicit Expectation(Reaper& reaper);
    Expectation(const Expectation&) = delete;
    Expectation& operator=(const Expectation&) = delete;
    ~Expectation();

   private:
    Reaper& reaper_;
  };

  // Calls `callback` once, from the loop and never from inside Watch, when `pid` has been reaped;
  // soon, if its exit is already kept. `pid` must be a child, or about to become one by
  // reparenting. A second Watch of a pid that is watched replaces nothing: both are called.
  void Watch(pid_t pid, Callback callback);
  // The same as a coroutine.
  Async<Exit> WaitFor(pid_t pid);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace feather
