#pragma once

#include <new>

#include "absl/status/status.h"

namespace feather {

// ResourceExhausted, and a line of the log, for std::bad_alloc: a machine that does not overcommit
// refuses memory. Who has something to undo, or somebody to wake, goes on with this error. It needs
// no memory, but for the line, which may be lost.
absl::Status NoMemoryError() noexcept;

// For `work` that may be left undone: NoMemoryError if it throws std::bad_alloc.
template <typename Work>
absl::Status CatchNoMemory(Work&& work) noexcept {
  try {
    work();
    return absl::OkStatus();
  } catch (const std::bad_alloc&) {
    return NoMemoryError();
  }
}

}  // namespace feather
