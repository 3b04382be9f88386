#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
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

// A child that is on its way to its program. Until it executes that, it has this process' memory
// (CLONE_VM of clone(2)), and both go on: to look for the program, to enter the working directory
// and to execute take as long as the file systems they are on, which may be for ever, and must not
// hold up a loop.
//
// In the child: every signal at its default and none blocked (also those the caller ignores,
// SIGPIPE), PDEATHSIG set and the parent checked again, exactly the named descriptors, and the
// namespaces in which this process began (runtime/base/home_namespaces.h).
class Launch {
 public:
  // No child on error. Out of processes, memory or descriptors: ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Launch>> Begin(Command command);
  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;
  // Kills the child, and waits for its end, if it has not executed its program yet. Not to be
  // called before that is known, or that it has ended: the wait may be long.
  ~Launch();

  // Watch it before the loop runs again.
  pid_t pid() const;
  // Of a child that has ended: why its program could not be executed; OK if it was. The text has
  // Go's form, `exec: "name": executable file not found in $PATH` (NotFound), `fork/exec /path:
  // permission denied`.
  absl::Status status() const;

 private:
  friend absl::StatusOr<pid_t> SpawnProcess(const Command& command);
  struct Impl;
  Launch();
  std::unique_ptr<Impl> impl_;
};

// The same, for a caller that may stand still until the child has executed (CLONE_VFORK). Returns
// its pid once exec succeeded; an error, which is the launch's, leaves no child: it has been reaped
// here.
absl::StatusOr<pid_t> SpawnProcess(const Command& command);

}  // namespace feather
