#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

// Errors are absl::Status throughout; the code is the one that goes on the wire (ttrpc and gRPC
// share absl's numbers).

// strerror as Go words it: "no such file or directory", in lower case.
std::string ErrnoText(int error);

// "<what>: <ErrnoText(error)>". ENOENT is NotFound, EEXIST AlreadyExists, EACCES and EPERM
// PermissionDenied, everything else Unknown: what Go's ttrpc makes of a bare file error.
absl::Status ErrnoError(int error, absl::string_view what);

// The same code with "<what>: " before the message.
absl::Status Annotate(const absl::Status& status, absl::string_view what);

#define FEATHER_CONCAT_INNER(a, b) a##b
#define FEATHER_CONCAT(a, b) FEATHER_CONCAT_INNER(a, b)

// Returns (co_returns) the status if it is an error. For coroutines and plain functions
// respectively.
#define RETURN_IF_ERROR(expr) \
  if (absl::Status feather_status = (expr); !feather_status.ok()) return feather_status
#define CO_RETURN_IF_ERROR(expr) \
  if (absl::Status feather_status = (expr); !feather_status.ok()) co_return feather_status
#define ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr, ret) \
  auto tmp = (expr);                               \
  if (!tmp.ok()) ret tmp.status();                 \
  lhs = *std::move(tmp)
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(FEATHER_CONCAT(feather_or_, __LINE__), lhs, expr, return )
#define CO_ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(FEATHER_CONCAT(feather_or_, __LINE__), lhs, expr, co_return )

}  // namespace feather
