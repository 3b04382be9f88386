#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace feather {

// What a shim that listens says of itself.
struct FoundShim {
  absl::string_view protocol;  // "ttrpc" or "grpc"
  bool version_3 = true;       // of the task API
};

// Asks the shim that listens at `socket`, which an older containerd may have started, or another
// binary: over TTRPC, with version 3's Connect, which a server of gRPC does not understand. Waits
// two seconds at most; one that is stopped or stuck counts as `protocol` with version 3.
FoundShim ProbeShim(const std::string& socket, absl::string_view protocol);

}  // namespace feather
