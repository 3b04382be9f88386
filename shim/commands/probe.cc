#include "shim/commands/probe.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "proto/task.pb.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "shim/ttrpc/frame.h"

namespace feather {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kLimit = std::chrono::seconds(2);

UniqueFd ConnectTo(const std::string& socket_path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) return UniqueFd();
  memcpy(address.sun_path, socket_path.data(), socket_path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) fd.Reset();
  return fd;
}

std::string Question() {
  ::ttrpc::Request request;
  request.set_service("containerd.task.v3.Task");
  request.set_method("Connect");
  request.set_payload(containerd::task::v2::ConnectRequest().SerializeAsString());
  request.set_timeout_nano(std::chrono::nanoseconds(kLimit).count());
  return ttrpc::EncodeFrame(1, ttrpc::kRequest, ttrpc::kRemoteClosed, request.SerializeAsString());
}

// What comes until the peer has answered in TTRPC, has begun to say something else, or is silent.
struct Heard {
  std::string bytes;
  bool ended = false;  // by the peer
};
Heard Listen(int fd) {
  Heard heard;
  auto deadline = Clock::now() + kLimit;
  while (true) {
    if (heard.bytes.size() >= ttrpc::kHeaderSize) {
      ttrpc::FrameHeader header = ttrpc::DecodeHeader(heard.bytes.data());
      if (header.type != ttrpc::kResponse || header.stream != 1 ||
          header.length > ttrpc::kMaxPayload ||
          heard.bytes.size() >= ttrpc::kHeaderSize + header.length)
        return heard;
    }
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd entry = {fd, POLLIN, 0};
    int ready = poll(&entry, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return heard;
    char buffer[4096];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);
    heard.ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    if (heard.ended) return heard;
    if (n > 0) heard.bytes.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace

FoundShim ProbeShim(const std::string& socket, absl::string_view protocol) {
  FoundShim found{protocol};
  UniqueFd fd = ConnectTo(socket);
  std::string question = Question();
  if (!fd || send(fd.get(), question.data(), question.size(), MSG_NOSIGNAL) < 0) return found;
  Heard heard = Listen(fd.get());
  if (heard.bytes.size() < ttrpc::kHeaderSize) {
    // A shim that ends has closed it as well: whoever comes next is told so.
    if (heard.ended && !heard.bytes.empty()) found.protocol = "grpc";
    return found;
  }
  ttrpc::FrameHeader header = ttrpc::DecodeHeader(heard.bytes.data());
  if (header.type != ttrpc::kResponse || header.stream != 1) {
    found.protocol = "grpc";
    return found;
  }
  found.protocol = "ttrpc";
  ::ttrpc::Response response;
  if (response.ParseFromString(heard.bytes.substr(ttrpc::kHeaderSize)))
    found.version_3 =
        response.status().code() != static_cast<int>(absl::StatusCode::kUnimplemented);
  return found;
}

}  // namespace feather
