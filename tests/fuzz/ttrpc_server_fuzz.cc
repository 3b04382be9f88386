// Bytes from a client to a server with unary and streaming methods. The first byte says in which
// pieces they arrive.
#include <sys/socket.h>

#include <asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <utility>

#include "proto/ttrpc.pb.h"
#include "shim/rpc/method_table.h"
#include "shim/ttrpc/frame.h"
#include "shim/ttrpc/server_connection.h"
#include "tests/fuzz/support.h"

namespace feather {
namespace {

using Message = absl::StatusOr<std::optional<std::string>>;

Async<absl::StatusOr<std::string>> Echo(std::shared_ptr<rpc::ServerStream> stream) {
  while (true) {
    Message message = co_await stream->Receive();
    if (!message.ok()) co_return message.status();
    if (!*message) co_return std::string();
    absl::Status sent = co_await stream->Send(**message);
    if (!sent.ok()) co_return sent;
  }
}

Async<absl::StatusOr<std::string>> WaitUntilGone(std::shared_ptr<Event> gone) {
  co_await gone->Wait();
  co_return absl::CancelledError("context canceled");
}

const rpc::MethodTable& Methods() {
  static const rpc::MethodTable* table = [] {
    auto* methods = new rpc::MethodTable;
    methods->AddUnary<::ttrpc::KeyValue, ::ttrpc::KeyValue>(
        "s", "unary",
        [](rpc::CallContext, ::ttrpc::KeyValue in) -> Async<absl::StatusOr<::ttrpc::KeyValue>> {
          co_return in;
        });
    methods->Add("s", "wait",
                 [](rpc::CallContext context, std::string) { return WaitUntilGone(context.gone); });
    for (bool client : {false, true})
      for (bool server : {false, true})
        methods->AddStream("s", std::string(client ? "c" : "-") + (server ? "s" : "-"), client,
                           server, [](rpc::CallContext, std::shared_ptr<rpc::ServerStream> stream) {
                             return Echo(stream);
                           });
    return methods;
  }();
  return *table;
}

std::string RequestFrame(uint32_t id, const char* method, uint8_t flags) {
  ::ttrpc::Request request;
  request.set_service("s");
  request.set_method(method);
  request.set_payload("\x0a\x01k\x12\x01v");
  request.set_timeout_nano(1'000'000'000);
  ::ttrpc::KeyValue* pair = request.add_metadata();
  pair->set_key("key");
  pair->set_value("value");
  return ttrpc::EncodeFrame(id, ttrpc::kRequest, flags, request.SerializeAsString());
}

}  // namespace

std::vector<std::pair<std::string, std::string>> fuzz::Seeds() {
  std::string data = ttrpc::EncodeFrame(1, ttrpc::kData, 0, "data");
  std::string close = ttrpc::EncodeFrame(1, ttrpc::kData, 5, "");
  return {{"unary", "\x10" + RequestFrame(1, "unary", 0)},
          {"wait", "\x01" + RequestFrame(1, "wait", 0) + RequestFrame(3, "none", 0)},
          {"client_stream", "\xff" + RequestFrame(1, "c-", 2) + data + close},
          {"server_stream", "\x05" + RequestFrame(1, "-s", 1)},
          {"both", "\x40" + RequestFrame(1, "cs", 2) + data + data + close},
          {"even", "\x03" + RequestFrame(2, "unary", 0) + data}};
}

}  // namespace feather

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace feather;
  if (size < 1) return 0;
  asio::io_context io(1);
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) return 0;
  UniqueFd peer(fds[1]);
  auto connection = std::make_shared<feather::ttrpc::ServerConnection>(
      io, UniqueFd(fds[0]), Methods(), [](feather::ttrpc::ServerConnection*) {});
  connection->Start();
  fuzz::SendInPieces(io, std::move(peer), bytes, size);
  if (!connection->closed()) {  // it waits for room in a full stream
    connection->Close();
    io.poll();
  }
  return 0;
}
