#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <memory>

#include "runtime/base/unique_fd.h"

namespace feather::rpc {

// The accepting side of every Server: hands over connected sockets (close-on-exec, non-blocking) of
// this process' own user and group, and closes those of others. Where descriptors or memory are
// short it tries again, with pauses from 1 ms to 1 s.
class Acceptor {
 public:
  using Callback = std::function<void(UniqueFd socket)>;

  Acceptor(asio::io_context& io, Callback callback);
  ~Acceptor();

  // Until Stop. The socket must be listening.
  void Serve(UniqueFd listener);
  void Stop();

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace feather::rpc
