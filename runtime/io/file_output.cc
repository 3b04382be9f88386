#include "runtime/io/file_output.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/string_view.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/child.h"
#include "runtime/io/fifo.h"

namespace feather {
namespace {

// Between SIGKILL and the child's end, which one that hangs in the kernel does not come to.
constexpr Clock::duration kEndLimit = std::chrono::seconds(2);

// In the child, where the two are these.
constexpr int kPipe = ChildOptions::kFirstDescriptor;
constexpr int kFile = kPipe + 1;

absl::Status CopyToFile() {
  // It waits.
  if (fcntl(kPipe, F_SETFL, 0) < 0) return ErrnoError(errno, "fcntl");
  UniqueFd file = Reopen(kFile, O_WRONLY | O_APPEND);
  if (!file) return ErrnoError(errno, "open");
  char buffer[4096];
  while (true) {
    ssize_t n = read(kPipe, buffer, sizeof buffer);
    if (n == 0) return absl::OkStatus();
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(errno, "read");
    RETURN_IF_ERROR(WriteAll(file.get(), absl::string_view(buffer, static_cast<size_t>(n))));
  }
}

}  // namespace

void FileOutput::Start(asio::io_context& io, Reaper& reaper, UniqueFd pipe, UniqueFd handle,
                       std::string path) {
  Spawn(io, Run(shared_from_this(), &reaper, std::move(pipe), std::move(handle), std::move(path)));
}

Async<> FileOutput::Run(std::shared_ptr<FileOutput> self, Reaper* reaper, UniqueFd pipe,
                        UniqueFd handle, std::string path) {
  absl::Cleanup over = [self] {
    self->child_ = 0;
    self->ended_.Set();
  };
  if (self->closed_) co_return;
  ChildOptions options;
  options.descriptors = {pipe.get(), handle.get()};
  options.started = [self, &pipe, &handle](pid_t child) {
    self->child_ = child;
    pipe.Reset();
    handle.Reset();
  };
  std::function<absl::Status()> work = CopyToFile;
  absl::Status status = co_await RunInChild(*reaper, std::move(work), std::move(options));
  self->child_ = 0;
  if (!status.ok() && !self->closed_)
    LogWarning("copying the output of a process has ended early",
               {{"path", path}, {"error", std::string(status.message())}});
}

Async<> FileOutput::Close() {
  std::shared_ptr<FileOutput> self = shared_from_this();
  closed_ = true;
  // Its pid is its own until the reaper has told of its end.
  if (child_ != 0) kill(child_, SIGKILL);
  co_await ended_.WaitUntil(Clock::now() + kEndLimit);
}

}  // namespace feather
