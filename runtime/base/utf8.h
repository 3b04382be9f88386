#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace feather {

// `text` with each byte that is not part of valid UTF-8 replaced by '?'. A Go peer refuses a whole
// message for one such byte in a string, and error texts quote file names and program output.
std::string ValidUtf8(absl::string_view text);

}  // namespace feather
