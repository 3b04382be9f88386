#pragma once

#include <asio/io_context.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "runtime/io/fifo.h"

namespace feather {

// The socket over which an OCI runtime hands out a container's terminal (runc's `--console-socket`,
// docs/terminals.md there): one connection, one message, and with it exactly one descriptor, the
// master of a pseudo-terminal. It lies in a directory of its own, which goes with the object.
//
// Order: Listen, Receive once. Close may come at any time.
class ConsoleSocket : public std::enable_shared_from_this<ConsoleSocket> {
 public:
  static absl::StatusOr<std::shared_ptr<ConsoleSocket>> Listen(asio::io_context& io);

  explicit ConsoleSocket(asio::io_context& io) : io_(io) {}
  ConsoleSocket(const ConsoleSocket&) = delete;
  ConsoleSocket& operator=(const ConsoleSocket&) = delete;
  ~ConsoleSocket() { Close(); }

  const std::string& path() const { return path_; }

  // Closes the socket in any case. DeadlineExceeded if nothing has come by `deadline`; whether the
  // sender is still there does not matter.
  Async<absl::StatusOr<UniqueFd>> Receive(Clock::time_point deadline);

  // Removes socket and directory; ends Receive with Cancelled.
  void Close();

 private:
  absl::Status Bind(const std::string& parent);
  Async<absl::StatusOr<UniqueFd>> AcceptAndRead();
  // Until what is waited for is readable; an error when there is no use in trying again.
  Async<absl::Status> WaitReadable();

  asio::io_context& io_;
  std::string directory_;
  std::string path_;
  DescriptorPtr awaited_;  // the listening socket, then the connection
  bool late_ = false;
};

}  // namespace feather
