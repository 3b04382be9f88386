#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/bundle.h"

// Everything that reads JSON from a bundle or a request. What is written must be readable again and
// then stay as it is.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view json(reinterpret_cast<const char*>(data), size);
  (void)feather::ValidateId(json);
  bool valid = feather::ParseSpec(json).ok();
  absl::StatusOr<std::string> process = feather::ProcessSpec(json, true);
  absl::StatusOr<std::string> resources = feather::Resources(json);
  if (process.ok() != valid || resources.ok() != valid) abort();
  if (!valid) return 0;
  if (feather::ProcessSpec(*process, true).value_or("") != *process) abort();
  if (feather::Resources(*resources).value_or("") != *resources) abort();
  return 0;
}
