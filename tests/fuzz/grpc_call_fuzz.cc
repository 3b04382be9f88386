// Bytes from a server to the gRPC client of `inspect`. The first byte says in which pieces they
// arrive.
#include <sys/socket.h>

#include <asio/io_context.hpp>
#include <cstdint>
#include <utility>

#include "shim/commands/grpc_call.h"
#include "tests/fuzz/support.h"

namespace feather {
namespace {

Async<> Call(asio::io_context& io, UniqueFd socket) {
  absl::StatusOr<std::string> answer =
      co_await GrpcCall(io, std::move(socket), "/s.S/M", "x", std::chrono::seconds(60));
  (void)answer;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> fuzz::Seeds() {
  using std::string_literals::operator""s;
  const std::string settings = "\0\0\0\4\0\0\0\0\0"s;
  const std::string headers = "\0\0\1\1\4\0\0\0\1\x88"s;
  const std::string data = "\0\0\x0b\0\0\0\0\0\1\0\0\0\0\6answer"s;
  const std::string trailers = "\0\0\1\1\5\0\0\0\1\x88"s;
  const std::string ping = "\0\0\x08\6\0\0\0\0\0\0\0\0\0\0\0\0\0"s;
  return {{"answer", "\xff" + settings + headers + data + trailers},
          {"error", "\x01" + settings + trailers},
          {"ping", "\x07" + settings + ping + headers + data + ping + trailers},
          {"reset", "\0"s + settings + "\0\0\4\3\0\0\0\0\1\0\0\0\2"s}};
}

}  // namespace feather

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace feather;
  if (size < 1) return 0;
  asio::io_context io(1);
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) return 0;
  UniqueFd peer(fds[1]);
  Spawn(io, Call(io, UniqueFd(fds[0])));
  io.poll();
  fuzz::SendInPieces(io, std::move(peer), bytes, size);
  return 0;
}
