#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"

namespace feather {

// The file that an OCI runtime is given with `--log F --log-format json`: one JSON object
// {"level", "msg", "time"} per line. Every command of a container appends to the same file, so that
// a command's own lines are those after the length which the file had before it. Two commands of
// one container that run at the same time cannot be told apart in there: if both fail, each may
// report the other's error. (A file for each would do, but its path is part of the command line.)

// The file's length, 0 if there is none.
off_t RuntimeLogEnd(const std::string& path);

// `msg`, trimmed, of the last line of level "error" after `offset`; empty if there is none. At most
// the last MiB is looked at; what is not such an object is passed over. An unreadable file is an
// error.
absl::StatusOr<std::string> LastRuntimeError(const std::string& path, off_t offset);

}  // namespace feather
