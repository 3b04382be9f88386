#include "tests/support/shim_fifo.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/write.hpp>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "runtime/base/async.h"

namespace feather::test {

void MakeFifo(const std::string& path) {
  if (mkfifo(path.c_str(), 0700) < 0)
    throw std::runtime_error("mkfifo " + path + ": " + strerror(errno));
}

struct FifoReader::State {
  explicit State(asio::io_context& io) : fifo(io) {}
  asio::posix::stream_descriptor fifo;
  std::string data;
  size_t size = 0;
  bool discard = false;
  bool eof = false;
  static Async<> Read(std::shared_ptr<State> state);
  int generation = 0;  // of the opening that reads; every other coroutine ends
};

FifoReader::FifoReader(asio::io_context& io, std::string path, bool keep)
    : io_(io), path_(std::move(path)), keep_(keep), state_(std::make_shared<State>(io)) {
  Open();
}

FifoReader::~FifoReader() { Close(); }

void FifoReader::Close() {
  ++state_->generation;
  asio::error_code ignored;
  state_->fifo.close(ignored);
}

void FifoReader::Open() {
  Close();
  int fd = open(path_.c_str(), (keep_ ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) throw std::runtime_error("open " + path_ + ": " + strerror(errno));
  state_->eof = false;
  state_->fifo.assign(fd);
  Resume();
}

void FifoReader::Pause() {
  ++state_->generation;
  asio::error_code ignored;
  state_->fifo.cancel(ignored);
}

void FifoReader::Resume() {
  ++state_->generation;
  Spawn(io_, State::Read(state_));
}

const std::string& FifoReader::data() const { return state_->data; }
bool FifoReader::eof() const { return state_->eof; }
size_t FifoReader::size() const { return state_->size; }
void FifoReader::Discard(bool discard) { state_->discard = discard; }

// Waits before it reads: a FIFO that no writer has opened yet reads as ended, but is not ready.
Async<> FifoReader::State::Read(std::shared_ptr<State> state) {
  int generation = state->generation;
  std::array<char, 65536> buffer;
  while (generation == state->generation) {
    auto [error] =
        co_await state->fifo.async_wait(asio::posix::stream_descriptor::wait_read, kAwait);
    if (error || generation != state->generation) co_return;
    ssize_t n = read(state->fifo.native_handle(), buffer.data(), buffer.size());
    if (n < 0) continue;
    if (n == 0) {
      state->eof = true;
      co_return;
    }
    state->size += static_cast<size_t>(n);
    if (!state->discard) state->data.append(buffer.data(), static_cast<size_t>(n));
  }
}

struct FifoWriter::State {
  explicit State(asio::io_context& io) : fifo(io) {}
  asio::posix::stream_descriptor fifo;
  std::string pending;
  static Async<> Run(std::shared_ptr<State> state, std::string path);
  bool closing = false;
  bool closed = false;
};

FifoWriter::FifoWriter(asio::io_context& io, std::string path)
    : path_(std::move(path)), state_(std::make_shared<State>(io)) {
  Spawn(io, State::Run(state_, path_));
}

FifoWriter::~FifoWriter() {
  state_->closing = true;
  state_->closed = true;
  asio::error_code ignored;
  state_->fifo.close(ignored);
}

void FifoWriter::Write(absl::string_view data) { state_->pending.append(data.data(), data.size()); }
void FifoWriter::Close() { state_->closing = true; }
bool FifoWriter::closed() const { return state_->closed; }

Async<> FifoWriter::State::Run(std::shared_ptr<State> state, std::string path) {
  while (!state->closed && !state->fifo.is_open()) {
    int fd = open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0)
      state->fifo.assign(fd);
    else
      co_await SleepFor(std::chrono::milliseconds(2));
  }
  while (!state->closed) {
    if (state->pending.empty()) {
      if (state->closing) break;
      co_await SleepFor(std::chrono::milliseconds(2));
      continue;
    }
    std::string data = std::exchange(state->pending, {});
    auto [error, n] = co_await asio::async_write(state->fifo, asio::buffer(data), kAwait);
    if (error) break;
  }
  asio::error_code ignored;
  if (!state->closed) state->fifo.close(ignored);
  state->closed = true;
}

}  // namespace feather::test
