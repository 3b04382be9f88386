#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "tests/support/raw_ttrpc.h"
#include "tests/support/ttrpc.h"

namespace feather {
namespace {

using test::RawPeer;
using ttrpc::kData;
using ttrpc::kMaxPayload;
using ttrpc::kNoData;
using ttrpc::kRemoteClosed;
using ttrpc::kRequest;
using ttrpc::kResponse;

// Beside "test.Echo/Say": "test.Wait/Forever" answers only when the connection has ended or the
// deadline passed, "test.Fail/*" fail in several ways, "test.Big/Make" answers N bytes.
class TtrpcServer : public test::TtrpcFixture {
 public:
  TtrpcServer() {
    AddEcho();
    methods.Add("test.Wait", "Forever",
                [this](rpc::CallContext context, std::string) { return Forever(this, context); });
    methods.Add("test.Fail", "NotFound",
                [](rpc::CallContext, std::string text) -> Async<absl::StatusOr<std::string>> {
                  co_return absl::NotFoundError(text);
                });
    methods.Add("test.Fail", "Throw",
                [](rpc::CallContext, std::string) -> Async<absl::StatusOr<std::string>> {
                  throw std::runtime_error("a bug");
                  co_return std::string();
                });
    methods.Add("test.Big", "Make",
                [](rpc::CallContext, std::string size) -> Async<absl::StatusOr<std::string>> {
                  co_return std::string(std::stoul(size), 'b');
                });
    methods.Add("test.Context", "Tell",
                [](rpc::CallContext context, std::string) -> Async<absl::StatusOr<std::string>> {
                  std::string text = context.deadline ? "deadline" : "none";
                  for (auto& [key, value] : context.metadata)
                    absl::StrAppend(&text, " ", key, "=", value);
                  co_return text;
                });
    methods.AddUnary<::ttrpc::KeyValue, ::ttrpc::KeyValue>(
        "test.Typed", "Swap",
        [](rpc::CallContext, ::ttrpc::KeyValue in) -> Async<absl::StatusOr<::ttrpc::KeyValue>> {
          ::ttrpc::KeyValue out;
          out.set_key(in.value());
          out.set_value(in.key());
          co_return out;
        });
  }

  static Async<absl::StatusOr<std::string>> Forever(TtrpcServer* self, rpc::CallContext context) {
    ++self->waiting;
    std::vector<Event*> events(1, context.gone.get());
    int which = co_await WaitAny(events, context.deadline);
    --self->waiting;
    if (which < 0) co_return absl::DeadlineExceededError("context deadline exceeded");
    ++self->gone;
    co_return absl::CancelledError("context canceled");
  }

  RawPeer Peer() { return RawPeer::Connect(io, socket.path()); }
  void ExpectServes(RawPeer& peer, uint32_t stream) {
    peer.WriteRequest(stream, "test.Echo", "Say", "still here");
    EXPECT_EQ(peer.ReadResponse(stream).payload(), "still here");
  }
  template <typename Predicate>
  void Until(Predicate done) {
    auto limit = Clock::now() + std::chrono::seconds(60);
    while (!done() && Clock::now() < limit) {
      io.restart();
      io.run_one_for(std::chrono::milliseconds(10));
    }
    EXPECT_TRUE(done());
  }

  int waiting = 0;
  int gone = 0;
};

// Checklist: T1.
TEST_F(TtrpcServer, AnswersAUnaryRequestWrittenByteByByte) {
  Serve();
  RawPeer peer = Peer();
  std::string bytes =
      ttrpc::EncodeFrame(1, kRequest, 0, test::MakeRequest("test.Echo", "Say", "x"));
  for (char byte : bytes) {
    peer.Write(absl::string_view(&byte, 1));
    io.restart();
    io.poll();
  }
  ::ttrpc::Response response = peer.ReadResponse(1);
  EXPECT_FALSE(response.has_status());
  EXPECT_EQ(response.payload(), "x");
}

// Lengths around those of the reader's buffers; the rest of a request is there already, comes
// later, or comes together with the next request.
TEST_F(TtrpcServer, TakesRequestsOfAnyLengthHoweverTheyArrive) {
  Serve();
  RawPeer peer = Peer();
  std::vector<size_t> lengths = {0, 1000, 4000, 70'000, 300'000};
  for (size_t around : {512, 2048, 2560, 4608})
    for (size_t length = around - 60; length < around + 20; length += 3) lengths.push_back(length);
  uint32_t id = 1;
  for (size_t length : lengths) {
    for (size_t cut : {5, 300, 512, 1500, 1'000'000}) {
      std::string text;
      while (text.size() < length) absl::StrAppend(&text, text.size(), ",");
      text.resize(length);
      std::string bytes;
      for (uint32_t next : {id, id + 2})
        bytes += ttrpc::EncodeFrame(next, kRequest, 0, test::MakeRequest("test.Echo", "Say", text));
      peer.Write(bytes.substr(0, cut));
      io.restart();
      io.poll();
      if (cut < bytes.size()) peer.Write(bytes.substr(cut));
      for (uint32_t next : {id, id + 2}) ASSERT_EQ(peer.ReadResponse(next).payload(), text) << cut;
      id += 4;
    }
  }
}

TEST_F(TtrpcServer, AnEmptyResponseIsAnEmptyFrame) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Echo", "Say", "");
  std::optional<ttrpc::Frame> frame = peer.ReadFrame();
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->header.type, kResponse);
  EXPECT_EQ(frame->payload, "");
}

// Checklist: T2.
TEST_F(TtrpcServer, AnswersPipelinedRequestsInOrderOfCompletion) {
  Serve();
  RawPeer peer = Peer();
  std::string bytes;
  for (uint32_t id = 1; id < 2001; id += 2)
    bytes += ttrpc::EncodeFrame(id, kRequest, 0,
                                test::MakeRequest("test.Echo", "Say", absl::StrCat(id)));
  peer.Write(bytes);
  for (uint32_t id = 1; id < 2001; id += 2)
    EXPECT_EQ(peer.ReadResponse(id).payload(), absl::StrCat(id));
}

TEST_F(TtrpcServer, AThousandWaitingRequestsHoldUpNobody) {
  Serve();
  RawPeer peer = Peer();
  for (uint32_t id = 1; id < 2001; id += 2) peer.WriteRequest(id, "test.Wait", "Forever", "");
  ExpectServes(peer, 2001);
  EXPECT_EQ(waiting, 1000);
  RawPeer other = Peer();
  ExpectServes(other, 1);
  peer.Close();
  Until([this] { return gone == 1000; });
  ExpectServes(other, 3);
  EXPECT_EQ(server->connections(), 1u);
}

// Checklist: T10.
TEST_F(TtrpcServer, ServesManyConnections) {
  Serve();
  std::vector<RawPeer> peers;
  for (int i = 0; i < 300; ++i) {
    peers.push_back(Peer());
    io.restart();
    io.poll();
  }
  for (RawPeer& peer : peers) ExpectServes(peer, 1);
  EXPECT_EQ(server->connections(), 300u);
  peers.clear();
  Until([this] { return server->connections() == 0; });
}

TEST_F(TtrpcServer, DrainsAFrameAboveTheLimitAnswersItAndKeepsTheConnection) {
  Serve();
  RawPeer peer = Peer();
  char header[ttrpc::kHeaderSize];
  ttrpc::EncodeHeader({.length = 5 << 20, .stream = 7, .type = kRequest, .flags = 0}, header);
  peer.Write(absl::string_view(header, sizeof(header)));
  peer.Write(std::string(5 << 20, 'x'));
  EXPECT_EQ(peer.ReadStatus(7), "8 message length 5242880 exceed maximum message size of 4194304");
  ExpectServes(peer, 7);
}

TEST_F(TtrpcServer, TakesAndAnswersALongMessageWithinTheLimit) {
  Serve();
  RawPeer peer = Peer();
  std::string payload(kMaxPayload - 100, 'l');
  peer.WriteRequest(1, "test.Echo", "Say", payload);
  EXPECT_EQ(peer.ReadResponse(1).payload(), payload);
}

// Checklist: T3.
TEST_F(TtrpcServer, AnswersResourceExhaustedForAResponseAboveTheLimit) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Big", "Make", absl::StrCat(kMaxPayload));
  EXPECT_EQ(peer.ReadStatus(1), "8 message length 4194309 exceed maximum message size of 4194304");
  ExpectServes(peer, 3);
}

// Checklist: T4.
TEST_F(TtrpcServer, RejectsEvenStreamIds) {
  Serve();
  RawPeer peer = Peer();
  for (uint32_t id : {0u, 2u, 0xfffffffeu}) {
    peer.WriteRequest(id, "test.Echo", "Say", "x");
    EXPECT_EQ(peer.ReadStatus(id), "3 StreamID must be odd for client initiated streams");
  }
  ExpectServes(peer, 1);
}

// Checklist: T4.
TEST_F(TtrpcServer, RejectsStreamIdsThatDoNotIncrease) {
  Serve();
  RawPeer peer = Peer();
  ExpectServes(peer, 5);
  for (uint32_t id : {5u, 3u}) {
    peer.WriteRequest(id, "test.Echo", "Say", "x");
    EXPECT_EQ(peer.ReadStatus(id), "3 StreamID cannot be re-used and must increment");
  }
  ExpectServes(peer, 7);
}

TEST_F(TtrpcServer, RejectsDataOfAnUnknownStream) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteFrame(1, kData, 0, "x");
  EXPECT_EQ(peer.ReadStatus(1), "3 StreamID is no longer active");
  ExpectServes(peer, 3);
}

TEST_F(TtrpcServer, RejectsARequestThatDoesNotParse) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteFrame(1, kRequest, 0, "\xff\xff\xff");
  std::string status = peer.ReadStatus(1);
  EXPECT_EQ(status.find("3 unmarshal request error: "), 0u) << status;
  ExpectServes(peer, 3);
}

TEST_F(TtrpcServer, NamesTheUnknownServiceOrMethod) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "no.Service", "Say", "");
  EXPECT_EQ(peer.ReadStatus(1), "12 service no.Service");
  peer.WriteRequest(3, "test.Echo", "Shout", "");
  EXPECT_EQ(peer.ReadStatus(3), "12 method Shout");
  peer.WriteFrame(5, kRequest, 0, "");
  EXPECT_EQ(peer.ReadStatus(5), "12 service ");
}

TEST_F(TtrpcServer, ParsesTypedRequests) {
  Serve();
  RawPeer peer = Peer();
  ::ttrpc::KeyValue in;
  in.set_key("k");
  in.set_value("v");
  peer.WriteRequest(1, "test.Typed", "Swap", in.SerializeAsString() + "\x98\x06\x01");
  ::ttrpc::KeyValue out;
  ASSERT_TRUE(out.ParseFromString(peer.ReadResponse(1).payload()));
  EXPECT_EQ(out.key(), "v");
  peer.WriteRequest(3, "test.Typed", "Swap", "\x0a\x7f");
  std::string status = peer.ReadStatus(3);
  EXPECT_EQ(status.find("13 ttrpc: error unmarshalling payload: "), 0u) << status;
}

TEST_F(TtrpcServer, IgnoresFramesOfOtherTypes) {
  Serve();
  RawPeer peer = Peer();
  for (uint8_t type : {uint8_t{0}, kResponse, uint8_t{4}, uint8_t{255}})
    peer.WriteFrame(1, type, 0xff, "x");
  ExpectServes(peer, 1);
}

// Checklist: T5.
TEST_F(TtrpcServer, IgnoresDataForAUnaryCall) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Wait", "Forever", "");
  peer.WriteFrame(1, kData, 0, "x");
  peer.WriteFrame(1, kData, kRemoteClosed | kNoData, "");
  ExpectServes(peer, 3);
  EXPECT_EQ(waiting, 1);
}

// Checklist: T13.
TEST_F(TtrpcServer, SendsTheHandlersStatusAsValidUtf8) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Fail", "NotFound", "no such \xff container");
  EXPECT_EQ(peer.ReadStatus(1), "5 no such ? container");
}

TEST_F(TtrpcServer, AnExceptionEndsItsRequestOnly) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Fail", "Throw", "");
  EXPECT_EQ(peer.ReadStatus(1), "13 exception: a bug");
  ExpectServes(peer, 3);
}

// Checklist: T12.
TEST_F(TtrpcServer, GivesTheHandlerMetadataAndDeadline) {
  Serve();
  RawPeer peer = Peer();
  ::ttrpc::Request request;
  request.set_service("test.Context");
  request.set_method("Tell");
  request.set_timeout_nano(1);
  for (const char* value : {"1", "2"}) {
    ::ttrpc::KeyValue* pair = request.add_metadata();
    pair->set_key("k");
    pair->set_value(value);
  }
  peer.WriteFrame(1, kRequest, 0, request.SerializeAsString());
  EXPECT_EQ(peer.ReadResponse(1).payload(), "deadline k=1 k=2");
  peer.WriteRequest(3, "test.Context", "Tell", "", 0);
  EXPECT_EQ(peer.ReadResponse(3).payload(), "none");
  peer.WriteRequest(5, "test.Context", "Tell", "", std::numeric_limits<int64_t>::max());
  EXPECT_EQ(peer.ReadResponse(5).payload(), "none");
}

TEST_F(TtrpcServer, ATimeoutEndsAWaitAlsoWhenItHasPassedAlready) {
  Serve();
  RawPeer peer = Peer();
  uint32_t id = 1;
  for (int64_t timeout : {int64_t{-1}, std::numeric_limits<int64_t>::min(), int64_t{20'000'000}}) {
    peer.WriteRequest(id, "test.Wait", "Forever", "", timeout);
    EXPECT_EQ(peer.ReadStatus(id), "4 context deadline exceeded");
    id += 2;
  }
}

TEST_F(TtrpcServer, AHalfClosedConnectionIsClosedAtOnceAndItsCallsLearnIt) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Wait", "Forever", "");
  Until([this] { return waiting == 1; });
  shutdown(peer.fd(), SHUT_WR);
  EXPECT_TRUE(peer.ReadsEof());
  Until([this] { return gone == 1; });
  EXPECT_EQ(server->connections(), 0u);
}

TEST_F(TtrpcServer, AConnectionMayEndInTheMiddleOfAFrame) {
  Serve();
  std::string bytes = ttrpc::EncodeFrame(1, kRequest, 0, std::string(5000, 'x'));
  for (size_t size : {size_t{1}, size_t{9}, size_t{10}, size_t{11}, size_t{4000}}) {
    RawPeer peer = Peer();
    peer.Write(absl::string_view(bytes).substr(0, size));
    Until([this] { return server->connections() == 1; });
    peer.Close();
    Until([this] { return server->connections() == 0; });
  }
}

TEST_F(TtrpcServer, StopsReadingFromAPeerThatDoesNotReadItsAnswers) {
  Serve();
  RawPeer slow = Peer();
  // Requests of some bytes whose answers have 100 KiB: written until the server takes no more.
  uint32_t id = 1;
  int idle_turns = 0;
  while (idle_turns < 50) {
    std::string bytes =
        ttrpc::EncodeFrame(id, kRequest, 0, test::MakeRequest("test.Big", "Make", "102400"));
    ssize_t n = send(slow.fd(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
      ASSERT_EQ(n, static_cast<ssize_t>(bytes.size()));
      id += 2;
      idle_turns = 0;
      ASSERT_LT(id, 1u << 20) << "the server goes on reading";
    } else {
      ++idle_turns;
    }
    io.restart();
    io.poll();
  }
  RawPeer other = Peer();
  ExpectServes(other, 1);
  // Once it reads, everything is answered.
  for (uint32_t i = 1; i < id; i += 2) ASSERT_EQ(slow.ReadResponse(i).payload().size(), 102400u);
  ExpectServes(slow, id);
}

// Checklist: T7.
TEST_F(TtrpcServer, ClosesAPeerOfAnotherUserBeforeAByteIsRead) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  Serve();
  chmod(socket.path().c_str(), 0666);
  chmod(socket.path().substr(0, socket.path().rfind('/')).c_str(), 0755);
  for (auto [uid, gid] : {std::pair(65534, 0), std::pair(0, 65534)}) {
    pid_t child = fork();
    if (child == 0) {
      if (gid != 0 && setresgid(65534, 65534, 65534) < 0) _exit(10);
      if (uid != 0 && setresuid(65534, 65534, 65534) < 0) _exit(11);
      int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      memcpy(address.sun_path, socket.path().data(), socket.path().size());
      if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0) _exit(12);
      char byte;
      ssize_t n = read(fd, &byte, 1);
      _exit(n == 0 ? 0 : 13);
    }
    int status = 0;
    bool ended = false;
    Until([&] { return ended = ended || waitpid(child, &status, WNOHANG) == child; });
    EXPECT_EQ(status, 0) << WEXITSTATUS(status);
    EXPECT_EQ(server->connections(), 0u);
  }
}

// Checklist: T11.
TEST_F(TtrpcServer, BacksOffWhenDescriptorsRunOutAndGoesOnWhenThereAreSome) {
  Serve();
  io.poll();
  std::vector<RawPeer> peers;
  peers.push_back(Peer());
  peers.push_back(Peer());
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  int lowest_free = dup(0);
  close(lowest_free);
  rlimit none = old;
  none.rlim_cur = static_cast<rlim_t>(lowest_free);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  auto end = Clock::now() + std::chrono::milliseconds(300);
  size_t turns = 0;
  while (Clock::now() < end) {
    io.restart();
    turns += io.run_one_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(server->connections(), 0u);
  EXPECT_LT(turns, 100u) << "it spins";
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  for (RawPeer& peer : peers) ExpectServes(peer, 1);
}

TEST_F(TtrpcServer, TellsWhenItsLastConnectionHasEnded) {
  int idle = 0;
  Serve();
  server->OnIdle([&idle] { ++idle; });
  RawPeer one = Peer();
  RawPeer two = Peer();
  ExpectServes(one, 1);
  ExpectServes(two, 1);
  one.Close();
  Until([this] { return server->connections() == 1; });
  EXPECT_EQ(idle, 0);
  two.Close();
  Until([&idle] { return idle == 1; });
}

TEST_F(TtrpcServer, AfterStopOpenConnectionsGoOnAndNoneIsAdded) {
  Serve();
  RawPeer peer = Peer();
  ExpectServes(peer, 1);
  server->Stop();
  ExpectServes(peer, 3);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, socket.path().data(), socket.path().size());
  EXPECT_NE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
}

TEST_F(TtrpcServer, FlushWaitsUntilWhatWasAnsweredIsWritten) {
  Serve();
  RawPeer peer = Peer();
  peer.WriteRequest(1, "test.Big", "Make", "4000000");
  ExpectServes(*std::make_unique<RawPeer>(Peer()), 1);  // the request above has been handled
  bool flushed = false;
  Spawn(io, [](ttrpc::Server* s, bool* done) -> Async<> {
    co_await s->Flush(std::chrono::seconds(60));
    *done = true;
  }(server.get(), &flushed));
  io.restart();
  io.poll();
  EXPECT_FALSE(flushed);
  EXPECT_EQ(peer.ReadResponse(1).payload().size(), 4000000u);
  Until([&flushed] { return flushed; });
}

TEST_F(TtrpcServer, CanBeClosedAndDestroyedWithCallsInFlight) {
  Serve();
  RawPeer peer = Peer();
  for (uint32_t id = 1; id < 21; id += 2) peer.WriteRequest(id, "test.Wait", "Forever", "");
  Until([this] { return waiting == 10; });
  server = nullptr;
  methods = rpc::MethodTable();
  EXPECT_TRUE(peer.ReadsEof());
  Until([this] { return gone == 10; });
}

TEST_F(TtrpcServer, TheLoopCanBeDestroyedWithCallsInFlight) {
  auto loop = std::make_unique<asio::io_context>(1);
  test::TempSocket other;
  auto doomed = std::make_unique<ttrpc::Server>(*loop, methods);
  doomed->Serve(other.Listen());
  RawPeer peer = RawPeer::Connect(*loop, other.path());
  for (uint32_t id = 1; id < 21; id += 2) peer.WriteRequest(id, "test.Wait", "Forever", "");
  auto limit = Clock::now() + std::chrono::seconds(60);
  while (waiting < 10 && Clock::now() < limit) loop->run_one_for(std::chrono::milliseconds(10));
  EXPECT_EQ(waiting, 10);
  doomed = nullptr;
  loop = nullptr;
}

}  // namespace
}  // namespace feather
