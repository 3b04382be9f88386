#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "shim/rpc/method_table.h"

namespace feather::rpc {

// Run a method's handler. An exception out of it is a bug: logged, and answered with Internal; but
// for want of memory, which is ResourceExhausted.
Async<absl::StatusOr<std::string>> RunUnary(std::shared_ptr<const Method> method,
                                            CallContext context, std::string request);
absl::StatusOr<std::string> RunImmediate(const Method& method, std::string request);
Async<absl::StatusOr<std::string>> RunStream(std::shared_ptr<const Method> method,
                                             CallContext context,
                                             std::shared_ptr<ServerStream> stream);

}  // namespace feather::rpc
