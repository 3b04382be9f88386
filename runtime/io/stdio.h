#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/reaper.h"

namespace feather {

// What a Create or Exec request says of the process' streams: URIs or FIFO paths, empty for none.
struct StdioRequest {
  std::string in;
  std::string out;
  std::string err;
  bool terminal = false;
};

// How long is waited for others. Tests take shorter ones.
struct StdioLimits {
  // For a client to read its FIFOs, or a logging binary to get ready.
  Clock::duration open = std::chrono::seconds(30);
  Clock::duration console = std::chrono::seconds(10);     // for the runtime to send the terminal
  Clock::duration logger_end = std::chrono::seconds(12);  // between SIGTERM and SIGKILL
};

// The standard streams of one process of a container, from before the OCI runtime runs until
// Delete. Modes (contract section 5.1): null, FIFOs, `file://`, `binary://` and `binary-v2://`
// loggers, and a terminal on FIFOs or on a logger.
//
// Order of calls: Prepare; child_fds or console_socket go to the OCI runtime; RuntimeStarted when
// it has been forked; Attach when it has returned with success; then CloseStdin, Resize at any
// time; ProcessExited when the process was reaped; Drain and Close at Delete. Close also ends what
// a failed creation has begun, whichever calls came before, and is idempotent.
class Stdio {
 public:
  struct Owner {
    uint32_t uid = 0;  // of the container's pipe ends
    uint32_t gid = 0;
    std::string id;  // container or exec id: CONTAINER_ID of a logger
    std::string name_space;
  };

  static Async<absl::StatusOr<std::shared_ptr<Stdio>>> Prepare(asio::io_context& io, Reaper& reaper,
                                                               StdioRequest request, Owner owner,
                                                               StdioLimits limits = StdioLimits());
  virtual ~Stdio() = default;

  // Descriptors for the runtime's 0, 1 and 2; -1 where it gets its default. Valid until
  // RuntimeStarted.
  virtual std::array<int, 3> child_fds() const = 0;
  // Path of the listening console socket, empty without a terminal.
  virtual std::string console_socket() const = 0;

  virtual void RuntimeStarted() = 0;
  // Receives the terminal, opens the client's FIFOs (at most 30 s: DeadlineExceeded "context
  // deadline exceeded") and starts copying.
  virtual Async<absl::Status> Attach() = 0;
  // From now on Attach, also one under way, does not wait for a client that does not read its FIFOs
  // yet: Cancelled.
  virtual void GiveUpOpening() = 0;
  // Ends the process' stdin after what the client has written so far. Idempotent.
  virtual void CloseStdin() = 0;
  // TIOCSWINSZ; OK without a terminal.
  virtual absl::Status Resize(uint16_t width, uint16_t height) = 0;
  // The process is gone, and nobody has been told yet: what it has written last is handed on first,
  // since clients of containerd stop reading when they hear of an exit. A terminal's output ends
  // when what is readable has been copied.
  virtual void ProcessExited() = 0;
  // Waits until all output has been handed to the client, at most `limit`; false if that passed.
  virtual Async<bool> Drain(Clock::duration limit) = 0;
  // Ends every stream (the client reads EOF), closes every descriptor, ends a logger (SIGTERM, 12
  // s, SIGKILL) and waits for it.
  virtual Async<> Close() = 0;
};

}  // namespace feather
