#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "shim/grpc/completions.h"
#include "shim/rpc/method_table.h"

namespace feather::grpc {

// No message may be longer, in either direction: the limit of Go's gRPC, and of TTRPC.
inline constexpr size_t kMaxMessage = size_t{4} << 20;

// One call, from the request for it to its end.
struct Call {
  ::grpc::GenericServerContext context;
  ::grpc::GenericServerAsyncReaderWriter stream{&context};
  ::grpc::ByteBuffer incoming;
  // It was cancelled: by the client, its deadline or the connection's end.
  std::shared_ptr<Event> gone = std::make_shared<Event>();
};

// Runs the method's handler and answers. `answering` counts the answers that gRPC has not
// written yet.
Async<> RunCall(std::shared_ptr<Completions> completions, std::shared_ptr<Call> call,
                std::shared_ptr<const rpc::Method> method, std::shared_ptr<int> answering);
// Ends a call with an error.
Async<> RejectCall(std::shared_ptr<Completions> completions, std::shared_ptr<Call> call,
                   absl::Status status, std::shared_ptr<int> answering);

std::string ToString(const ::grpc::ByteBuffer& buffer);
::grpc::ByteBuffer ToBuffer(absl::string_view bytes);

}  // namespace feather::grpc
