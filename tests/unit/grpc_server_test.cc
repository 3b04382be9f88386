#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "shim/commands/grpc_call.h"
#include "shim/grpc/call.h"
#include "shim/grpc/server.h"
#include "tests/support/grpc_client.h"
#include "tests/support/ttrpc.h"

namespace feather::test {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Pair;

class GrpcServer : public ::testing::Test {
 protected:
  GrpcServer() {
    methods_.Add("test.Echo", "Say",
                 [](rpc::CallContext, std::string request) -> Async<absl::StatusOr<std::string>> {
                   co_return request;
                 });
  }

  void Serve() {
    server_ = grpc::MakeServer(io_, methods_);
    server_->Serve(socket_.Listen());
  }

  std::shared_ptr<ttrpc::Client> Connect() {
    std::shared_ptr<ttrpc::Client> client;
    RunUntilDone(io_, ConnectTo(io_, socket_.path(), client));
    return client;
  }

  absl::StatusOr<std::string> Call(std::shared_ptr<ttrpc::Client> client, std::string service,
                                   std::string method, std::string request,
                                   std::optional<Clock::duration> timeout = std::nullopt) {
    absl::StatusOr<std::string> answer;
    RunUntilDone(io_, CallIt(std::move(client), std::move(service), std::move(method),
                             std::move(request), timeout, answer));
    return answer;
  }

  bool RunUntil(const std::function<bool()>& done) {
    auto limit = Clock::now() + std::chrono::seconds(60);
    while (!done() && Clock::now() < limit) {
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(100));
    }
    return done();
  }

  static Async<> ConnectTo(asio::io_context& io, std::string path,
                           std::shared_ptr<ttrpc::Client>& client) {
    absl::StatusOr<std::shared_ptr<ttrpc::Client>> connected =
        co_await GrpcConnect()(io, std::move(path));
    EXPECT_TRUE(connected.ok()) << connected.status();
    client = connected.value_or(nullptr);
  }

  static Async<> CallIt(std::shared_ptr<ttrpc::Client> client, std::string service,
                        std::string method, std::string request,
                        std::optional<Clock::duration> timeout,
                        absl::StatusOr<std::string>& answer) {
    ttrpc::Client::Metadata metadata;
    metadata.emplace_back("containerd-namespace-ttrpc", "default");
    absl::StatusOr<std::string> received = co_await client->Call(
        std::move(service), std::move(method), std::move(request), timeout, std::move(metadata));
    answer = std::move(received);
  }

  static Async<> CallBare(asio::io_context& io, std::string socket, std::string path,
                          std::string request, Clock::duration limit,
                          absl::StatusOr<std::string>& answer) {
    absl::StatusOr<UniqueFd> connected = co_await ttrpc::ConnectSocket(std::move(socket));
    if (!connected.ok()) co_return;
    absl::StatusOr<std::string> received =
        co_await GrpcCall(io, *std::move(connected), std::move(path), std::move(request), limit);
    answer = std::move(received);
  }

  asio::io_context io_{1};
  TempSocket socket_;
  rpc::MethodTable methods_;
  std::unique_ptr<rpc::Server> server_;
};

TEST_F(GrpcServer, AnswersAUnaryCall) {
  Serve();
  absl::StatusOr<std::string> answer = Call(Connect(), "test.Echo", "Say", "hello");
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(*answer, "hello");
}

TEST_F(GrpcServer, AnswersAnEmptyMessage) {
  Serve();
  absl::StatusOr<std::string> answer = Call(Connect(), "test.Echo", "Say", "");
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(*answer, "");
}

// The client that `inspect` has, which knows just enough of HTTP/2.
TEST_F(GrpcServer, AnswersAClientWithoutItsLibraries) {
  methods_.Add("test.Echo", "Long",
               [](rpc::CallContext, std::string) -> Async<absl::StatusOr<std::string>> {
                 co_return std::string(size_t{1} << 20, 'x');
               });
  methods_.Add("test.Echo", "Hang",
               [](rpc::CallContext, std::string request) -> Async<absl::StatusOr<std::string>> {
                 co_await SleepFor(std::chrono::hours(1));
                 co_return request;
               });
  Serve();
  auto call = [&](const char* path, const char* request, Clock::duration limit) {
    absl::StatusOr<std::string> answer;
    RunUntilDone(io_, CallBare(io_, socket_.path(), path, request, limit, answer));
    return answer;
  };
  const auto limit = std::chrono::seconds(60);
  EXPECT_EQ(call("/test.Echo/Say", "hello", limit).value_or("none"), "hello");
  EXPECT_EQ(call("/test.Echo/Say", "", limit).value_or("none"), "");
  EXPECT_EQ(call("/test.Echo/Long", "", limit).value_or("none").size(), size_t{1} << 20);
  EXPECT_TRUE(absl::IsUnavailable(call("/test.Echo/Shout", "", limit).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      call("/test.Echo/Hang", "", std::chrono::milliseconds(50)).status()));
}

TEST_F(GrpcServer, TellsWhetherTheServiceOrTheMethodIsUnknown) {
  Serve();
  std::shared_ptr<ttrpc::Client> client = Connect();
  EXPECT_EQ(Call(client, "test.None", "Say", "").status(),
            absl::UnimplementedError("service test.None"));
  EXPECT_EQ(Call(client, "test.Echo", "Shout", "").status(),
            absl::UnimplementedError("method Shout"));
}

TEST_F(GrpcServer, AnErrorKeepsItsCodeAndText) {
  methods_.Add("test.Echo", "Fail",
               [](rpc::CallContext, std::string) -> Async<absl::StatusOr<std::string>> {
                 co_return absl::FailedPreconditionError("nicht möglich: 100 %\n");
               });
  Serve();
  EXPECT_EQ(Call(Connect(), "test.Echo", "Fail", "").status(),
            absl::FailedPreconditionError("nicht möglich: 100 %\n"));
}

TEST_F(GrpcServer, HandlersGetMetadataAndDeadline) {
  std::optional<rpc::CallContext> seen;
  methods_.Add("test.Echo", "Look",
               [&](rpc::CallContext context, std::string) -> Async<absl::StatusOr<std::string>> {
                 seen = std::move(context);
                 co_return std::string();
               });
  Serve();
  std::shared_ptr<ttrpc::Client> client = Connect();
  ASSERT_TRUE(Call(client, "test.Echo", "Look", "", std::chrono::hours(1)).ok());
  EXPECT_THAT(seen->metadata, Contains(Pair("containerd-namespace-ttrpc", "default")));
  ASSERT_TRUE(seen->deadline.has_value());
  EXPECT_GT(*seen->deadline, Clock::now() + std::chrono::minutes(50));
  EXPECT_LT(*seen->deadline, Clock::now() + std::chrono::minutes(61));
  ASSERT_TRUE(Call(client, "test.Echo", "Look", "").ok());
  EXPECT_FALSE(seen->deadline.has_value());
}

TEST_F(GrpcServer, AHandlerIsToldThatItsCallerHasGone) {
  std::shared_ptr<Event> gone;
  methods_.Add("test.Echo", "Wait",
               [&](rpc::CallContext context, std::string) -> Async<absl::StatusOr<std::string>> {
                 gone = context.gone;
                 co_await context.gone->Wait();
                 co_return std::string();
               });
  Serve();
  std::shared_ptr<ttrpc::Client> client = Connect();
  absl::StatusOr<std::string> answer;
  Spawn(io_, CallIt(client, "test.Echo", "Wait", "", std::nullopt, answer));
  ASSERT_TRUE(RunUntil([&] { return gone != nullptr; }));
  EXPECT_FALSE(gone->set());
  client->Close();
  EXPECT_TRUE(RunUntil([&] { return gone->set(); }));
  EXPECT_TRUE(RunUntil([&] { return server_->connections() == 0; }));
}

TEST_F(GrpcServer, AnAnswerAboveTheLimitIsResourceExhausted) {
  methods_.Add("test.Echo", "Long",
               [](rpc::CallContext, std::string) -> Async<absl::StatusOr<std::string>> {
                 co_return std::string(grpc::kMaxMessage + 1, 'x');
               });
  Serve();
  std::shared_ptr<ttrpc::Client> client = Connect();
  EXPECT_TRUE(absl::IsResourceExhausted(Call(client, "test.Echo", "Long", "").status()));
  EXPECT_TRUE(absl::IsResourceExhausted(
      Call(client, "test.Echo", "Say", std::string(grpc::kMaxMessage + 1, 'x')).status()));
  EXPECT_TRUE(Call(client, "test.Echo", "Say", std::string(grpc::kMaxMessage, 'x')).ok());
}

TEST_F(GrpcServer, CountsConnectionsAndTellsWhenTheLastHasEnded) {
  Serve();
  int idle = 0;
  server_->OnIdle([&] { ++idle; });
  EXPECT_EQ(server_->connections(), 0u);
  std::shared_ptr<ttrpc::Client> first = Connect();
  std::shared_ptr<ttrpc::Client> second = Connect();
  EXPECT_TRUE(RunUntil([&] { return server_->connections() == 2; }));
  first->Close();
  EXPECT_TRUE(RunUntil([&] { return server_->connections() == 1; }));
  EXPECT_EQ(idle, 0);
  second->Close();
  EXPECT_TRUE(RunUntil([&] { return idle == 1; }));
}

// gRPC would speak first.
TEST_F(GrpcServer, ClosesAPeerOfAnotherUserBeforeAByteIsSent) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  Serve();
  ASSERT_EQ(chmod(socket_.path().c_str(), 0666), 0);
  ASSERT_EQ(chmod(socket_.path().substr(0, socket_.path().rfind('/')).c_str(), 0755), 0);
  for (auto [uid, gid] : {std::pair(65534, 0), std::pair(0, 65534)}) {
    const pid_t child = fork();
    if (child == 0) {
      if (gid != 0 && setresgid(65534, 65534, 65534) < 0) _exit(10);
      if (uid != 0 && setresuid(65534, 65534, 65534) < 0) _exit(11);
      const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      memcpy(address.sun_path, socket_.path().data(), socket_.path().size());
      if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) _exit(12);
      char byte;
      _exit(read(fd, &byte, 1) == 0 ? 0 : 13);
    }
    int status = 0;
    bool ended = false;
    EXPECT_TRUE(
        RunUntil([&] { return ended = ended || waitpid(child, &status, WNOHANG) == child; }));
    EXPECT_EQ(status, 0) << WEXITSTATUS(status);
    EXPECT_EQ(server_->connections(), 0u);
  }
  EXPECT_THAT(Call(Connect(), "test.Echo", "Say", "hello").value_or("none"), "hello");
}

TEST_F(GrpcServer, AnExceptionIsInternalAndTheNextCallIsServed) {
  methods_.Add("test.Echo", "Throw",
               [](rpc::CallContext, std::string) -> Async<absl::StatusOr<std::string>> {
                 throw std::runtime_error("bug");
                 co_return std::string();
               });
  Serve();
  std::shared_ptr<ttrpc::Client> client = Connect();
  EXPECT_TRUE(absl::IsInternal(Call(client, "test.Echo", "Throw", "").status()));
  EXPECT_TRUE(Call(client, "test.Echo", "Say", "x").ok());
}

// A thread that takes a signal would be none of the loop's.
TEST_F(GrpcServer, SignalsAreBlockedInEveryThreadButTheLoops) {
  Serve();
  ASSERT_TRUE(Call(Connect(), "test.Echo", "Say", "x").ok());
  size_t threads = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    if (entry.path().filename() == std::to_string(getpid())) continue;
    // One that ends meanwhile is of no interest.
    std::string status = ReadFile(entry.path().string() + "/status").value_or("");
    for (absl::string_view line : absl::StrSplit(status, '\n')) {
      if (!absl::ConsumePrefix(&line, "SigBlk:\t")) continue;
      uint64_t blocked = 0;
      ASSERT_TRUE(absl::SimpleHexAtoi(line, &blocked));
      ++threads;
      for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGUSR1})
        EXPECT_NE(blocked >> (signal - 1) & 1, 0u) << entry.path() << ": " << signal;
    }
  }
  EXPECT_GT(threads, 0u);
}

}  // namespace
}  // namespace feather::test
