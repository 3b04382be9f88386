#pragma once

#include <sys/types.h>

#include <asio/posix/stream_descriptor.hpp>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// A descriptor whose readiness the loop reports. Two directions of one terminal share it.
using Descriptor = asio::posix::stream_descriptor;
using DescriptorPtr = std::shared_ptr<Descriptor>;

// Registers `fd` with the loop. A regular file is accepted too; its waits end at once.
absl::StatusOr<DescriptorPtr> MakeDescriptor(asio::io_context& io, UniqueFd fd);

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

// pipe2(2) with O_CLOEXEC; both ends block.
absl::StatusOr<Pipe> MakePipe();

absl::Status SetNonBlocking(int fd);

// Also with no right to do so but the capability.
absl::Status ChangeOwner(int fd, uid_t uid, gid_t gid);

// An O_PATH descriptor: it names the file from now on, even when that is renamed or removed.
absl::StatusOr<UniqueFd> OpenHandle(const std::string& path);

// A new open file description of what `fd` (which may be an O_PATH handle) refers to, by way of
// /proc/self/fd; O_CLOEXEC, O_NONBLOCK and O_NOCTTY are added. Never waits. -1 and errno on
// failure. Both open what belongs to other users: a client need not be root.
UniqueFd Reopen(int fd, int flags);

bool IsFifo(int fd);
bool IsRegularFile(int fd);

// Whether anybody holds the FIFO `fd` open for reading, by the kernel's ENXIO (fifo(7)).
bool HasReader(int fd);

// Opens the writing end of the FIFO behind `handle` as soon as somebody has it open for reading:
// asked again after 1 ms, doubling to 50 ms. DeadlineExceeded "context deadline exceeded" when
// nobody has come; Cancelled when `cancelled` was set, which must outlive the call.
Async<absl::StatusOr<UniqueFd>> OpenFifoWriter(int handle, Clock::time_point deadline,
                                               Event* cancelled);

}  // namespace feather
