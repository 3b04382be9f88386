#include "shim/commands/grpc_call.h"

#include <array>
#include <asio/buffer.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/read.hpp>
#include <asio/steady_timer.hpp>
#include <asio/write.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace feather {
namespace {

// RFC 9113, section 6; all others are passed over.
enum FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
};
constexpr uint8_t kAck = 0x1;
constexpr uint8_t kEndStream = 0x1;
constexpr uint8_t kEndHeaders = 0x4;
constexpr uint8_t kPadded = 0x8;
constexpr uint32_t kStream = 1;  // the only one
constexpr size_t kFrameHeader = 9;
constexpr size_t kPrefix = 5;        // gRPC's own, before each message: a flag and the length
constexpr size_t kMaxFrame = 16384;  // what holds unless one allows for more
constexpr size_t kMaxAnswer = (size_t{4} << 20) + kPrefix;

std::string BigEndian(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = bytes; i-- > 0;) text.push_back(static_cast<char>(value >> (8 * i) & 0xff));
  return text;
}

uint32_t FromBigEndian(absl::string_view bytes) {
  uint32_t value = 0;
  for (char byte : bytes) value = value << 8 | static_cast<uint8_t>(byte);
  return value;
}

std::string Frame(FrameType type, uint8_t flags, uint32_t stream, absl::string_view payload) {
  return absl::StrCat(BigEndian(payload.size(), 3), BigEndian(type, 1), BigEndian(flags, 1),
                      BigEndian(stream, 4), payload);
}

// HPACK (RFC 7541), without a table of its own and without Huffman's code. Numbers and texts of
// less than 127 are one byte.
std::string Text(absl::string_view text) { return absl::StrCat(BigEndian(text.size(), 1), text); }

std::string Headers(const std::string& path) {
  return absl::StrCat("\x83",  // :method: POST
                      "\x86",  // :scheme: http
                      "\x04", Text(path), "\x01", Text("localhost"), "\x0f\x10",
                      Text("application/grpc"),  // content-type
                      BigEndian(0, 1), Text("te"), Text("trailers"));
}

std::string Request(const std::string& path, const std::string& message) {
  // Windows so large that none has to be opened again.
  const std::string settings = absl::StrCat(BigEndian(4, 2), BigEndian(kMaxAnswer, 4));
  return absl::StrCat("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Frame(kSettings, 0, 0, settings),
                      Frame(kWindowUpdate, 0, 0, BigEndian(kMaxAnswer, 4)),
                      Frame(kHeaders, kEndHeaders, kStream, Headers(path)),
                      Frame(kData, kEndStream, kStream,
                            absl::StrCat(BigEndian(0, 1), BigEndian(message.size(), 4), message)));
}

class Call {
 public:
  Call(asio::io_context& io, UniqueFd socket) : socket_(io), timer_(io) {
    asio::error_code error;
    socket_.assign(asio::local::stream_protocol(), socket.get(), error);
    if (!error) (void)socket.Release();
  }

  static Async<absl::StatusOr<std::string>> Run(std::shared_ptr<Call> self, std::string request,
                                                Clock::duration limit) {
    self->timer_.expires_after(limit);
    self->timer_.async_wait([self](const asio::error_code& error) {
      if (error) return;
      self->late_ = true;
      asio::error_code ignored;
      self->socket_.close(ignored);
    });
    absl::Status status = co_await self->Write(std::move(request));
    // A server of HTTP/2 begins with its settings.
    self->expected_ = kSettings;
    while (status.ok() && !self->ended_) status = co_await self->ReadFrame();
    self->timer_.cancel();
    if (self->late_) co_return absl::DeadlineExceededError("context deadline exceeded");
    if (!status.ok()) co_return status;
    co_return self->Message();
  }

 private:
  Async<absl::Status> Write(std::string bytes) {
    auto [error, size] = co_await asio::async_write(socket_, asio::buffer(bytes), kAwait);
    co_return error ? absl::UnavailableError(error.message()) : absl::OkStatus();
  }

  Async<absl::Status> ReadFrame() {
    std::array<char, kFrameHeader> header;
    auto [error, n] = co_await asio::async_read(socket_, asio::buffer(header), kAwait);
    if (error) co_return absl::UnavailableError(error.message());
    const absl::string_view bytes(header.data(), header.size());
    const uint32_t length = FromBigEndian(bytes.substr(0, 3));
    const auto type = static_cast<uint8_t>(header[3]);
    const auto flags = static_cast<uint8_t>(header[4]);
    const uint32_t stream = FromBigEndian(bytes.substr(5)) & 0x7fffffff;
    if (length > kMaxFrame || type != expected_.value_or(type))
      co_return absl::UnavailableError("no server of gRPC");
    expected_.reset();
    std::string payload(length, '\0');
    auto [cut, m] = co_await asio::async_read(socket_, asio::buffer(payload), kAwait);
    if (cut) co_return absl::UnavailableError(cut.message());
    if ((type == kSettings || type == kPing) && (flags & kAck) == 0) {
      std::string answer =
          Frame(static_cast<FrameType>(type), kAck, 0, type == kPing ? payload : std::string());
      co_return co_await Write(std::move(answer));
    }
    if (type == kReset || type == kGoAway) co_return absl::UnavailableError("refused");
    if (stream == kStream && (type == kData || type == kHeaders))
      co_return Take(type, flags, payload);
    co_return absl::OkStatus();
  }

  absl::Status Take(uint8_t type, uint8_t flags, const std::string& payload) {
    if (type == kData) {
      if ((flags & kPadded) != 0) return absl::UnavailableError("padding is not expected");
      if (body_.size() + payload.size() > kMaxAnswer)
        return absl::UnavailableError("the answer is too long");
      body_ += payload;
    }
    ended_ = (flags & kEndStream) != 0;
    return absl::OkStatus();
  }

  // One, and not compressed.
  absl::StatusOr<std::string> Message() const {
    if (body_.size() < kPrefix || body_[0] != 0 ||
        FromBigEndian(absl::string_view(body_).substr(1, 4)) != body_.size() - kPrefix)
      return absl::UnavailableError("no answer of gRPC");
    return body_.substr(kPrefix);
  }

  asio::local::stream_protocol::socket socket_;
  asio::steady_timer timer_;
  std::optional<uint8_t> expected_;  // the next frame's type, if it matters
  bool late_ = false;
  bool ended_ = false;
  std::string body_;
};

}  // namespace

Async<absl::StatusOr<std::string>> GrpcCall(asio::io_context& io, UniqueFd socket, std::string path,
                                            std::string request, Clock::duration limit) {
  auto call = std::make_shared<Call>(io, std::move(socket));
  co_return co_await Call::Run(std::move(call), Request(path, request), limit);
}

}  // namespace feather
