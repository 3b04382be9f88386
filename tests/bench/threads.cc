#include "tests/bench/threads.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/file.h"
#include "shim/ttrpc/frame.h"

namespace feather::bench {

Drain::Drain(std::string path, size_t limit) : path_(std::move(path)), limit_(limit) {
  pthread_create(&thread_, nullptr, &Drain::Run, this);
}

size_t Drain::Wait() {
  if (!std::exchange(joined_, true)) pthread_join(thread_, nullptr);
  return bytes_;
}

void* Drain::Run(void* self) {
  Drain& drain = *static_cast<Drain*>(self);
  constexpr size_t kSize = 256 << 10;
  auto buffer = std::make_unique<char[]>(kSize);
  UniqueFd fifo(open(drain.path_.c_str(), O_RDONLY | O_CLOEXEC));
  while (drain.bytes_ < drain.limit_) {
    ssize_t n = read(fifo.get(), buffer.get(), kSize);
    if (n <= 0) break;
    drain.bytes_ += static_cast<size_t>(n);
  }
  return nullptr;
}

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

}  // namespace

EventStub::EventStub(const std::string& path, size_t events)
    : listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), limit_(events) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("too long: " + path);
  memcpy(address.sun_path, path.data(), path.size());
  if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      listen(listener_.get(), 16) < 0)
    throw std::runtime_error(absl::StrCat("listen at ", path, ": ", strerror(errno)));
  pthread_create(&thread_, nullptr, &EventStub::Run, this);
}

EventStub::~EventStub() {
  // If no shim ever came.
  shutdown(listener_.get(), SHUT_RDWR);
  Wait();
}

size_t EventStub::Wait() {
  if (!std::exchange(joined_, true)) pthread_join(thread_, nullptr);
  return events_;
}

void* EventStub::Run(void* self) {
  EventStub& stub = *static_cast<EventStub*>(self);
  UniqueFd socket(accept4(stub.listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  // Nothing in it: google.protobuf.Empty.
  const std::string nothing = ::ttrpc::Response().SerializeAsString();
  std::string payload;
  std::array<char, ttrpc::kHeaderSize> bytes;
  while (stub.events_ < stub.limit_ && ReadExactly(socket.get(), bytes.data(), bytes.size())) {
    ttrpc::FrameHeader header = ttrpc::DecodeHeader(bytes.data());
    payload.resize(header.length);
    if (!ReadExactly(socket.get(), payload.data(), payload.size())) break;
    std::string answer = ttrpc::EncodeFrame(header.stream, ttrpc::kResponse, 0, nothing);
    if (!WriteAll(socket.get(), answer).ok()) break;
    ++stub.events_;
  }
  return nullptr;
}

}  // namespace feather::bench
