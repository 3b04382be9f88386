#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/reaper.h"

namespace feather {

// How a container's init has ended, in its bundle: if the shim is killed before containerd has
// heard of it, the `delete` command tells it instead of SIGKILL's status. The name and the form are
// those of the stock shim of containerd 2.4, so that either reads what the other has left.

// Where it cannot be written `delete` does without; an exit is not held up by that.
void NoteExit(const std::string& bundle, const Exit& exit) noexcept;
// NotFound if there is none, InvalidArgument if it does not say what it should.
absl::StatusOr<Exit> ReadNotedExit(const std::string& bundle);

}  // namespace feather
