// Bytes from a server to a client with a unary call and each kind of stream open. The first byte
// says in which pieces they arrive.
#include <sys/socket.h>

#include <asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <utility>

#include "proto/ttrpc.pb.h"
#include "shim/ttrpc/client.h"
#include "shim/ttrpc/frame.h"
#include "tests/fuzz/support.h"

namespace feather {
namespace {

Async<> Call(std::shared_ptr<ttrpc::Client> client) {
  absl::StatusOr<std::string> answer = co_await client->Call("s", "unary", "x");
  (void)answer;
}

Async<> ReadStream(std::shared_ptr<ttrpc::Client> client, bool client_streams,
                   bool server_streams) {
  ttrpc::Client::StreamOptions options;
  options.client_streams = client_streams;
  options.server_streams = server_streams;
  auto stream = co_await client->Open("s", "stream", options);
  if (!stream.ok()) co_return;
  while (true) {
    auto message = co_await (*stream)->Receive();
    if (!message.ok() || !*message) co_return;
    absl::Status sent = co_await (*stream)->Send(**message);
    (void)sent;
  }
}

std::string ResponseFrame(uint32_t id, int code) {
  ::ttrpc::Response response;
  response.mutable_status()->set_code(code);
  response.mutable_status()->set_message("text");
  response.set_payload("payload");
  return ttrpc::EncodeFrame(id, ttrpc::kResponse, 0, response.SerializeAsString());
}

}  // namespace

std::vector<std::pair<std::string, std::string>> fuzz::Seeds() {
  return {{"response", "\x10" + ResponseFrame(1, 0)},
          {"error", "\x01" + ResponseFrame(1, 5) + ResponseFrame(3, 12)},
          {"data", "\xff" + ttrpc::EncodeFrame(5, ttrpc::kData, 0, "data") +
                       ttrpc::EncodeFrame(5, ttrpc::kData, 5, "")},
          {"mixed", "\x07" + ttrpc::EncodeFrame(7, ttrpc::kData, 1, "last") + ResponseFrame(3, 0) +
                        ttrpc::EncodeFrame(1, ttrpc::kData, 0, "data")}};
}

}  // namespace feather

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace feather;
  if (size < 1) return 0;
  asio::io_context io(1);
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) return 0;
  UniqueFd peer(fds[1]);
  std::shared_ptr<feather::ttrpc::Client> client =
      feather::ttrpc::Client::FromSocket(io, UniqueFd(fds[0]));
  Spawn(io, Call(client));
  Spawn(io, ReadStream(client, true, false));
  Spawn(io, ReadStream(client, false, true));
  Spawn(io, ReadStream(client, true, true));
  io.poll();
  fuzz::SendInPieces(io, std::move(peer), bytes, size);
  client->Close();
  io.poll();
  return 0;
}
