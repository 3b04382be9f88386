#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "shim/commands/flags.h"

namespace feather {

// What the executable does besides serving (shim/server.h). Each runs in a process of its own,
// started by containerd in the bundle's directory, and ends soon; its answer goes to stdout, and
// nothing else does: containerd reads stdout and stderr of `start` as one. An error is for the
// caller to print and to exit with 1.

// Of what containerd writes to stdin.
inline constexpr size_t kMaxInput = size_t{10} << 20;

// Finds or starts the server of the container's group and prints where it listens.
// `protocol`: the one that the server speaks, "ttrpc" or "grpc".
absl::Status RunStart(const Flags& flags, absl::string_view protocol);

// Cleans up after a server that is gone: deletes the container, unmounts its root file system,
// removes the dead socket. Prints a containerd.task.v2.DeleteResponse.
//
// containerd 2.1 and later take each server that speaks gRPC for dead as soon as they have
// connected (the connection is idle until the first call, and idle counts as closed), call this,
// and forget the task when it has ended: its pipes' last holder included. So for a server that is
// alive a child stays behind, which holds them and cleans up when the server has really ended.
absl::Status RunDelete(const Flags& flags, absl::string_view protocol);

// Prints a containerd.types.RuntimeInfo. `runtime`: this shim's name as containerd calls it.
absl::Status RunInfo(const std::string& runtime);

// For people and monitoring, not for containerd: asks the shims of this node what they know of
// themselves (proto/inspect.proto) and prints it. `words`: [-json | -prometheus]
// [-socket-directory DIRECTORY] [ID], where ID is a shim's or a container's, or how one begins.
absl::Status RunInspect(const std::vector<absl::string_view>& words);

}  // namespace feather
