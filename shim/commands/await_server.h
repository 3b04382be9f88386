#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// How `delete` of a container whose server is alive (shim/grpc: containerd calls it at once) learns
// that it has nothing to wait for any more, although the server goes on for other containers: by
// two files of the container's bundle, a mark that the server leaves there and a FIFO that it
// touches. (No inotify instance: there are few.)

// The server's part, once containerd has no use for the container any more. Failures are of no
// consequence but that `delete` waits for the server's end.
void ReleaseBundle(const std::string& bundle);

// The other one's. `descriptor` is at its end, by poll(2), when Released may have become true.
class ReleaseWatch {
 public:
  // `directory`: the bundle.
  static absl::StatusOr<ReleaseWatch> Start(int directory);
  int descriptor() const { return fifo_.get(); }
  bool Released() const;

 private:
  int directory_ = -1;
  UniqueFd fifo_;
};

// Waits until nobody serves at `socket` any more. False when before that the bundle is released or
// nobody reads this process' standard output any more.
bool AwaitServerEnd(const std::string& socket, const ReleaseWatch& watch);

}  // namespace feather
