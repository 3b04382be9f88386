#include "tests/bench/threads.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "shim/ttrpc/frame.h"

namespace feather::bench {

CountingThread::CountingThread(std::string what, size_t limit, std::function<void(Counter&)> work)
    : what_(std::move(what)), limit_(limit), shared_(std::make_shared<Shared>(std::move(work))) {
  auto shared = std::make_unique<std::shared_ptr<Shared>>(shared_);
  if (int error = pthread_create(&thread_, nullptr, &CountingThread::Run, shared.get()); error != 0)
    throw std::runtime_error(absl::StrCat("no thread: ", strerror(error)));
  (void)shared.release();
}

CountingThread::~CountingThread() {
  if (!joined_) pthread_detach(thread_);
}

void CountingThread::Wait() {
  constexpr int kSeconds = 60;
  size_t before = shared_->count;
  for (int still = 0; !joined_;) {
    timespec until{};
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    if (pthread_timedjoin_np(thread_, nullptr, &until) == 0) {
      joined_ = true;
      break;
    }
    const size_t now = shared_->count;
    still = now == before ? still + 1 : 0;
    before = now;
    if (still == kSeconds)
      throw std::runtime_error(
          absl::StrCat("no more ", what_, " for ", kSeconds, " s after ", now, " of ", limit_));
  }
  if (shared_->count != limit_)
    throw std::runtime_error(absl::StrCat(shared_->count.load(), " ", what_, " for ", limit_));
}

void* CountingThread::Run(void* argument) {
  const std::unique_ptr<std::shared_ptr<Shared>> shared(
      static_cast<std::shared_ptr<Shared>*>(argument));
  (*shared)->work((*shared)->count);
  return nullptr;
}

Drain::Drain(std::string path, size_t bytes)
    : CountingThread("bytes of output", bytes, [path = std::move(path), bytes](Counter& count) {
        constexpr size_t kSize = 256 << 10;
        auto buffer = std::make_unique<char[]>(kSize);
        UniqueFd fifo(open(path.c_str(), O_RDONLY | O_CLOEXEC));
        while (count < bytes) {
          ssize_t n = read(fifo.get(), buffer.get(), kSize);
          if (n <= 0) break;
          count += static_cast<size_t>(n);
        }
      }) {}

namespace {

bool ReadExactly(int fd, char* out, size_t size) {
  while (size > 0) {
    ssize_t n = read(fd, out, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    out += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

UniqueFd Listen(const std::string& path) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("too long: " + path);
  memcpy(address.sun_path, path.data(), path.size());
  if (bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      listen(listener.get(), 16) < 0)
    throw std::runtime_error(absl::StrCat("listen at ", path, ": ", strerror(errno)));
  return listener;
}

void AnswerEvents(const UniqueFd& listener, size_t limit, std::atomic<size_t>& count) {
  UniqueFd socket(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  // Nothing in it: google.protobuf.Empty.
  const std::string nothing = ::ttrpc::Response().SerializeAsString();
  std::string payload;
  std::array<char, ttrpc::kHeaderSize> bytes;
  while (count < limit && ReadExactly(socket.get(), bytes.data(), bytes.size())) {
    ttrpc::FrameHeader header = ttrpc::DecodeHeader(bytes.data());
    payload.resize(header.length);
    if (!ReadExactly(socket.get(), payload.data(), payload.size())) break;
    std::string answer = ttrpc::EncodeFrame(header.stream, ttrpc::kResponse, 0, nothing);
    if (!WriteAll(socket.get(), answer).ok()) break;
    ++count;
  }
}

}  // namespace

EventStub::EventStub(const std::string& path, size_t events)
    : CountingThread("events", events,
                     [listener = std::make_shared<UniqueFd>(Listen(path)), events](Counter& count) {
                       AnswerEvents(*listener, events, count);
                     }) {}

}  // namespace feather::bench
