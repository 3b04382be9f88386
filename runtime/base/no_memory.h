#pragma once

#include "absl/status/status.h"
#include "runtime/base/log.h"

namespace feather {

// ResourceExhausted, and a line of the log, for std::bad_alloc: a machine that does not overcommit
// refuses memory. Who has something to undo, or somebody to wake, goes on with this error.
inline absl::Status NoMemoryError() {
  LogWarning("no memory for a request");
  return absl::ResourceExhaustedError("cannot allocate memory");
}

}  // namespace feather
