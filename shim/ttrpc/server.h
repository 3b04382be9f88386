#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <functional>
#include <memory>

#include "runtime/base/unique_fd.h"
#include "shim/rpc/method_table.h"

namespace feather::ttrpc {

// Serves a method table over TTRPC (containerd's RPC for shims; wire protocol: contract section 2,
// ttrpc's PROTOCOL.md) on a listening unix socket. Peers whose uid and gid (SO_PEERCRED) are not
// this process' effective ones are closed before a byte is read.
class Server {
 public:
  // `methods` must outlive the server.
  Server(asio::io_context& io, const rpc::MethodTable& methods);
  ~Server();

  // Accepts from now on, until Stop. The socket must be listening.
  void Serve(UniqueFd listener);
  // Accepts no more. Open connections go on; Close ends them at once.
  void Stop();
  void Close();

  size_t connections() const;
  // Called whenever the last open connection has ended.
  void OnIdle(std::function<void()> callback);

  // Waits until everything answered so far has been written, or `limit` passed.
  Async<> Flush(Clock::duration limit);

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace feather::ttrpc
