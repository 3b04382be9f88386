#include "shim/rpc/run.h"

#include <exception>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"

namespace feather::rpc {
namespace {

absl::Status BugStatus(const std::exception& error) {
  LogError("exception out of a request handler", {{"error", error.what()}});
  return absl::InternalError(absl::StrCat("exception: ", error.what()));
}

}  // namespace

Async<absl::StatusOr<std::string>> RunUnary(std::shared_ptr<const Method> method,
                                            CallContext context, std::string request) {
  absl::StatusOr<std::string> result = std::string();
  try {
    result = co_await method->unary(std::move(context), std::move(request));
  } catch (const std::bad_alloc&) {
    result = NoMemoryError();
  } catch (const std::exception& error) {
    result = BugStatus(error);
  }
  co_return result;
}

absl::StatusOr<std::string> RunImmediate(const Method& method, std::string request) {
  try {
    return method.immediate(std::move(request));
  } catch (const std::bad_alloc&) {
    return NoMemoryError();
  } catch (const std::exception& error) {
    return BugStatus(error);
  }
}

Async<absl::StatusOr<std::string>> RunStream(std::shared_ptr<const Method> method,
                                             CallContext context,
                                             std::shared_ptr<ServerStream> stream) {
  absl::StatusOr<std::string> result = std::string();
  try {
    result = co_await method->stream(std::move(context), std::move(stream));
  } catch (const std::bad_alloc&) {
    result = NoMemoryError();
  } catch (const std::exception& error) {
    result = BugStatus(error);
  }
  co_return result;
}

}  // namespace feather::rpc
