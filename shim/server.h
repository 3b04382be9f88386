#pragma once

#include "shim/commands/flags.h"
#include "shim/rpc/server.h"

namespace feather {

// The server of a group of containers: what stays when `start` has answered. Spawned by `start` in
// the bundle of the group's first container, with the listening socket as descriptor 3 (and, with
// -debug, another as 4, kept for debugging tools), /dev/null on 0 to 2, a process group of its own
// and containerd's environment, of which it reads TTRPC_ADDRESS.
//
// Serves until Shutdown came with no container left, until SIGTERM or SIGINT (containers go on
// running; containerd then runs `delete` for them), or when it has had neither a container nor a
// connection for kIdleLimit (for kClosedLimit, if it had a connection until then, and a container
// before): a shim whose Create never came, or that containerd forgot to shut down; not with the
// answer to a Delete that its caller has not heard, who may be a containerd that is away. It
// removes its socket before it stops to listen, so that no file is left behind that nobody serves.
//
// The exit code.
int RunServer(const Flags& flags, const rpc::Transport& transport);

}  // namespace feather
