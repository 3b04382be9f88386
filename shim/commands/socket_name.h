#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace feather {

inline constexpr char kSocketDirectory[] = "/run/containerd/s";

// Where the shim of a group listens: <directory>/<hex of the SHA-256 of path.Join(grpc_address,
// name_space, group)>, containerd's own rule (pkg/shim/util_unix.go), which lets any version of any
// shim find the socket of any other. A `suffix` is one more element ("debug").
std::string SocketPath(absl::string_view directory, absl::string_view grpc_address,
                       absl::string_view name_space, absl::string_view group,
                       absl::string_view suffix = "");

// Go's path.Clean: no "//", ".", or ".." that can be resolved; "." for what is empty.
std::string CleanPath(absl::string_view path);

// Lowercase hexadecimal (FIPS 180-4).
std::string Sha256Hex(absl::string_view data);

}  // namespace feather
