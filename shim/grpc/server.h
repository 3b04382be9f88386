#pragma once

#include <asio/io_context.hpp>
#include <memory>

#include "shim/rpc/server.h"

namespace feather::grpc {

// Serves over gRPC, whatever the methods: no generated code, and no thread but the loop's looks at
// a request. The accepting and the check of credentials are ours; gRPC gets connected sockets.
std::unique_ptr<rpc::Server> MakeServer(asio::io_context& io, const rpc::MethodTable& methods);

rpc::Transport Transport();

}  // namespace feather::grpc
