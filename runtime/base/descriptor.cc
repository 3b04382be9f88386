#include "runtime/base/descriptor.h"

#include "runtime/base/status.h"

namespace feather {

absl::Status Assign(asio::posix::stream_descriptor& to, UniqueFd fd) {
  asio::error_code error;
  to.assign(fd.get(), error);
  if (error) return ErrnoError(error.value(), "poll a descriptor");
  static_cast<void>(fd.Release());
  return absl::OkStatus();
}

}  // namespace feather
