#include "runtime/io/fifo.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/descriptor.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

// While it lives what is allocated for a pipe, or for a FIFO by whoever opens it first, has the
// default capacity also if the user has many (fs.pipe-user-pages-soft).
class DefaultCapacity {
  RaisedCapabilities raised_{CAP_SYS_RESOURCE, CAP_SYS_ADMIN};
};

}  // namespace

absl::StatusOr<DescriptorPtr> MakeDescriptor(asio::io_context& io, UniqueFd fd) {
  auto descriptor = std::make_shared<Descriptor>(io);
  RETURN_IF_ERROR(Assign(*descriptor, std::move(fd)));
  return descriptor;
}

absl::StatusOr<Pipe> MakePipe() {
  std::array<int, 2> ends;
  DefaultCapacity default_capacity;
  if (pipe2(ends.data(), O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  Pipe pipe;
  pipe.read.Reset(ends[0]);
  pipe.write.Reset(ends[1]);
  return pipe;
}

absl::Status SetNonBlocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return ErrnoError(errno, "set O_NONBLOCK");
  return absl::OkStatus();
}

absl::Status ChangeOwner(int fd, uid_t uid, gid_t gid) {
  RaisedCapabilities raised({CAP_CHOWN});
  return fchown(fd, uid, gid) < 0 ? ErrnoError(errno, "chown a pipe") : absl::OkStatus();
}

absl::StatusOr<UniqueFd> OpenHandle(const std::string& path) {
  RaisedCapabilities raised({CAP_DAC_OVERRIDE});
  UniqueFd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd) return ErrnoError(errno, absl::StrCat("open ", path));
  return fd;
}

UniqueFd Reopen(int fd, int flags) {
  std::string path = absl::StrCat("/proc/self/fd/", fd);
  RaisedCapabilities raised({CAP_DAC_OVERRIDE});
  DefaultCapacity default_capacity;
  return UniqueFd(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
}

bool IsFifo(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode);
}

bool IsRegularFile(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

bool HasReader(int fd) { return Reopen(fd, O_WRONLY).valid(); }

Async<absl::StatusOr<UniqueFd>> OpenFifoWriter(int handle, Clock::time_point deadline,
                                               Event* cancelled) {
  Clock::duration pause = std::chrono::milliseconds(1);
  while (true) {
    UniqueFd writer = Reopen(handle, O_WRONLY);
    if (writer) co_return std::move(writer);
    if (errno != ENXIO && errno != EINTR) co_return absl::UnknownError(ErrnoText(errno));
    Clock::time_point now = Clock::now();
    if (now >= deadline) co_return absl::DeadlineExceededError("context deadline exceeded");
    bool stop = co_await cancelled->WaitUntil(std::min(now + pause, deadline));
    if (stop) co_return absl::CancelledError("the streams have been closed");
    pause = std::min<Clock::duration>(pause * 2, std::chrono::milliseconds(50));
  }
}

}  // namespace feather
