#include "tests/bench/rpc.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "absl/strings/strip.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/file.h"
#include "shim/ttrpc/frame.h"

namespace feather::bench {

BlockingClient::BlockingClient(const std::string& address)
    : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  std::string path(absl::StripPrefix(address, "unix://"));
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  if (path.size() >= sizeof to.sun_path) throw std::runtime_error("address: " + address);
  memcpy(to.sun_path, path.data(), path.size());
  if (connect(socket_.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) < 0)
    throw std::runtime_error("connect " + path + ": " + strerror(errno));
  const timeval limit{.tv_sec = 60, .tv_usec = 0};
  if (setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0)
    throw std::runtime_error(std::string("SO_RCVTIMEO: ") + strerror(errno));
}

void BlockingClient::Send(const std::string& service, const std::string& method,
                          const std::string& payload) {
  ::ttrpc::Request request;
  request.set_service(service);
  request.set_method(method);
  request.set_payload(payload);
  std::string frame = ttrpc::EncodeFrame(stream_, ttrpc::kRequest, 0, request.SerializeAsString());
  stream_ += 2;
  if (!WriteAll(socket_.get(), frame).ok()) throw std::runtime_error("the shim has gone");
}

bool BlockingClient::Receive() {
  std::array<char, ttrpc::kHeaderSize> header;
  ReadExactly(header.data(), header.size());
  buffer_.resize(ttrpc::DecodeHeader(header.data()).length);
  ReadExactly(buffer_.data(), buffer_.size());
  ::ttrpc::Response response;
  return response.ParseFromString(buffer_) && response.status().code() == 0;
}

void BlockingClient::ReadExactly(char* out, size_t size) {
  while (size > 0) {
    ssize_t n = read(socket_.get(), out, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) throw std::runtime_error("the shim has not answered in a minute");
    if (n <= 0) throw std::runtime_error("the shim has ended the connection");
    out += n;
    size -= static_cast<size_t>(n);
  }
}

void AddExecs(BlockingClient& client, const std::string& service,
              const std::vector<std::string>& requests) {
  constexpr size_t kInFlight = 32;
  for (size_t i = 0; i < requests.size() + kInFlight; ++i) {
    if (i >= kInFlight && !client.Receive()) throw std::runtime_error("Exec failed");
    if (i < requests.size()) client.Send(service, "Exec", requests[i]);
  }
}

std::string AddressIn(const std::string& answer) {
  size_t begin = answer.find("unix://");
  if (begin == answer.npos) throw std::runtime_error("no address: " + answer);
  size_t end = begin;
  while (end < answer.size() && answer[end] > ' ' && answer[end] != '"') ++end;
  return answer.substr(begin, end - begin);
}

}  // namespace feather::bench
