#include "shim/commands/await_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "runtime/base/status.h"
#include "shim/commands/listener.h"

namespace feather {
namespace {

constexpr char kMark[] = "released";
constexpr char kFifo[] = "release";

// For a moment the listener is `start`, which has ended or is about to.
constexpr int kRetryMilliseconds = 50;

}  // namespace

// The mark comes before the touch, and there the FIFO before the look at the mark: one of the two
// is always seen.
void ReleaseBundle(const std::string& bundle) {
  UniqueFd directory(open(bundle.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return;
  UniqueFd mark(openat(directory.get(), kMark, O_CREAT | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600));
  UniqueFd touch(openat(directory.get(), kFifo, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
}

absl::StatusOr<ReleaseWatch> ReleaseWatch::Start(int directory) {
  ReleaseWatch watch;
  watch.directory_ = directory;
  // It is there if a containerd before this one has been here.
  if (mkfifoat(directory, kFifo, 0600) < 0 && errno != EEXIST) return ErrnoError(errno, "mkfifo");
  watch.fifo_.Reset(openat(directory, kFifo, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
  if (!watch.fifo_) return ErrnoError(errno, "open a FIFO of the bundle");
  return watch;
}

bool ReleaseWatch::Released() const { return faccessat(directory_, kMark, F_OK, 0) == 0; }

bool AwaitServerEnd(const std::string& socket, const ReleaseWatch& watch) {
  while (SomebodyListens(socket)) {
    if (watch.Released()) return false;
    pid_t pid = ListenerPid(socket);
    // Linux 5.3; libc has no function for it.
    UniqueFd process(pid > 0 ? static_cast<int>(syscall(SYS_pidfd_open, pid, 0)) : -1);
    // poll(2) leaves out a descriptor of -1. An error of the pipe is always told, and so is that
    // the FIFO's last writer has gone, if it had one.
    std::array<pollfd, 3> ends = {pollfd{process.get(), POLLIN, 0}, pollfd{STDOUT_FILENO, 0, 0},
                                  pollfd{watch.descriptor(), 0, 0}};
    int ready = poll(ends.data(), ends.size(), process ? -1 : kRetryMilliseconds);
    if (ready > 0 && ends[1].revents != 0) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
  return true;
}

}  // namespace feather
