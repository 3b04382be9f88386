#include "runtime/base/no_memory.h"

#include "runtime/base/log.h"

namespace feather {
namespace {

// Copies share its text.
const absl::Status& TheError() {
  static const auto* error =
      new absl::Status(absl::StatusCode::kResourceExhausted, "cannot allocate memory");
  return *error;
}
[[maybe_unused]] const absl::Status& g_made_early = TheError();

}  // namespace

absl::Status NoMemoryError() noexcept {
  LogWarning("no memory for a request");
  return TheError();
}

}  // namespace feather
