#include "tests/support/web_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather::test {
namespace {

constexpr int kBinary = 2;
constexpr int kClose = 8;
constexpr int kFinal = 0x80;
constexpr int kMasked = 0x80;

uint8_t Byte(const std::string& text, size_t at) { return static_cast<uint8_t>(text[at]); }

}  // namespace

absl::StatusOr<std::unique_ptr<WebSocket>> WebSocket::Open(const std::string& url) {
  absl::string_view rest = url;
  absl::ConsumePrefix(&rest, "http://");
  const std::pair<std::string, std::string> parts = absl::StrSplit(rest, absl::MaxSplits('/', 1));
  const std::pair<std::string, std::string> host =
      absl::StrSplit(parts.first, absl::MaxSplits(':', 1));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  uint32_t port = 0;
  if (inet_pton(AF_INET, host.first.c_str(), &address.sin_addr) != 1 ||
      !absl::SimpleAtoi(host.second, &port))
    return absl::InvalidArgumentError("not an address: " + url);
  address.sin_port = htons(static_cast<uint16_t>(port));
  auto self = std::make_unique<WebSocket>();
  self->socket_.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(self->socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return ErrnoError(errno, "connect to " + url);
  RETURN_IF_ERROR(self->HandShake(parts.first, "/" + parts.second));
  return self;
}

absl::Status WebSocket::HandShake(const std::string& host, const std::string& path) {
  RETURN_IF_ERROR(WriteAll(
      socket_.get(),
      absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: ", host, "\r\nOrigin: http://", host,
                   "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
                   "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n",
                   "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n")));
  while (!absl::StrContains(unread_, "\r\n\r\n"))
    if (!ReadSome(kProgramLimit)) return absl::UnavailableError("no answer: " + unread_);
  if (!absl::StartsWith(unread_, "HTTP/1.1 101 ")) return absl::UnavailableError(unread_);
  unread_.erase(0, unread_.find("\r\n\r\n") + 4);
  TakeFrames();
  return absl::OkStatus();
}

void WebSocket::Send(int channel, absl::string_view data) {
  const size_t size = data.size() + 1;
  std::string frame = {static_cast<char>(kFinal | kBinary)};
  if (size < 126) {
    frame += static_cast<char>(kMasked | static_cast<int>(size));
  } else {
    absl::StrAppend(&frame, std::string(1, static_cast<char>(kMasked | 127)));
    for (int shift = 56; shift >= 0; shift -= 8) frame += static_cast<char>(size >> shift & 0xff);
  }
  // A mask of zeros changes nothing.
  frame.append(4, '\0');
  frame += static_cast<char>(channel);
  frame.append(data.data(), data.size());
  // Who has no use for it any more closes, which is seen when reading.
  (void)WriteAll(socket_.get(), frame).ok();
}

bool WebSocket::ReadSome(Milliseconds limit) {
  pollfd readable{socket_.get(), POLLIN, 0};
  if (poll(&readable, 1, static_cast<int>(limit.count())) <= 0) return false;
  std::array<char, 65536> buffer;
  const ssize_t count = read(socket_.get(), buffer.data(), buffer.size());
  if (count <= 0) {
    ended_ = true;
    return false;
  }
  unread_.append(buffer.data(), static_cast<size_t>(count));
  return true;
}

// No message of the server's is in pieces, or masked.
void WebSocket::TakeFrames() {
  while (unread_.size() >= 2) {
    size_t header = 2;
    uint64_t size = Byte(unread_, 1) & 0x7f;
    if (size >= 126) {
      const size_t bytes = size == 126 ? 2 : 8;
      header += bytes;
      if (unread_.size() < header) return;
      size = 0;
      for (size_t i = 0; i < bytes; ++i) size = size << 8 | Byte(unread_, 2 + i);
    }
    if (unread_.size() < header + size) return;
    const int kind = Byte(unread_, 0) & 0xf;
    if (kind == kClose) ended_ = true;
    if (kind <= kBinary && size > 0 && Byte(unread_, header) < channels_.size())
      channels_[Byte(unread_, header)].append(unread_, header + 1, size - 1);
    unread_.erase(0, header + size);
  }
}

bool WebSocket::ReadUntil(const std::function<bool()>& done, Milliseconds limit) {
  const auto until = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    const auto left =
        std::chrono::duration_cast<Milliseconds>(until - std::chrono::steady_clock::now());
    if (ended_ || left.count() <= 0 || !ReadSome(left)) return done();
    TakeFrames();
  }
  return true;
}

bool WebSocket::ReadToEnd(Milliseconds limit) {
  return ReadUntil([this] { return ended_; }, limit);
}

}  // namespace feather::test
