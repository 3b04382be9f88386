#include <gtest/gtest.h>
#include <sys/socket.h>

#include "tests/support/raw_ttrpc.h"
#include "tests/support/ttrpc.h"

namespace feather {
namespace {

using test::RawPeer;
using ttrpc::kData;
using ttrpc::kRequest;
using ttrpc::kResponse;

using Answer = absl::StatusOr<std::string>;

// A client on one end of a socket pair and raw bytes on the other.
class TtrpcClient : public test::TtrpcFixture {
 public:
  TtrpcClient() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    client = ttrpc::Client::FromSocket(io, UniqueFd(fds[0]));
    peer = std::make_unique<RawPeer>(io, UniqueFd(fds[1]));
  }

  // Starts a call; its answer appears in the result.
  std::shared_ptr<std::optional<Answer>> Start(
      std::string request, std::optional<Clock::duration> timeout = std::nullopt) {
    auto answer = std::make_shared<std::optional<Answer>>();
    Spawn(io, Collect(client, std::move(request), timeout, answer));
    return answer;
  }
  static Async<> Collect(std::shared_ptr<ttrpc::Client> client, std::string request,
                         std::optional<Clock::duration> timeout,
                         std::shared_ptr<std::optional<Answer>> answer) {
    ttrpc::Client::Metadata metadata;
    metadata.emplace_back("key", "value");
    Answer got = co_await client->Call("test.Service", "Method", request, timeout, metadata);
    *answer = std::move(got);
  }
  absl::Status Status(const std::shared_ptr<std::optional<Answer>>& answer) {
    auto limit = Clock::now() + std::chrono::seconds(60);
    while (!answer->has_value() && Clock::now() < limit) {
      io.restart();
      io.run_one_for(std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(answer->has_value()) << "the call does not end";
    return answer->has_value() ? (*answer)->status() : absl::UnknownError("no answer");
  }
  ::ttrpc::Request ReadRequest(uint32_t stream, uint8_t flags = 0) {
    ::ttrpc::Request request;
    std::optional<ttrpc::Frame> frame = peer->ReadFrame();
    EXPECT_TRUE(frame);
    if (!frame) return request;
    EXPECT_EQ(frame->header.stream, stream);
    EXPECT_EQ(frame->header.type, kRequest);
    EXPECT_EQ(frame->header.flags, flags);
    EXPECT_TRUE(request.ParseFromString(frame->payload));
    return request;
  }
  void Respond(uint32_t stream, const std::string& payload) {
    ::ttrpc::Response response;
    response.set_payload(payload);
    peer->WriteFrame(stream, kResponse, 0, response.SerializeAsString());
  }

  std::shared_ptr<ttrpc::Client> client;
  std::unique_ptr<RawPeer> peer;
};

TEST_F(TtrpcClient, NumbersItsStreamsOneThreeFiveAndSendsEverything) {
  auto one = Start("a");
  auto two = Start("b", std::chrono::seconds(100));
  ::ttrpc::Request first = ReadRequest(1);
  EXPECT_EQ(first.service(), "test.Service");
  EXPECT_EQ(first.method(), "Method");
  EXPECT_EQ(first.payload(), "a");
  EXPECT_EQ(first.timeout_nano(), 0);
  ASSERT_EQ(first.metadata_size(), 1);
  EXPECT_EQ(first.metadata(0).key(), "key");
  EXPECT_EQ(first.metadata(0).value(), "value");
  ::ttrpc::Request second = ReadRequest(3);
  EXPECT_GT(second.timeout_nano(), 0);
  EXPECT_LE(second.timeout_nano(), 100'000'000'000);
  Respond(3, "2");
  EXPECT_TRUE(Status(two).ok());
  EXPECT_FALSE(one->has_value());
  Respond(1, "1");
  EXPECT_TRUE(Status(one).ok());
  EXPECT_EQ(***one, "1");
  EXPECT_EQ(***two, "2");
}

TEST_F(TtrpcClient, AcceptsAnEmptyFrameAndAStatusOfZeroAsSuccess) {
  auto one = Start("");
  auto two = Start("");
  peer->WriteFrame(1, kResponse, 0, "");
  ::ttrpc::Response response;
  response.mutable_status()->set_code(0);
  response.set_payload("x");
  peer->WriteFrame(3, kResponse, 0, response.SerializeAsString());
  EXPECT_TRUE(Status(one).ok());
  EXPECT_TRUE(Status(two).ok());
  EXPECT_EQ(***two, "x");
}

// Checklist: T13.
TEST_F(TtrpcClient, ReturnsThePeersStatus) {
  auto call = Start("");
  ::ttrpc::Response response;
  response.mutable_status()->set_code(5);
  response.mutable_status()->set_message("no such container: not found");
  peer->WriteFrame(1, kResponse, 0, response.SerializeAsString());
  EXPECT_EQ(Status(call), absl::NotFoundError("no such container: not found"));
}

TEST_F(TtrpcClient, FailsOneCallForAFrameThatIsNoResponse) {
  auto data = Start("");
  auto rubbish = Start("");
  auto fine = Start("");
  peer->WriteFrame(1, kData, 0, "x");
  peer->WriteFrame(3, kResponse, 0, "\xff\xff");
  Respond(5, "");
  EXPECT_EQ(Status(data).message(), "unexpected \"data\" message received: protocol error");
  EXPECT_EQ(Status(rubbish).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(Status(fine).ok());
}

TEST_F(TtrpcClient, DrainsAFrameAboveTheLimitAndFailsItsCallOnly) {
  auto big = Start("");
  auto fine = Start("");
  char header[ttrpc::kHeaderSize];
  ttrpc::EncodeHeader({.length = 5 << 20, .stream = 1, .type = kResponse, .flags = 0}, header);
  peer->Write(absl::string_view(header, sizeof(header)));
  peer->Write(std::string(5 << 20, 'x'));
  Respond(3, "");
  EXPECT_EQ(Status(big), absl::ResourceExhaustedError(
                             "message length 5242880 exceed maximum message size of 4194304"));
  EXPECT_TRUE(Status(fine).ok());
}

TEST_F(TtrpcClient, ATimeoutForgetsTheCallAndALateResponseIsDropped) {
  auto late = Start("", std::chrono::milliseconds(20));
  ReadRequest(1);
  EXPECT_EQ(Status(late).code(), absl::StatusCode::kDeadlineExceeded);
  Respond(1, "late");
  Respond(99, "nobody's");
  auto next = Start("");
  ReadRequest(3);
  Respond(3, "in time");
  EXPECT_TRUE(Status(next).ok());
  EXPECT_EQ(***next, "in time");
}

TEST_F(TtrpcClient, ATimeoutThatHasPassedSendsNothing) {
  EXPECT_EQ(Status(Start("", std::chrono::seconds(-1))).code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Status(Start("", std::chrono::seconds(0))).code(), absl::StatusCode::kDeadlineExceeded);
  auto next = Start("");
  ReadRequest(1);
}

TEST_F(TtrpcClient, EveryCallFailsWhenTheConnectionEnds) {
  auto one = Start("");
  auto two = Start("", std::chrono::seconds(100));
  ReadRequest(1);
  peer->Write("\0\0");  // in the middle of a frame
  peer->Close();
  EXPECT_EQ(Status(one), absl::UnavailableError("ttrpc: closed"));
  EXPECT_EQ(Status(two), absl::UnavailableError("ttrpc: closed"));
  EXPECT_TRUE(client->closed());
  EXPECT_EQ(Status(Start("")), absl::UnavailableError("ttrpc: closed"));
}

TEST_F(TtrpcClient, CloseEndsEveryCall) {
  auto one = Start("");
  ReadRequest(1);
  client->Close();
  EXPECT_EQ(Status(one), absl::UnavailableError("ttrpc: closed"));
  EXPECT_TRUE(peer->ReadsEof());
}

TEST_F(TtrpcClient, DroppingTheClientClosesTheConnection) {
  client = nullptr;
  EXPECT_TRUE(peer->ReadsEof());
}

TEST_F(TtrpcClient, RefusesToSendARequestAboveTheLimit) {
  EXPECT_EQ(Status(Start(std::string(ttrpc::kMaxPayload, 'x'))).code(),
            absl::StatusCode::kResourceExhausted);
  auto next = Start("");
  ReadRequest(1);
}

TEST_F(TtrpcClient, CallsWaitForAPeerThatDoesNotReadAndTheirTimeoutHolds) {
  std::vector<std::shared_ptr<std::optional<Answer>>> calls;
  for (int i = 0; i < 8; ++i) calls.push_back(Start(std::string(1 << 20, 'x')));
  auto timed = Start("", std::chrono::milliseconds(50));
  EXPECT_EQ(Status(timed).code(), absl::StatusCode::kDeadlineExceeded);
  for (uint32_t i = 0; i < 8; ++i) ReadRequest(2 * i + 1);
}

TEST_F(TtrpcClient, ConnectIsUnavailableWhenNobodyListens) {
  Run([](TtrpcClient* t) -> Async<> {
    auto missing = co_await ttrpc::Client::Connect(t->io, "unix://" + t->socket.path());
    EXPECT_TRUE(absl::IsUnavailable(missing.status())) << missing.status();
    { UniqueFd gone = t->socket.Listen(); }
    auto refused = co_await ttrpc::Client::Connect(t->io, t->socket.path());
    EXPECT_TRUE(absl::IsUnavailable(refused.status())) << refused.status();
    auto nonsense = co_await ttrpc::Client::Connect(t->io, std::string(200, 'x'));
    EXPECT_TRUE(absl::IsInvalidArgument(nonsense.status())) << nonsense.status();
  }(this));
}

TEST_F(TtrpcClient, ConnectWaitsForRoomInTheBacklog) {
  UniqueFd listener = socket.Listen(0);
  RawPeer first = RawPeer::Connect(io, socket.path());  // fills it
  bool connected = false;
  Spawn(io, [](TtrpcClient* t, bool* done) -> Async<> {
    auto second = co_await ttrpc::Client::Connect(t->io, t->socket.path());
    EXPECT_TRUE(second.ok()) << second.status();
    *done = second.ok();
  }(this, &connected));
  io.restart();
  io.run_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(connected);
  UniqueFd accepted(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  auto limit = Clock::now() + std::chrono::seconds(60);
  while (!connected && Clock::now() < limit) io.run_one_for(std::chrono::milliseconds(10));
  EXPECT_TRUE(connected);
}

TEST_F(TtrpcClient, AThousandCallsInFlightAgainstTheServer) {
  AddEcho();
  Serve();
  Run([](TtrpcClient* t) -> Async<> { t->client = co_await t->Connect(); }(this));
  std::vector<std::shared_ptr<std::optional<Answer>>> calls;
  for (int i = 0; i < 1000; ++i) {
    auto answer = std::make_shared<std::optional<Answer>>();
    Spawn(io,
          [](std::shared_ptr<ttrpc::Client> c, int n,
             std::shared_ptr<std::optional<Answer>> a) -> Async<> {
            Answer got = co_await c->Call("test.Echo", "Say", std::to_string(n));
            *a = std::move(got);
          }(client, i, answer));
    calls.push_back(answer);
  }
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(Status(calls[static_cast<size_t>(i)]).ok());
    EXPECT_EQ(***calls[static_cast<size_t>(i)], std::to_string(i));
  }
}

}  // namespace
}  // namespace feather
