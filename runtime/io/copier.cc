#include "runtime/io/copier.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <utility>

namespace feather {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSpliceLength = size_t{1} << 20;
// After so much the other work of the loop has its turn.
constexpr size_t kTurn = size_t{1} << 20;
// A descriptor may be reported ready and yet have nothing: a terminal that nobody has open always
// is. After so many such turns in a row there are pauses, from 1 ms doubling to about a second.
constexpr int kStalledTurns = 3;
constexpr int kMaxPauseDoublings = 10;

// So much in one pipe, which has room for 16 pieces, cannot be lines.
constexpr int kPages = 32 << 10;

bool HoldsPages(int fd) {
  int bytes = 0;
  return ioctl(fd, FIONREAD, &bytes) == 0 && bytes >= kPages;
}

}  // namespace

Copier::Copier(asio::io_context& io, DescriptorPtr source, DescriptorPtr sink, Options options)
    : source_(std::move(source)),
      sink_(std::move(sink)),
      options_(options),
      pipes_(IsFifo(source_->native_handle()) && IsFifo(sink_->native_handle())),
      pause_(io) {}

void Copier::MoveNow() {
  moved_ = 0;
  // An end, or an error, is met by Run again.
  if (!stopped_) MoveAvailable();
}

void Copier::EndWhenEmpty() {
  end_when_empty_ = true;
  asio::error_code ignored;
  source_->cancel(ignored);
  pause_.cancel();
}

void Copier::Stop() {
  stopped_ = true;
  pause_.cancel();
}

Async<> Copier::Run() {
  std::shared_ptr<Copier> self = shared_from_this();
  while (!stopped_) {
    moved_ = 0;
    Next next = MoveAvailable();
    if (next == Next::kEnd) break;
    stalled_ = moved_ > 0 ? 0 : stalled_ + 1;
    co_await WaitFor(next);
  }
  pending_ = std::string();
}

Async<> Copier::WaitFor(Next next) {
  if (stalled_ >= kStalledTurns) {
    int doublings = std::min(stalled_ - kStalledTurns, kMaxPauseDoublings);
    pause_.expires_after(std::chrono::milliseconds(1 << doublings));
    co_await pause_.async_wait(kAwait);
  } else if (next == Next::kReadable) {
    co_await source_->async_wait(Descriptor::wait_read, kAwait);
  } else {
    co_await sink_->async_wait(Descriptor::wait_write, kAwait);
  }
}

Copier::Next Copier::MoveAvailable() {
  if (!source_->is_open() || !sink_->is_open()) return Next::kEnd;
  if (!pending_.empty()) {
    Next next = Write(std::exchange(pending_, std::string()));
    if (next != Next::kNothing) return next;
  }
  if (pipes_ && !pages_) pages_ = HoldsPages(source_->native_handle());
  while (moved_ < kTurn) {
    Next next = pages_ ? MovePages() : MoveBytes();
    if (next != Next::kNothing) return next;
  }
  return Next::kReadable;
}

Copier::Next Copier::MovePages() {
  ssize_t n = splice(source_->native_handle(), nullptr, sink_->native_handle(), nullptr,
                     kSpliceLength, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (n == 0) return Next::kEnd;
  if (n > 0) {
    moved_ += static_cast<size_t>(n);
    pages_ = static_cast<size_t>(n) >= kPage;
    return Next::kNothing;
  }
  if (errno == EINTR) return Next::kNothing;
  if (errno != EAGAIN && errno != EINVAL) return Fail(errno);
  // EAGAIN may be either end's. If it is neither's, bytes are copied.
  pollfd ends[] = {{source_->native_handle(), POLLIN, 0}, {sink_->native_handle(), POLLOUT, 0}};
  poll(ends, std::size(ends), 0);
  if (ends[1].revents == 0) return Next::kWritable;
  if (ends[0].revents == 0) return end_when_empty_ ? Next::kEnd : Next::kReadable;
  pages_ = false;
  return Next::kNothing;
}

Copier::Next Copier::MoveBytes() {
  std::array<char, kPage> buffer;
  ssize_t n = read(source_->native_handle(), buffer.data(), buffer.size());
  if (n < 0 && errno == EINTR) return Next::kNothing;
  bool empty = n < 0 && errno == EAGAIN;
  bool hung_up = options_.from_terminal && (n == 0 || (n < 0 && errno == EIO));
  if (empty || hung_up) return end_when_empty_ ? Next::kEnd : Next::kReadable;
  if (n < 0) return Fail(errno);
  if (n == 0) return Next::kEnd;
  Next next = Write(absl::string_view(buffer.data(), static_cast<size_t>(n)));
  if (next != Next::kNothing || !pipes_) return next;
  pages_ = static_cast<size_t>(n) == kPage;
  // A pipe that gave less than was asked for is empty.
  return pages_ ? Next::kNothing : Next::kReadable;
}

Copier::Next Copier::Write(absl::string_view data) {
  while (!data.empty()) {
    ssize_t n = write(sink_->native_handle(), data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || (options_.to_terminal && errno == EIO))) {
      pending_.assign(data.data(), data.size());
      return Next::kWritable;
    }
    if (n < 0) return Fail(errno);
    moved_ += static_cast<size_t>(n);
    data.remove_prefix(static_cast<size_t>(n));
  }
  return Next::kNothing;
}

Copier::Next Copier::Fail(int error) {
  error_ = error;
  return Next::kEnd;
}

}  // namespace feather
