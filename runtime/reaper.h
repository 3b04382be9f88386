#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>

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

// Status of a process that somebody else has reaped, containerd's UnknownExitStatus.
inline constexpr uint32_t kUnknownExitStatus = 255;

// Owns SIGCHLD and is the only caller of wait*(2), but for SpawnProcess, which takes back a child
// whose exec failed. Since nothing else reaps, a pid stays valid (and cannot be taken by another
// process) until its exit has been collected here.
//
// The shim is a child subreaper, so every orphan of its containers arrives here too; an exit nobody
// asked for is reaped and forgotten, unless an Expectation is alive: the pid of a container's
// process is known only after the OCI runtime has returned, and the process may be gone by then.
// Until the last Expectation has ended such a process is left unreaped, a zombie: its pid is not
// given to another process, so a Watch can never be answered with the exit of a namesake.
class Reaper {
 public:
  using Callback = std::function<void(const Exit&)>;

  explicit Reaper(asio::io_context& io);
  Reaper(const Reaper&) = delete;
  Reaper& operator=(const Reaper&) = delete;
  ~Reaper();

  // Keeps unclaimed exits while it lives. Make one before starting whatever creates the process,
  // and end it after the Watch.
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
  // soon, if it has ended already. `pid` must be a child, or about to become one by reparenting;
  // one that does not exist at all (reaped by the OCI runtime, say) is reported soon with
  // kUnknownExitStatus. A second Watch of a pid that is watched replaces nothing: both are called.
  void Watch(pid_t pid, Callback callback);
  // The same as a coroutine. Watches from the call on, whenever it is awaited.
  Async<Exit> WaitFor(pid_t pid);
  // Whether a Watch will be answered: `pid` is a child, or nothing at all.
  static bool CanWatch(pid_t pid);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace feather
