#include "shim/commands/await_server.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "runtime/base/unique_fd.h"
#include "shim/commands/listener.h"

namespace feather {
namespace {

// For a moment the listener is `start`, which has ended or is about to.
constexpr int kRetryMilliseconds = 50;

}  // namespace

bool AwaitServerEnd(const std::string& socket) {
  while (SomebodyListens(socket)) {
    pid_t pid = ListenerPid(socket);
    // Linux 5.3; libc has no function for it.
    UniqueFd process(pid > 0 ? static_cast<int>(syscall(SYS_pidfd_open, pid, 0)) : -1);
    // poll(2) leaves out a descriptor of -1. An error of the pipe is always told.
    std::array<pollfd, 2> ends = {pollfd{process.get(), POLLIN, 0}, pollfd{STDOUT_FILENO, 0, 0}};
    int ready = poll(ends.data(), ends.size(), process ? -1 : kRetryMilliseconds);
    if (ready > 0 && ends[1].revents != 0) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
  return true;
}

}  // namespace feather
