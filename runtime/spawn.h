#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace feather {

// A program to run as a child. Everything is named; nothing else is inherited.
struct Command {
  // argv[0] is the executable: a path, or a name looked up in the PATH of `env` (only absolute
  // directories of it).
  std::vector<std::string> argv;
  std::vector<std::string> env;
  // (descriptor here, descriptor in the child). 0, 1 and 2 are /dev/null where not named. The
  // descriptors stay the caller's.
  std::vector<std::pair<int, int>> fds;
  // Empty: the caller's.
  std::string working_directory;
  // SIGKILL to the child when this process ends (PR_SET_PDEATHSIG).
  bool die_with_parent = true;
  // A process group of its own; else the caller's.
  bool new_process_group = false;
};

// This process' environment without NOTIFY_SOCKET, which is what an OCI runtime gets.
std::vector<std::string> InheritedEnvironment();

// Creates a child with vfork semantics (one process, one small stack, no copied page tables: this
// process stands still until the exec) and executes. Returns its pid once exec succeeded; Watch it
// before the loop runs again.
//
// A failed exec is an error whose text has Go's form, `exec: "name": executable file not found in
// $PATH` (NotFound), `fork/exec /path: permission denied`, and leaves no child: it has been reaped
// here. Out of processes, memory or descriptors: ResourceExhausted.
//
// In the child: every signal at its default and none blocked (also those the caller ignores,
// SIGPIPE), PDEATHSIG set and the parent checked again, exactly the named descriptors, and the
// namespaces in which this process began (runtime/base/home_namespaces.h).
absl::StatusOr<pid_t> SpawnProcess(const Command& command);

}  // namespace feather
