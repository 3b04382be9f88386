#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <memory>

#include "runtime/base/unique_fd.h"
#include "shim/rpc/server.h"

namespace feather::ttrpc {

// Serves over TTRPC (containerd's RPC for shims; wire protocol: contract section 2, ttrpc's
// PROTOCOL.md).
class Server : public rpc::Server {
 public:
  // `methods` must outlive the server.
  Server(asio::io_context& io, const rpc::MethodTable& methods);
  ~Server() override;

  void Serve(UniqueFd listener) override;
  void Stop() override;
  // Ends open connections, too, at once.
  void Close();
  size_t connections() const override;
  void OnIdle(std::function<void()> callback) override;
  Async<> Flush(Clock::duration limit) override;

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

rpc::Transport Transport();

}  // namespace feather::ttrpc
