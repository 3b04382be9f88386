#pragma once

#include <asio/io_context.hpp>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "shim/ttrpc/client.h"

namespace feather::test {

// How to connect to a shim that speaks gRPC: set in the programs that are linked with
// grpc_client.cc.
using ConnectFunction = Async<absl::StatusOr<std::shared_ptr<ttrpc::Client>>> (*)(
    asio::io_context& io, std::string path);
ConnectFunction& GrpcConnect();

}  // namespace feather::test
