#include "shim/ttrpc/connection.h"

#include <google/protobuf/message_lite.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <tuple>
#include <utility>

#include "absl/cleanup/cleanup.h"

namespace feather::ttrpc {

Connection::Connection(asio::io_context& io, UniqueFd socket) : io_(io), socket_(io) {
  asio::error_code error;
  int fd = socket.Release();
  socket_.assign(asio::local::stream_protocol(), fd, error);
  if (error) ::close(fd);  // the reader's first operation then ends the connection
}

void Connection::Start() { Spawn(io_, ReadOrClose(shared_from_this())); }

void Connection::Close() {
  if (closed()) return;
  gone_->Set();
  asio::error_code ignored;
  socket_.close(ignored);
  queue_ = {};
  queued_ = head_ = offset_ = 0;
  if (progress_) std::exchange(progress_, nullptr)->Set();
  OnClosed();
}

// Without memory for a frame nobody would read the connection any more: its peer is to know.
Async<> Connection::ReadOrClose(std::shared_ptr<Connection> self) {
  try {
    co_await Read(self);
  } catch (...) {
    self->Close();
    throw;
  }
}

Async<> Connection::Read(std::shared_ptr<Connection> self) {
  // Most requests fit.
  std::array<char, 512> buffer;
  std::vector<Frame> frames;
  while (!self->closed()) {
    if (self->congested()) co_await WaitUncongested(self, std::nullopt);
    if (self->closed()) break;
    auto [space, size] = self->decoder_.PayloadSpace();
    asio::mutable_buffer target(space, size);
    if (size == 0) target = asio::buffer(buffer);
    auto [error, count] = co_await self->socket_.async_read_some(target, kAwait);
    if (error || self->closed()) break;
    if (size == 0)
      self->decoder_.Feed(absl::string_view(buffer.data(), count), frames);
    else
      self->decoder_.PayloadRead(count, frames);
    if (count == target.size()) self->ReadRest(frames);
    if (!frames.empty()) co_await Deliver(self, std::exchange(frames, {}));
  }
  self->Close();
}

void Connection::ReadRest(std::vector<Frame>& frames) {
  std::array<char, 2048> buffer;
  for (int pieces = 0; frames.empty() && pieces < 16; ++pieces) {
    auto [space, size] = decoder_.PayloadSpace();
    const bool direct = size > 0;
    if (!direct) std::tie(space, size) = std::pair(buffer.data(), buffer.size());
    // The end of the connection, or an error, is left to the reader.
    const ssize_t result = recv(socket_.native_handle(), space, size, MSG_DONTWAIT);
    const size_t count = result < 0 ? 0 : static_cast<size_t>(result);
    if (direct)
      decoder_.PayloadRead(count, frames);
    else
      decoder_.Feed(absl::string_view(buffer.data(), count), frames);
    if (count < size) return;
  }
}

Async<> Connection::Deliver(std::shared_ptr<Connection> self, std::vector<Frame> frames) {
  for (Frame& frame : frames) {
    if (self->congested()) co_await WaitUncongested(self, std::nullopt);
    while (!self->closed()) {
      std::shared_ptr<Inbox> full = self->OnFrame(frame);
      if (!full) break;
      bool room = co_await Inbox::WaitForRoom(full);
      if (room) continue;
      self->OnOverflow(frame.header.stream);
      break;
    }
  }
}

void Connection::Send(uint32_t stream, uint8_t type, uint8_t flags, absl::string_view payload) {
  if (!closed()) Enqueue(EncodeFrame(stream, type, flags, payload));
}

void Connection::SendMessage(uint32_t stream, uint8_t type, uint8_t flags,
                             const google::protobuf::MessageLite& message) {
  if (closed()) return;
  size_t size = message.ByteSizeLong();
  std::string bytes(kHeaderSize + size, '\0');
  EncodeHeader(
      {.length = static_cast<uint32_t>(size), .stream = stream, .type = type, .flags = flags},
      bytes.data());
  message.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(bytes.data() + kHeaderSize));
  Enqueue(std::move(bytes));
}

void Connection::Enqueue(std::string bytes) {
  const size_t size = bytes.size();
  queue_.push_back(std::move(bytes));
  queued_ += size;
  if (writing_) return;
  WriteSome();
  if (queued_ == 0) return;
  writing_ = true;
  // Without memory for it nobody would write any more.
  absl::Cleanup stuck = [this] { Close(); };
  Spawn(io_, Write(shared_from_this()));
  std::move(stuck).Cancel();
}

Async<> Connection::Write(std::shared_ptr<Connection> self) {
  absl::Cleanup over = [self] {
    self->writing_ = false;
    if (self->queued_ > 0) self->Close();
  };
  while (self->queued_ > 0) {
    auto [error] =
        co_await self->socket_.async_wait(asio::local::stream_protocol::socket::wait_write, kAwait);
    if (self->closed()) break;
    if (error)
      self->Close();
    else
      self->WriteSome();
  }
}

void Connection::WriteSome() {
  while (queued_ > 0) {
    std::array<iovec, 16> parts;
    size_t n = 0;
    for (; n < parts.size() && head_ + n < queue_.size(); ++n) {
      std::string& frame = queue_[head_ + n];
      size_t skip = n == 0 ? offset_ : 0;
      parts[n] = {.iov_base = frame.data() + skip, .iov_len = frame.size() - skip};
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = n;
    ssize_t sent = sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      Written(static_cast<size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return;
    } else if (errno != EINTR) {
      Close();
      return;
    }
  }
}

void Connection::Written(size_t count) {
  queued_ -= count;
  offset_ += count;
  while (head_ < queue_.size() && offset_ >= queue_[head_].size()) {
    offset_ -= queue_[head_].size();
    queue_[head_++] = std::string();
  }
  if (head_ == queue_.size()) {
    queue_.clear();
    if (queue_.capacity() > 4) queue_.shrink_to_fit();
    head_ = 0;
  } else if (head_ >= 64 && head_ * 2 > queue_.size()) {
    queue_.erase(queue_.begin(), queue_.begin() + static_cast<ptrdiff_t>(head_));
    head_ = 0;
  }
  if (progress_ && queued_ <= kMaxQueued / 2) std::exchange(progress_, nullptr)->Set();
}

Async<bool> Connection::WaitQueue(std::shared_ptr<Connection> self, size_t most,
                                  std::optional<Clock::time_point> deadline) {
  while (!self->closed() && self->queued_ > most) {
    if (!self->progress_) self->progress_ = std::make_shared<Event>();
    std::shared_ptr<Event> progress = self->progress_;
    std::vector<Event*> events(1, progress.get());
    int first = co_await WaitAny(std::move(events), deadline);
    if (first < 0) co_return false;
  }
  co_return true;
}

Async<bool> Connection::WaitUncongested(std::shared_ptr<Connection> self,
                                        std::optional<Clock::time_point> deadline) {
  co_return co_await WaitQueue(self, kMaxQueued, deadline);
}

Async<bool> Connection::WaitWritten(std::shared_ptr<Connection> self,
                                    std::optional<Clock::time_point> deadline) {
  co_return co_await WaitQueue(self, 0, deadline);
}

}  // namespace feather::ttrpc
