#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace feather {

// The shim's command line, which containerd writes (core/runtime/v2/binary.go) in the manner of
// Go's `flag` package: "-name value" or "-name=value" with one dash or two, booleans without a
// separate value, and no flag after the first word that is none: the action.
struct Flags {
  std::string name_space;
  std::string id;
  std::string address;         // containerd's gRPC socket
  std::string publish_binary;  // containerd's executable
  std::string bundle;          // where the bundle is, if not the working directory
  std::string socket;          // the server listens here and not on descriptor 3
  std::string debug_socket;
  bool debug = false;
  bool version = false;
  bool info = false;
  bool help = false;
  std::string action;  // empty: the server
};

// The arguments after argv[0]. InvalidArgument, with Go's text, for a flag that does not exist, has
// no value or a wrong one.
absl::Status ParseFlags(const std::vector<absl::string_view>& arguments, Flags& flags);

// What `-help` prints, as does a wrong flag.
std::string UsageText(absl::string_view program);

}  // namespace feather
