#pragma once

#include <gtest/gtest.h>

#include <asio/io_context.hpp>
#include <memory>
#include <string>

#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "shim/rpc/method_table.h"
#include "shim/ttrpc/client.h"
#include "shim/ttrpc/server.h"

namespace feather::test {

// A listening unix socket in a directory of its own, which goes with it.
class TempSocket {
 public:
  TempSocket();
  ~TempSocket();
  TempSocket(const TempSocket&) = delete;
  TempSocket& operator=(const TempSocket&) = delete;

  const std::string& path() const { return path_; }
  // Unlinks a socket that is there already.
  UniqueFd Listen(int backlog = 128) const;

 private:
  std::string directory_;
  std::string path_;
};

// A TTRPC server on a TempSocket, and a loop. Methods are added before Serve.
class TtrpcFixture : public ::testing::Test {
 public:
  // "test.Echo/Say" answers its request.
  void AddEcho();
  void Serve();
  Async<std::shared_ptr<ttrpc::Client>> Connect();
  // Runs the loop until the coroutine has ended; a failure if that takes more than a minute.
  void Run(Async<> work);

  asio::io_context io{1};
  TempSocket socket;
  rpc::MethodTable methods;
  std::unique_ptr<ttrpc::Server> server;
};

// The same for any loop.
void RunUntilDone(asio::io_context& io, Async<> work);

}  // namespace feather::test
