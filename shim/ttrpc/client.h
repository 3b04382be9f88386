#pragma once

#include <asio/io_context.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"

namespace feather::ttrpc {

// The caller's end of a streaming call. Dropping it abandons the call (the peer is not told: the
// protocol has no message for that). One Receive at a time.
class ClientStream {
 public:
  virtual ~ClientStream() = default;
  // Waits while the peer reads too slowly. Only where the client streams, and not after CloseSend.
  virtual Async<absl::Status> Send(std::string message) = 0;
  // No further message follows.
  virtual absl::Status CloseSend() = 0;
  // The next message; nullopt after the last one. Where the server does not stream, its one
  // response and then nullopt. Errors as with Client::Call, and ResourceExhausted when messages
  // came faster than they were received here.
  virtual Async<absl::StatusOr<std::optional<std::string>>> Receive() = 0;
};

// A connection to a unix socket; `path`: absolute, or "unix://" before it. InvalidArgument when
// nobody ever could listen there, PermissionDenied when the kernel does not let us,
// DeadlineExceeded when the listener has accepted nobody for 5 seconds, Unavailable when there is
// none.
Async<absl::StatusOr<UniqueFd>> ConnectSocket(std::string path);

// One TTRPC connection as a client, with any number of calls in flight. Dropping it closes the
// connection.
class Client {
 public:
  // By ConnectSocket.
  static Async<absl::StatusOr<std::shared_ptr<Client>>> Connect(asio::io_context& io,
                                                                std::string path);
  // On a connected stream socket.
  static std::shared_ptr<Client> FromSocket(asio::io_context& io, UniqueFd socket);
  virtual ~Client() = default;

  using Metadata = std::vector<std::pair<std::string, std::string>>;

  // A unary call. Errors: the peer's status; DeadlineExceeded when `timeout` passes; Unavailable
  // "ttrpc: closed" when the connection has ended, whether or not the peer saw the request.
  virtual Async<absl::StatusOr<std::string>> Call(
      std::string service, std::string method, std::string request,
      std::optional<Clock::duration> timeout = std::nullopt, Metadata metadata = {}) = 0;

  struct StreamOptions {
    bool client_streams = false;
    bool server_streams = false;
    // The one request where the client does not stream; otherwise usually empty.
    std::string request = {};
    // For the whole call.
    std::optional<Clock::duration> timeout = std::nullopt;
    Metadata metadata = {};
  };
  // Starts a streaming call.
  virtual Async<absl::StatusOr<std::shared_ptr<ClientStream>>> Open(std::string service,
                                                                    std::string method,
                                                                    StreamOptions options) = 0;

  // The connection has ended; every Call fails.
  virtual bool closed() const = 0;
  virtual void Close() = 0;
};

}  // namespace feather::ttrpc
