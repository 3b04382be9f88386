#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "shim/ttrpc/inbox.h"
#include "tests/support/raw_ttrpc.h"
#include "tests/support/ttrpc.h"

namespace feather {
namespace {

using test::RawPeer;
using ttrpc::kData;
using ttrpc::kNoData;
using ttrpc::kRemoteClosed;
using ttrpc::kRemoteOpen;
using ttrpc::kRequest;
using ttrpc::kResponse;

using Message = absl::StatusOr<std::optional<std::string>>;
using StreamPtr = std::shared_ptr<rpc::ServerStream>;

// "test.Stream/Join" takes a stream and answers its messages joined; Count takes a number and
// streams as many messages; Echo sends back what it gets until the message "fail"; Slow waits for
// the connection's end before it receives anything.
class TtrpcStream : public test::TtrpcFixture {
 public:
  TtrpcStream() {
    methods.AddStream("test.Stream", "Join", true, false,
                      [](rpc::CallContext, StreamPtr stream) { return Join(stream); });
    methods.AddStream("test.Stream", "Count", false, true,
                      [](rpc::CallContext, StreamPtr stream) { return Count(stream); });
    methods.AddStream("test.Stream", "Echo", true, true,
                      [](rpc::CallContext, StreamPtr stream) { return Echo(stream); });
    methods.AddStream("test.Stream", "Slow", true, true,
                      [this](rpc::CallContext context, StreamPtr stream) {
                        return Slow(this, context.gone, stream);
                      });
    AddEcho();
    Serve();
  }

  static Async<absl::StatusOr<std::string>> Join(StreamPtr stream) {
    std::string all;
    while (true) {
      Message message = co_await stream->Receive();
      if (!message.ok()) co_return message.status();
      if (!*message) co_return all;
      all += **message + ";";
    }
  }
  static Async<absl::StatusOr<std::string>> Count(StreamPtr stream) {
    Message message = co_await stream->Receive();
    if (!message.ok() || !*message) co_return absl::InvalidArgumentError("no number");
    int count = std::stoi(**message);
    for (int i = 0; i < count; ++i) {
      absl::Status sent = co_await stream->Send(std::to_string(i));
      if (!sent.ok()) co_return sent;
    }
    Message end = co_await stream->Receive();
    if (!end.ok() || *end) co_return absl::InvalidArgumentError("a second request");
    co_return std::string();
  }
  static Async<absl::StatusOr<std::string>> Echo(StreamPtr stream) {
    while (true) {
      Message message = co_await stream->Receive();
      if (!message.ok()) co_return message.status();
      if (!*message) co_return std::string();
      if (**message == "fail") co_return absl::NotFoundError("as asked");
      absl::Status sent = co_await stream->Send(**message);
      if (!sent.ok()) co_return sent;
    }
  }
  static Async<absl::StatusOr<std::string>> Slow(TtrpcStream* self, std::shared_ptr<Event> gone,
                                                 StreamPtr stream) {
    co_await gone->Wait();
    Message message = co_await stream->Receive();
    while (message.ok() && *message) message = co_await stream->Receive();
    self->slow_end = message.status();
    co_return std::string();
  }

  static Async<std::shared_ptr<ttrpc::ClientStream>> Open(std::shared_ptr<ttrpc::Client> client,
                                                          std::string method,
                                                          ttrpc::Client::StreamOptions options) {
    auto stream = co_await client->Open("test.Stream", method, std::move(options));
    EXPECT_TRUE(stream.ok()) << stream.status();
    co_return stream.value_or(nullptr);
  }
  // "=" and the message, "end", or the error.
  static Async<std::string> Next(std::shared_ptr<ttrpc::ClientStream> stream) {
    Message message = co_await stream->Receive();
    if (!message.ok()) co_return message.status().ToString();
    std::string text = "end";
    if (*message) text = "=" + **message;
    co_return text;
  }
  RawPeer Peer() { return RawPeer::Connect(io, socket.path()); }

  std::optional<absl::Status> slow_end;
};

TEST_F(TtrpcStream, AClientStreamsAndGetsOneAnswer) {
  Run([](TtrpcStream* t) -> Async<> {
    auto client = co_await t->Connect();
    ttrpc::Client::StreamOptions options;
    options.client_streams = true;
    auto stream = co_await Open(client, "Join", options);
    for (const char* text : {"a", "", "c"}) EXPECT_TRUE((co_await stream->Send(text)).ok());
    EXPECT_TRUE(stream->CloseSend().ok());
    EXPECT_FALSE((co_await stream->Send("late")).ok());
    EXPECT_EQ(co_await Next(stream), "=a;;c;");
    EXPECT_EQ(co_await Next(stream), "end");
  }(this));
}

TEST_F(TtrpcStream, AServerStreamsMoreThanItsClientBuffers) {
  Run([](TtrpcStream* t) -> Async<> {
    auto client = co_await t->Connect();
    ttrpc::Client::StreamOptions options;
    options.server_streams = true;
    options.request = "500";
    auto stream = co_await Open(client, "Count", options);
    EXPECT_FALSE((co_await stream->Send("no")).ok());
    for (int i = 0; i < 500; ++i) EXPECT_EQ(co_await Next(stream), "=" + std::to_string(i));
    EXPECT_EQ(co_await Next(stream), "end");
    EXPECT_EQ(co_await Next(stream), "end");
  }(this));
}

TEST_F(TtrpcStream, BothSidesStreamUntilTheClientCloses) {
  Run([](TtrpcStream* t) -> Async<> {
    auto client = co_await t->Connect();
    ttrpc::Client::StreamOptions options;
    options.client_streams = true;
    options.server_streams = true;
    auto one = co_await Open(client, "Echo", options);
    auto two = co_await Open(client, "Echo", options);
    for (int i = 0; i < 200; ++i) {
      EXPECT_TRUE((co_await one->Send(std::to_string(i))).ok());
      EXPECT_TRUE((co_await two->Send("two")).ok());
      EXPECT_EQ(co_await Next(one), "=" + std::to_string(i));
      EXPECT_EQ(co_await Next(two), "=two");
    }
    EXPECT_TRUE(one->CloseSend().ok());
    EXPECT_EQ(co_await Next(one), "end");
    EXPECT_TRUE((co_await two->Send("fail")).ok());
    EXPECT_EQ(co_await Next(two), "NOT_FOUND: as asked");
    EXPECT_EQ(co_await Next(two), "end");
  }(this));
}

TEST_F(TtrpcStream, AnUnknownMethodOrAConnectionsEndIsTheStreamsError) {
  Run([](TtrpcStream* t) -> Async<> {
    auto client = co_await t->Connect();
    ttrpc::Client::StreamOptions options;
    options.client_streams = true;
    options.server_streams = true;
    auto unknown = co_await Open(client, "Nothing", options);
    EXPECT_EQ(co_await Next(unknown), "UNIMPLEMENTED: method Nothing");
    auto cut = co_await Open(client, "Slow", options);
    client->Close();
    EXPECT_EQ(co_await Next(cut), "UNAVAILABLE: ttrpc: closed");
    EXPECT_EQ((co_await cut->Send("x")).code(), absl::StatusCode::kUnavailable);
  }(this));
}

TEST_F(TtrpcStream, AStreamsTimeoutHoldsForItsReceive) {
  Run([](TtrpcStream* t) -> Async<> {
    auto client = co_await t->Connect();
    ttrpc::Client::StreamOptions options;
    options.client_streams = true;
    options.server_streams = true;
    options.timeout = std::chrono::milliseconds(30);
    auto stream = co_await Open(client, "Slow", options);
    EXPECT_EQ(co_await Next(stream), "DEADLINE_EXCEEDED: context deadline exceeded");
  }(this));
}

TEST_F(TtrpcStream, SendsTheFramesOfTheProtocol) {
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Stream", "Count", "2", 0, kRemoteClosed);
  for (const char* text : {"0", "1"}) {
    std::optional<ttrpc::Frame> frame = peer.ReadFrame();
    ASSERT_TRUE(frame);
    EXPECT_EQ(frame->header.stream, 1u);
    EXPECT_EQ(frame->header.type, kData);
    EXPECT_EQ(frame->header.flags, 0);
    EXPECT_EQ(frame->payload, text);
  }
  std::optional<ttrpc::Frame> end = peer.ReadFrame();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->header.type, kData);
  EXPECT_EQ(end->header.flags, kRemoteClosed | kNoData);
  EXPECT_EQ(end->payload, "");

  peer.WriteRequest(3, "test.Stream", "Join", "", 0, kRemoteOpen);
  peer.WriteFrame(3, kData, 0, "a");
  peer.WriteFrame(3, kData, 0, "");
  peer.WriteFrame(3, kData, kRemoteClosed | kNoData, "");
  EXPECT_EQ(peer.ReadResponse(3).payload(), "a;;");
  peer.WriteFrame(3, kData, 0, "more");
  EXPECT_EQ(peer.ReadStatus(3), "3 StreamID is no longer active");
}

TEST_F(TtrpcStream, RejectsDataAfterTheEndAndDataInTheClosingFrame) {
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Stream", "Slow", "", 0, kRemoteOpen);
  peer.WriteFrame(1, kData, kRemoteClosed | kNoData, "");
  peer.WriteFrame(1, kData, 0, "late");
  EXPECT_EQ(peer.ReadStatus(1), "3 data handling error: ttrpc: stream closed");
  peer.WriteRequest(3, "test.Stream", "Slow", "", 0, kRemoteOpen);
  peer.WriteFrame(3, kData, kRemoteClosed, "last");
  EXPECT_EQ(peer.ReadStatus(3), "3 data close message cannot include data");
  peer.WriteRequest(5, "test.Echo", "Say", "x");
  EXPECT_EQ(peer.ReadResponse(5).payload(), "x");
}

TEST_F(TtrpcStream, FailsAStreamWhoseHandlerDoesNotReceiveAndServesTheOthers) {
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Stream", "Slow", "", 0, kRemoteOpen);
  for (size_t i = 0; i < ttrpc::Inbox::kMaxFrames + 1; ++i) peer.WriteFrame(1, kData, 0, "m");
  peer.WriteRequest(3, "test.Echo", "Say", "x");
  EXPECT_EQ(peer.ReadStatus(1), "3 data handling error: ttrpc: stream buffer full");
  EXPECT_EQ(peer.ReadResponse(3).payload(), "x");
}

TEST_F(TtrpcStream, AHandlerLearnsThatItsConnectionHasEnded) {
  {
    RawPeer peer = Peer();
    peer.WriteRequest(1, "test.Stream", "Slow", "", 0, kRemoteOpen);
    peer.WriteRequest(3, "test.Echo", "Say", "x");
    peer.ReadResponse(3);
  }
  auto limit = Clock::now() + std::chrono::seconds(60);
  while (!slow_end && Clock::now() < limit) io.run_one_for(std::chrono::milliseconds(10));
  ASSERT_TRUE(slow_end);
  EXPECT_TRUE(absl::IsCancelled(*slow_end)) << *slow_end;
}

TEST_F(TtrpcStream, ASenderWaitsForAPeerThatDoesNotRead) {
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Stream", "Count", "1000000", 0, kRemoteClosed);
  for (int i = 0; i < 200; ++i) {
    io.restart();
    io.poll();
  }
  // Far from all is buffered; reading it goes on where it stopped.
  for (int i = 0; i < 1000; ++i) {
    std::optional<ttrpc::Frame> frame = peer.ReadFrame();
    ASSERT_TRUE(frame);
    ASSERT_EQ(frame->payload, std::to_string(i));
  }
}

}  // namespace
}  // namespace feather
