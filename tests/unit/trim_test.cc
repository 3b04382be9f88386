#include "runtime/base/trim.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <asio/local/stream_protocol.hpp>
#include <asio/post.hpp>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"

namespace feather {
namespace {

using Socket = asio::local::stream_protocol::socket;

TEST(Trim, TheServersTunablesReachNobodyElse) {
  unsetenv("GLIBC_TUNABLES");
  std::vector<std::string> environment = {"A=b"};
  AddServerTunables(environment);
  ASSERT_EQ(environment.size(), 2u);
  EXPECT_EQ(environment[1].rfind("GLIBC_TUNABLES=", 0), 0u);
  setenv("GLIBC_TUNABLES", environment[1].substr(15).c_str(), 1);
  DropServerTunables();
  EXPECT_EQ(getenv("GLIBC_TUNABLES"), nullptr);
}

TEST(Trim, TunablesThatWereThereStay) {
  const std::string before = "GLIBC_TUNABLES=glibc.malloc.check=0";
  std::vector<std::string> environment = {before, "A=b"};
  AddServerTunables(environment);
  ASSERT_EQ(environment.size(), 2u);
  EXPECT_GT(environment[0].size(), before.size());
  setenv("GLIBC_TUNABLES", environment[0].substr(15).c_str(), 1);
  DropServerTunables();
  EXPECT_EQ(std::string("GLIBC_TUNABLES=") + getenv("GLIBC_TUNABLES"), before);
  DropServerTunables();
  EXPECT_EQ(std::string("GLIBC_TUNABLES=") + getenv("GLIBC_TUNABLES"), before);
}

class TrimLoop : public ::testing::Test {
 protected:
  // Both ends of many connections, the first of each in the loop.
  void Connect(int count) {
    for (int i = 0; i < count; ++i) {
      int pair[2];
      ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
      ours_.push_back(std::make_unique<Socket>(io_, asio::local::stream_protocol(), pair[0]));
      theirs_.emplace_back(pair[1]);
    }
  }
  // The loop stops itself once it has trimmed, which is a moment after it has been asked to.
  void RunUntilTrimmed() {
    TrimSoon(io_);
    asio::steady_timer end(io_, std::chrono::milliseconds(400));
    end.async_wait([this](const asio::error_code&) { io_.stop(); });
    asio::post(io_, [this] { TrimSoon(io_); });
    io_.restart();
    RunAndTrim(io_);
  }

  asio::io_context io_{1};
  std::vector<std::unique_ptr<Socket>> ours_;
  std::vector<UniqueFd> theirs_;
};

TEST_F(TrimLoop, ConnectionsWorkThatWereThereAndThatComeAfter) {
  Connect(200);
  ours_.erase(ours_.begin() + 1, ours_.end() - 1);
  RunUntilTrimmed();
  Connect(100);
  int heard = 0;
  for (auto& socket : ours_)
    socket->async_wait(Socket::wait_read, [&heard](const asio::error_code& error) {
      EXPECT_FALSE(error);
      ++heard;
    });
  theirs_.clear();
  asio::steady_timer limit(io_, std::chrono::seconds(60));
  limit.async_wait([](const asio::error_code&) {});
  io_.restart();
  while (heard < 102 && io_.run_one() > 0) {
  }
  EXPECT_EQ(heard, 102);
}

// Its registration with the kernel outlives the socket here, and so does the record that it names.
TEST_F(TrimLoop, AnEventOfASocketThatSomebodyElseHasTooIsNoMatter) {
  Connect(100);
  UniqueFd copy(dup(ours_.front()->native_handle()));
  UniqueFd peer = std::move(theirs_.front());
  ours_.clear();
  theirs_.clear();
  RunUntilTrimmed();
  ASSERT_EQ(write(peer.get(), "x", 1), 1);
  RunUntilTrimmed();
  peer.Reset();
  RunUntilTrimmed();
}

TEST_F(TrimLoop, TheLoopEndsWhenItIsStopped) {
  asio::post(io_, [this] {
    TrimSoon(io_);
    io_.stop();
  });
  RunAndTrim(io_);
  EXPECT_TRUE(io_.stopped());
}

}  // namespace
}  // namespace feather
