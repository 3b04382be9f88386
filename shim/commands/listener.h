#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// The listening unix sockets of shims. A socket exists under its name only while it listens, but
// for the moment between bind(2) and listen(2): during that its maker holds a shared lock on the
// directory, so that nobody takes it for what a killed shim has left. Made 0600, in a directory
// that is made 0700. One that is there must be this user's or root's, and nobody else's to write
// into: PermissionDenied. Who may read it can hold its lock for ever, which is not waited for:
// DeadlineExceeded.

// How long a start waits for the lock, each time it needs it.
inline constexpr std::chrono::seconds kLockLimit(10);
// The same for a removal: containerd gives a deletion 5 s, most of which are over by then. The next
// start replaces what is left.
inline constexpr std::chrono::milliseconds kRemovalLockLimit(200);

// A socket that listens at `path`, or an invalid descriptor when another process serves there (a
// busy one, with its backlog full, included). What a dead process left there is replaced.
absl::StatusOr<UniqueFd> ListenOrFind(const std::string& path);

// A socket that listens at `path`, whatever was there.
absl::StatusOr<UniqueFd> ListenAnew(const std::string& path);

// Removes the socket file at `path` if nobody listens there. Anything but a socket stays.
absl::Status RemoveDeadSocket(const std::string& path);

// Never waits: a listener with a full backlog is EAGAIN. Only the kernel's word that nobody listens
// counts as such: out of descriptors or memory, the socket of a living shim must not be removed.
bool SomebodyListens(const std::string& path);

// The process that has last called listen(2) for the socket at `path`; 0 for none.
pid_t ListenerPid(const std::string& path);

// The path that a socket of this process is bound to; empty for none.
std::string BoundPath(int socket);

}  // namespace feather
