#pragma once

#include <sys/types.h>

#include <array>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "runtime/io/stdio.h"
#include "runtime/io/stdio_uri.h"
#include "runtime/reaper.h"
#include "runtime/spawn.h"

namespace feather {

// A logging binary (contract section 5.5; containerd's package core/runtime/v2/logging): a child
// that reads a process' stdout from its descriptor 3 and its stderr from 4, and says that it is
// ready by closing 5 (`binary-v2`: by writing a byte to it first).
//
// Order: Start, which returns when the logger is ready; TakeContainersEnd or TakeOwnEnd for each of
// the streams; End.
class Logger : public std::enable_shared_from_this<Logger> {
 public:
  static Async<absl::StatusOr<std::shared_ptr<Logger>>> Start(asio::io_context& io, Reaper& reaper,
                                                              StdioUri uri, Stdio::Owner owner,
                                                              StdioLimits limits);
  Logger(asio::io_context& io, StdioLimits limits) : io_(io), limits_(limits) {}
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  // Writing ends of stream 0 (stdout) and 1 (stderr): the one for the process, which blocks, and
  // the one that keeps the logger from reading EOF until End, which does not block. They share no
  // open file description.
  UniqueFd TakeContainersEnd(int stream) { return std::move(streams_[stream].containers); }
  UniqueFd TakeOwnEnd(int stream) { return std::move(streams_[stream].own); }

  // Once the process has ended: waits until the logger has read everything that was written, or has
  // gone. Each stream ends as soon as it has been read.
  Async<bool> WaitUntilRead(Clock::time_point deadline);

  // Closes both streams and waits for the logger's end, SIGKILL after the limit. With `terminate`
  // it gets SIGTERM at once; without, the EOF has to do.
  Async<> End(bool terminate);

 private:
  struct Stream {
    UniqueFd loggers;
    UniqueFd containers;
    UniqueFd own;
  };
  absl::Status OpenStreams(const Stdio::Owner& owner);
  absl::StatusOr<UniqueFd> Spawn(Reaper& reaper, const StdioUri& uri, const Stdio::Owner& owner);
  bool EndWhatIsRead();
  void Signal(int signal);

  asio::io_context& io_;
  const StdioLimits limits_;
  std::array<Stream, 2> streams_;
  std::string container_;
  std::unique_ptr<Launch> launch_;  // until it is ready
  pid_t pid_ = 0;
  Event exited_;
};

// A process whose output goes straight into a logger's pipes. Its stdin is /dev/null.
class LoggerStdio : public Stdio, public std::enable_shared_from_this<LoggerStdio> {
 public:
  explicit LoggerStdio(std::shared_ptr<Logger> logger);

  std::array<int, 3> child_fds() const override { return {-1, out_.get(), err_.get()}; }
  std::string console_socket() const override { return ""; }
  void RuntimeStarted() override;
  Async<absl::Status> Attach() override { co_return absl::OkStatus(); }
  void GiveUpOpening() override {}
  void CloseStdin() override {}
  absl::Status Resize(uint16_t, uint16_t) override { return absl::OkStatus(); }
  void ProcessExited() override {}
  Async<bool> Drain(Clock::duration limit) override;
  Async<> Close() override;

 private:
  std::shared_ptr<Logger> logger_;
  UniqueFd out_;
  UniqueFd err_;
};

}  // namespace feather
