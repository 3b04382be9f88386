#include <unistd.h>

#include "shim/program.h"
#include "shim/ttrpc/server.h"

int main(int argc, char** argv) {
  // Destructors of what lives as long as the process have nothing left to do.
  _exit(feather::RunProgram(argc, argv, feather::ttrpc::Transport()));
}
