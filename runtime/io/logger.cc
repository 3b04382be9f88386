#include "runtime/io/logger.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/io/fifo.h"

namespace feather {
namespace {

constexpr char kNotStarted[] = "failed to start binary process";

// Whether a byte came before EOF. DeadlineExceeded when neither comes.
Async<absl::StatusOr<bool>> ReadReadyByte(DescriptorPtr ready, Clock::time_point deadline) {
  asio::steady_timer timer(co_await asio::this_coro::executor, deadline);
  timer.async_wait([ready](const asio::error_code& error) {
    if (!error) ready->cancel();
  });
  while (true) {
    char byte;
    ssize_t n = read(ready->native_handle(), &byte, 1);
    if (n >= 0) co_return n == 1;
    if (errno != EAGAIN && errno != EINTR) co_return false;
    if (Clock::now() >= deadline)
      co_return absl::DeadlineExceededError("logging binary does not get ready");
    co_await ready->async_wait(Descriptor::wait_read, kAwait);
  }
}

}  // namespace

Async<absl::StatusOr<std::shared_ptr<Logger>>> Logger::Start(asio::io_context& io, Reaper& reaper,
                                                             StdioUri uri, Stdio::Owner owner,
                                                             StdioLimits limits) {
  auto logger = std::make_shared<Logger>(io, limits);
  // For want of memory nobody may be left to end it; the reaper has a share in it until it ends.
  absl::Cleanup forsaken = [logger] {
    for (Stream& stream : logger->streams_) stream = Stream();
    if (logger->pid_ > 0 && !logger->exited_.set()) logger->Signal(SIGTERM);
  };
  CO_RETURN_IF_ERROR(logger->OpenStreams(owner));
  CO_ASSIGN_OR_RETURN(UniqueFd ready_end, logger->Spawn(reaper, uri, owner));
  absl::StatusOr<DescriptorPtr> ready = MakeDescriptor(io, std::move(ready_end));
  absl::Status status = ready.status();
  if (status.ok()) {
    absl::StatusOr<bool> called = co_await ReadReadyByte(*ready, Clock::now() + limits.open);
    status = called.status();
    // Either the program has the other end, or there is no child any more.
    if (status.ok()) status = Annotate(logger->launch_->status(), kNotStarted);
    if (status.ok() && !*called && uri.scheme == "binary-v2")
      status = absl::UnknownError(
          "logging binary did not call ready (it may have crashed or exited prematurely)");
  }
  if (!status.ok()) {
    co_await logger->End(/*terminate=*/true);
    co_return status;
  }
  std::move(forsaken).Cancel();
  logger->launch_.reset();
  co_return logger;
}

absl::Status Logger::OpenStreams(const Stdio::Owner& owner) {
  for (Stream& stream : streams_) {
    ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
    // Opened again before it belongs to somebody else.
    stream.own = Reopen(pipe.write.get(), O_WRONLY);
    if (!stream.own) return ErrnoError(errno, "open a logger's pipe");
    RETURN_IF_ERROR(ChangeOwner(pipe.write.get(), owner.uid, owner.gid));
    stream.loggers = std::move(pipe.read);
    stream.containers = std::move(pipe.write);
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Logger::Spawn(Reaper& reaper, const StdioUri& uri,
                                       const Stdio::Owner& owner) {
  ASSIGN_OR_RETURN(Pipe ready, MakePipe());
  RETURN_IF_ERROR(SetNonBlocking(ready.read.get()));
  Command command;
  command.argv.push_back(uri.path);
  for (const auto& [key, value] : uri.query) {
    command.argv.push_back(key);
    command.argv.push_back(value);
  }
  container_ = owner.id;
  command.env = {absl::StrCat("CONTAINER_ID=", owner.id),
                 absl::StrCat("CONTAINER_NAMESPACE=", owner.name_space)};
  command.fds = {
      {streams_[0].loggers.get(), 3}, {streams_[1].loggers.get(), 4}, {ready.write.get(), 5}};
  // A logger outlives a shim that is killed: its container may have more to say.
  command.die_with_parent = false;
  absl::StatusOr<std::unique_ptr<Launch>> launch = Launch::Begin(std::move(command));
  if (!launch.ok()) return Annotate(launch.status(), kNotStarted);
  launch_ = *std::move(launch);
  pid_ = launch_->pid();
  reaper.Watch(pid_, [self = shared_from_this()](const Exit&) { self->exited_.Set(); });
  for (Stream& stream : streams_) stream.loggers.Reset();
  return std::move(ready.read);
}

// Nothing more comes on a stream that has been read: it ends, since a logger may read one to its
// end before it looks at the other.
bool Logger::EndWhatIsRead() {
  bool all = true;
  for (Stream& stream : streams_) {
    int unread = 0;
    if (stream.own && ioctl(stream.own.get(), FIONREAD, &unread) == 0 && unread > 0)
      all = false;
    else
      stream.own.Reset();
  }
  return all;
}

// A pipe does not tell its writer that it has been emptied, so it is asked now and then.
Async<bool> Logger::WaitUntilRead(Clock::time_point deadline) {
  std::shared_ptr<Logger> self = shared_from_this();
  Clock::duration pause = std::chrono::milliseconds(1);
  while (!EndWhatIsRead() && !exited_.set()) {
    Clock::time_point now = Clock::now();
    if (now >= deadline) co_return false;
    co_await exited_.WaitUntil(std::min(now + pause, deadline));
    pause = std::min<Clock::duration>(pause * 2, std::chrono::milliseconds(50));
  }
  co_return true;
}

// It may have become another user's.
void Logger::Signal(int signal) {
  RaisedCapabilities raised({CAP_KILL});
  kill(pid_, signal);
}

Async<> Logger::End(bool terminate) {
  std::shared_ptr<Logger> self = shared_from_this();
  for (Stream& stream : streams_) stream = Stream();
  if (pid_ <= 0 || exited_.set()) co_return;
  if (terminate) Signal(SIGTERM);
  bool ended = co_await exited_.WaitUntil(Clock::now() + limits_.logger_end);
  if (ended) co_return;
  Signal(SIGKILL);
  ended = co_await exited_.WaitUntil(Clock::now() + limits_.logger_end);
  if (!ended)
    LogWarning("a logging binary survives SIGKILL",
               {{"pid", absl::StrCat(pid_)}, {"id", container_}});
}

LoggerStdio::LoggerStdio(std::shared_ptr<Logger> logger)
    : logger_(std::move(logger)),
      out_(logger_->TakeContainersEnd(0)),
      err_(logger_->TakeContainersEnd(1)) {}

void LoggerStdio::RuntimeStarted() {
  out_.Reset();
  err_.Reset();
}

Async<bool> LoggerStdio::Drain(Clock::duration limit) {
  return logger_->WaitUntilRead(Clock::now() + limit);
}

Async<> LoggerStdio::Close() {
  RuntimeStarted();
  return logger_->End(/*terminate=*/true);
}

}  // namespace feather
