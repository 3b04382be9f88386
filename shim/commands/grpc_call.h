#pragma once

#include <asio/io_context.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// One unary gRPC call on a connection of its own, without gRPC's libraries: they would double the
// program and bring it threads, for `inspect` alone. It sends a request of less than 16 KiB and
// takes in the answer's message; `path` is "/package.Service/Method", of less than 127 bytes.
// Errors: DeadlineExceeded when `limit` passes, Unavailable for all else: the peer is no server of
// gRPC, or it answers with an error (whose status is not read), with frames of more than 16 KiB or
// a message of more than 4 MiB.
Async<absl::StatusOr<std::string>> GrpcCall(asio::io_context& io, UniqueFd socket, std::string path,
                                            std::string request, Clock::duration limit);

}  // namespace feather
