#include "runtime/base/status.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace feather {

std::string ErrnoText(int error) {
  std::string text = strerror(error);
  // "No such file", but "RPC struct is bad".
  if (text.size() > 1 && absl::ascii_islower(static_cast<unsigned char>(text[1])))
    text[0] = absl::ascii_tolower(static_cast<unsigned char>(text[0]));
  return text;
}

absl::Status ErrnoError(int error, absl::string_view what) {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  if (error == ENOENT) code = absl::StatusCode::kNotFound;
  if (error == EEXIST) code = absl::StatusCode::kAlreadyExists;
  if (error == EACCES || error == EPERM) code = absl::StatusCode::kPermissionDenied;
  return absl::Status(code, absl::StrCat(what, ": ", ErrnoText(error)));
}

absl::Status Annotate(const absl::Status& status, absl::string_view what) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(what, ": ", status.message()));
}

}  // namespace feather
