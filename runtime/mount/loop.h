#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// A loop device (loop(4)) with a file behind it, which the kernel frees when the last user has
// gone: a mount of it, or `fd`.
struct LoopDevice {
  std::string path;
  UniqueFd fd;
};

// Takes a free device; another process may take it first, which is tried again.
absl::StatusOr<LoopDevice> AttachLoop(const std::string& file, bool read_only, bool direct_io);

}  // namespace feather
