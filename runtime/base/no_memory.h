#pragma once

#include "absl/status/status.h"

namespace feather {

// ResourceExhausted, and a line of the log, for std::bad_alloc: a machine that does not overcommit
// refuses memory. Who has something to undo, or somebody to wake, goes on with this error. It needs
// no memory, but for the line, which may be lost.
absl::Status NoMemoryError() noexcept;

}  // namespace feather
