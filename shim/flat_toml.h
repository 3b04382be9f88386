#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

struct TomlEntry {
  std::string key;
  std::variant<bool, int64_t, std::string> value;
};

// The entries of a TOML 1.0 text (https://toml.io/en/v1.0.0) in their order, each key once. Flat:
// what is not a string, an integer or a boolean (tables, dotted keys, arrays, dates, floats) is
// refused as what is no TOML is, InvalidArgument, and the message begins with "line N: ". Line
// breaks in strings stay as they are written.
absl::StatusOr<std::vector<TomlEntry>> ParseFlatToml(absl::string_view text);

}  // namespace feather
