#pragma once

#include <asio/posix/stream_descriptor.hpp>

#include "absl/status/status.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// Hands `fd` over to `to`, which waits for it on the loop. A regular file, which epoll(7) does not
// take, is accepted too; its waits end at once. After an error `fd` is closed. (Asio's constructor
// would throw instead, and leave the descriptor open.)
absl::Status Assign(asio::posix::stream_descriptor& to, UniqueFd fd);

}  // namespace feather
