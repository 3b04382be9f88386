#pragma once

#include <asio/io_context.hpp>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"

namespace feather::ttrpc {

// One TTRPC connection as a client, with any number of calls in flight.
class Client {
 public:
  // `path`: a unix socket path, or "unix://" before it. Unavailable when nobody listens.
  static Async<absl::StatusOr<std::shared_ptr<Client>>> Connect(asio::io_context& io,
                                                                std::string path);
  virtual ~Client() = default;

  using Metadata = std::vector<std::pair<std::string, std::string>>;

  // A unary call. Errors: the peer's status; DeadlineExceeded when `timeout` passes; Unavailable
  // "ttrpc: closed" when the connection has ended, whether or not the peer saw the request.
  virtual Async<absl::StatusOr<std::string>> Call(
      std::string service, std::string method, std::string request,
      std::optional<Clock::duration> timeout = std::nullopt, Metadata metadata = {}) = 0;
  // The connection has ended; every Call fails.
  virtual bool closed() const = 0;
  virtual void Close() = 0;
};

}  // namespace feather::ttrpc
