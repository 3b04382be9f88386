#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

// A stream of a request as Go's net/url would take it apart (RFC 3986), which is what containerd's
// clients build: `binary:///usr/bin/logger?key=value`. A plain path has no scheme.
struct StdioUri {
  std::string scheme;  // lower case, empty for a plain path
  std::string path;    // percent-decoded
  // In the given order; of a repeated key the first.
  std::vector<std::pair<std::string, std::string>> query;
};

// InvalidArgument for a broken escape in the path; a broken pair of the query is left out.
absl::StatusOr<StdioUri> ParseStdioUri(absl::string_view text);

}  // namespace feather
