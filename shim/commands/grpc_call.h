#pragma once

#include <asio/io_context.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/base/async.h"

namespace feather {

// One unary gRPC call, without gRPC's libraries: a connection, a request of less than 16 KiB, its
// answer's message. `path` is "/package.Service/Method", of less than 127 bytes. Errors:
// DeadlineExceeded when `limit` passes, Unavailable for all else: nobody listens, it is no server
// of gRPC, it answers with an error (whose status is not read), or with more than 16 MiB.
Async<absl::StatusOr<std::string>> GrpcCall(asio::io_context& io, std::string socket,
                                            std::string path, std::string request,
                                            Clock::duration limit);

}  // namespace feather
