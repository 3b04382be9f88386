#include "tests/support/raw_ttrpc.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace feather::test {

RawPeer RawPeer::Connect(asio::io_context& io, const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
      << strerror(errno);
  return RawPeer(io, std::move(fd));
}

void RawPeer::Step() {
  io_->restart();
  io_->run_one_for(std::chrono::milliseconds(1));
}

void RawPeer::Write(absl::string_view bytes) {
  auto limit = Clock::now() + std::chrono::seconds(60);
  while (!bytes.empty()) {
    ssize_t n = send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
      continue;
    }
    if (errno != EAGAIN) return;  // the peer has closed; what it did before can still be read
    ASSERT_LT(Clock::now(), limit) << "the peer does not read";
    Step();
  }
}

void RawPeer::WriteRequest(uint32_t stream, const std::string& service, const std::string& method,
                           const std::string& payload, int64_t timeout_nano, uint8_t flags) {
  WriteFrame(stream, ttrpc::kRequest, flags, MakeRequest(service, method, payload, timeout_nano));
}

bool RawPeer::ReadExactly(char* out, size_t size) {
  auto limit = Clock::now() + std::chrono::seconds(60);
  while (size > 0) {
    ssize_t n = recv(fd_.get(), out, size, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return false;
    if (n > 0) {
      out += n;
      size -= static_cast<size_t>(n);
      continue;
    }
    if (Clock::now() > limit) {
      ADD_FAILURE() << "no answer within a minute";
      return false;
    }
    Step();
  }
  return true;
}

std::optional<ttrpc::Frame> RawPeer::ReadFrame() {
  char header[ttrpc::kHeaderSize];
  if (!ReadExactly(header, sizeof(header))) return std::nullopt;
  ttrpc::Frame frame;
  frame.header = ttrpc::DecodeHeader(header);
  EXPECT_LE(frame.header.length, ttrpc::kMaxPayload);
  frame.payload.resize(frame.header.length);
  if (!ReadExactly(frame.payload.data(), frame.payload.size())) return std::nullopt;
  return frame;
}

::ttrpc::Response RawPeer::ReadResponse(uint32_t stream) {
  ::ttrpc::Response response;
  std::optional<ttrpc::Frame> frame = ReadFrame();
  EXPECT_TRUE(frame.has_value()) << "the connection ended";
  if (!frame) return response;
  EXPECT_EQ(frame->header.stream, stream);
  EXPECT_EQ(frame->header.type, ttrpc::kResponse);
  EXPECT_EQ(frame->header.flags, 0);
  EXPECT_TRUE(response.ParseFromString(frame->payload));
  return response;
}

std::string RawPeer::ReadStatus(uint32_t stream) {
  ::ttrpc::Response response = ReadResponse(stream);
  EXPECT_TRUE(response.has_status());
  return absl::StrCat(response.status().code(), " ", response.status().message());
}

bool RawPeer::ReadsEof() {
  char byte;
  return !ReadExactly(&byte, 1);
}

std::string MakeRequest(const std::string& service, const std::string& method,
                        const std::string& payload, int64_t timeout_nano) {
  ::ttrpc::Request request;
  request.set_service(service);
  request.set_method(method);
  request.set_payload(payload);
  request.set_timeout_nano(timeout_nano);
  return request.SerializeAsString();
}

}  // namespace feather::test
