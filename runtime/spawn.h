#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace feather {

// A program to run as a child. Everything is named; nothing else is inherited.
struct Command {
  // argv[0] is the executable: a path, or a name looked up in the PATH of `env`.
  std::vector<std::string> argv;
  std::vector<std::string> env;
  // (descriptor here, descriptor in the child). 0, 1 and 2 are /dev/null where not named. The
  // descriptors stay the caller's.
  std::vector<std::pair<int, int>> fds;
  // Empty: the caller's.
  std::string working_directory;
  // SIGKILL to the child when this process ends (PR_SET_PDEATHSIG).
  bool die_with_parent = true;
};

// This process' environment without NOTIFY_SOCKET, which is what an OCI runtime gets.
std::vector<std::string> InheritedEnvironment();

// Forks and executes. Returns the child's pid once exec succeeded; a failed exec (reported through
// a close-on-exec pipe) is an error whose text has Go's form, `exec: "name": executable file not
// found in $PATH` (NotFound), `fork/exec /path: permission denied`, and then leaves no child for
// the caller: the Reaper takes the failed one. In the child: signals at their defaults and none
// blocked (also those the caller ignores, SIGPIPE), PDEATHSIG set and the parent checked again,
// exactly the named descriptors.
absl::StatusOr<pid_t> SpawnProcess(const Command& command);

}  // namespace feather
