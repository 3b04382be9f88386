// One end of TTRPC, made with feather's client and server; ttrpc_peer.go is the same with those of
// containerd. Each prints for its own client and server what a round trip costs:
//
//   ttrpc_peer serve SOCKET             until its standard input ends; "ready" when it listens
//   ttrpc_peer call SOCKET COUNT TASKS  so many calls by each of so many tasks at once: prints
//   calls
//                                       per second, and the median of one call in microseconds

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <asio/posix/stream_descriptor.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "proto/task.pb.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "shim/rpc/method_table.h"
#include "shim/ttrpc/client.h"
#include "shim/ttrpc/server.h"

namespace feather {
namespace {

// On the wire as what ttrpc_peer.go has, a StringValue.
using Message = containerd::task::v2::StateRequest;

constexpr char kService[] = "bench.Echo";
constexpr char kMethod[] = "Echo";

[[noreturn]] void Fail(const std::string& what) {
  fprintf(stderr, "ttrpc_peer: %s\n", what.c_str());
  exit(1);
}

UniqueFd Listen(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) Fail("path too long");
  memcpy(address.sun_path, path.data(), path.size());
  if (bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      listen(socket.get(), 16) < 0)
    Fail(strerror(errno));
  return socket;
}

void Serve(const std::string& path) {
  asio::io_context io(1);
  rpc::MethodTable methods;
  methods.AddUnary<Message, Message>(
      kService, kMethod, [](rpc::CallContext, Message request) -> Async<absl::StatusOr<Message>> {
        co_return request;
      });
  ttrpc::Server server(io, methods);
  server.Serve(Listen(path));
  asio::posix::stream_descriptor input(io, dup(STDIN_FILENO));
  input.async_wait(input.wait_read, [&io](const asio::error_code&) { io.stop(); });
  puts("ready");
  fflush(stdout);
  io.run();
}

Async<> CallAgainAndAgain(std::shared_ptr<ttrpc::Client> client, int count,
                          std::vector<double>* times) {
  Message message;
  message.set_id(std::string(100, 'x'));
  for (int i = 0; i < count; ++i) {
    Clock::time_point start = Clock::now();
    absl::StatusOr<std::string> answer =
        co_await client->Call(kService, kMethod, message.SerializeAsString());
    Message echo;
    if (!answer.ok() || !echo.ParseFromString(*answer) || echo.id() != message.id())
      Fail("no echo: " + answer.status().ToString());
    times->push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
  }
}

Async<> Connected(asio::io_context* io, std::string path, int count, int tasks,
                  std::vector<double>* times) {
  absl::StatusOr<std::shared_ptr<ttrpc::Client>> client =
      co_await ttrpc::Client::Connect(*io, path);
  if (!client.ok()) Fail(client.status().ToString());
  for (int i = 0; i < tasks; ++i) Spawn(*io, CallAgainAndAgain(*client, count, times));
}

void Call(const std::string& path, int count, int tasks) {
  asio::io_context io(1);
  std::vector<double> times;
  Spawn(io, Connected(&io, path, count, tasks, &times));
  Clock::time_point start = Clock::now();
  io.run();
  double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::sort(times.begin(), times.end());
  printf("%f %f\n", static_cast<double>(times.size()) / seconds, times[times.size() / 2]);
}

}  // namespace
}  // namespace feather

int main(int argc, char** argv) {
  std::string command = argc > 2 ? argv[1] : "";
  if (command == "serve" && argc == 3)
    feather::Serve(argv[2]);
  else if (command == "call" && argc == 5)
    feather::Call(argv[2], std::max(atoi(argv[3]), 1), std::max(atoi(argv[4]), 1));
  else
    feather::Fail("usage: ttrpc_peer serve SOCKET | call SOCKET COUNT TASKS");
}
