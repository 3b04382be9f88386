#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/reaper.h"

namespace feather {

struct ChildOptions {
  static constexpr int kFirstDescriptor = 4;
  // What the child has as descriptors kFirstDescriptor and up. They stay the caller's.
  std::vector<int> descriptors;
  // Called with its pid when it has begun; may be empty.
  std::function<void(pid_t)> started;
};

// Runs `work`, which may block for as long as it likes, in a forked child of this (single-threaded)
// process, and waits for it on the loop. The status comes back with its code and text. The child
// has none of our descriptors but 0-2 and those in `options`, signals at their defaults, and may
// change its working directory and wait for children of its own.
//
// The child is killed when this process ends: containerd then clears the bundle up and may start
// another container with the same id and directory, in which a straggler must neither mount nor
// unmount anything. See LetLive for work that must not be left half done.
Async<absl::Status> RunInChild(Reaper& reaper, std::function<absl::Status()> work,
                               ChildOptions options = ChildOptions());

// In such a child: keeps it from being killed with its parent while this lives, and kills it then
// if the parent has gone. For few and short system calls.
class LetLive {
 public:
  LetLive();
  LetLive(const LetLive&) = delete;
  LetLive& operator=(const LetLive&) = delete;
  ~LetLive();
};

// In such a child: runs a program (argv[0] is looked up in PATH) and waits for it. The error has
// its exit status and what it wrote to its standard output and error.
absl::Status RunProgram(const std::vector<std::string>& argv);

}  // namespace feather
