#pragma once

#include "shim/rpc/server.h"

namespace feather {

// All that a shim's executable does, by its command line: the commands and the server. The exit
// code.
int RunProgram(int argc, char** argv, const rpc::Transport& transport);

}  // namespace feather
