#pragma once

#include <asio/io_context.hpp>
#include <cstddef>
#include <functional>
#include <memory>

#include "absl/strings/string_view.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "shim/rpc/method_table.h"

namespace feather::rpc {

// Serves a method table on a listening unix socket, whatever the protocol. Peers whose uid and gid
// (SO_PEERCRED) are not this process' effective ones are closed before a byte is read.
class Server {
 public:
  virtual ~Server() = default;

  // Accepts from now on, until Stop. The socket must be listening.
  virtual void Serve(UniqueFd listener) = 0;
  // Accepts no more. Open connections go on.
  virtual void Stop() = 0;

  virtual size_t connections() const = 0;
  // Called whenever the last open connection has ended.
  virtual void OnIdle(std::function<void()> callback) = 0;

  // Waits until everything answered so far has been written, or `limit` passed.
  virtual Async<> Flush(Clock::duration limit) = 0;
};

// What one program of feather's has and another has not.
struct Transport {
  absl::string_view protocol;  // as `start` tells it to containerd: "ttrpc" or "grpc"
  // The table must outlive the server.
  std::unique_ptr<Server> (*make_server)(asio::io_context& io, const MethodTable& methods);
};

}  // namespace feather::rpc
