#include "tests/support/ttrpc.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <asio/detached.hpp>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace feather::test {

TempSocket::TempSocket() {
  char name[] = "/tmp/feather-test-XXXXXX";
  if (!mkdtemp(name)) abort();
  directory_ = name;
  path_ = directory_ + "/s";
}

TempSocket::~TempSocket() {
  unlink(path_.c_str());
  rmdir(directory_.c_str());
}

UniqueFd TempSocket::Listen(int backlog) const {
  unlink(path_.c_str());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path_.data(), path_.size());
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listen(fd.get(), backlog), 0);
  return fd;
}

void TtrpcFixture::AddEcho() {
  methods.Add("test.Echo", "Say",
              [](rpc::CallContext, std::string request) -> Async<absl::StatusOr<std::string>> {
                co_return request;
              });
}

void TtrpcFixture::Serve() {
  server = std::make_unique<ttrpc::Server>(io, methods);
  server->Serve(socket.Listen());
}

Async<std::shared_ptr<ttrpc::Client>> TtrpcFixture::Connect() {
  auto client = co_await ttrpc::Client::Connect(io, socket.path());
  EXPECT_TRUE(client.ok()) << client.status();
  co_return client.value_or(nullptr);
}

void TtrpcFixture::Run(Async<> work) { RunUntilDone(io, std::move(work)); }

void RunUntilDone(asio::io_context& io, Async<> work) {
  bool done = false;
  asio::co_spawn(io, std::move(work), [&done](std::exception_ptr error) {
    done = true;
    if (error) std::rethrow_exception(error);
  });
  io.restart();
  auto limit = Clock::now() + std::chrono::seconds(60);
  while (!done && Clock::now() < limit) io.run_one_for(std::chrono::seconds(1));
  EXPECT_TRUE(done) << "the test's coroutine did not end within a minute";
}

}  // namespace feather::test
