#include <unistd.h>

#include "shim/grpc/server.h"
#include "shim/program.h"

int main(int argc, char** argv) {
  // Destructors of what lives as long as the process have nothing left to do.
  _exit(feather::RunProgram(argc, argv, feather::grpc::Transport()));
}
