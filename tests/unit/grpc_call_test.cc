// The gRPC client of `inspect` against peers that answer in their own way; grpc_server_test.cc has
// it against gRPC's server.
#include "shim/commands/grpc_call.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/raw_ttrpc.h"
#include "tests/support/ttrpc.h"

namespace feather::test {
namespace {

using Answer = absl::StatusOr<std::string>;
using std::chrono_literals::operator""min;
using std::chrono_literals::operator""ms;

std::string Number(size_t value, int bytes) {
  std::string text;
  while (bytes-- > 0) text.push_back(static_cast<char>(value >> (8 * bytes) & 0xff));
  return text;
}
std::string Frame(int type, int flags, uint32_t stream, const std::string& payload) {
  return absl::StrCat(Number(payload.size(), 3), Number(static_cast<size_t>(type), 1),
                      Number(static_cast<size_t>(flags), 1), Number(stream, 4), payload);
}
std::string Prefixed(const std::string& message) {
  return absl::StrCat(Number(0, 1), Number(message.size(), 4), message);
}
std::string Settings() { return Frame(4, 0, 0, ""); }
std::string Data(const std::string& bytes, int flags = 0) { return Frame(0, flags, 1, bytes); }
std::string Headers(int flags = 4) { return Frame(1, flags, 1, "\x88"); }
std::string Trailers() { return Headers(5); }
// As gRPC's server does, in frames of 16 KiB.
std::string Whole(const std::string& message) {
  std::string text = Settings() + Headers();
  const std::string body = Prefixed(message);
  for (size_t at = 0; at < body.size(); at += 16384) text += Data(body.substr(at, 16384));
  return text + Trailers();
}

class GrpcClient : public ::testing::Test {
 protected:
  GrpcClient() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    ours_.Reset(fds[0]);
    peer_.emplace(io_, UniqueFd(fds[1]));
  }

  void Start(Clock::duration limit = 1min) {
    Spawn(io_, Collect(io_, std::move(ours_), limit, answer_));
  }
  static Async<> Collect(asio::io_context& io, UniqueFd socket, Clock::duration limit,
                         std::optional<Answer>& answer) {
    Answer got = co_await GrpcCall(io, std::move(socket), "/a.B/C", "question", limit);
    answer = std::move(got);
  }
  Answer Wait() {
    const auto limit = Clock::now() + 2min;
    while (!answer_ && Clock::now() < limit) {
      io_.restart();
      io_.run_one_for(10ms);
    }
    EXPECT_TRUE(answer_) << "the call does not end";
    return answer_.value_or(absl::UnknownError("no end"));
  }
  // To a peer that says this and no more.
  Answer Ask(const std::string& bytes) {
    Start();
    EXPECT_EQ(Read(kRequest).size(), kRequest);
    peer_->Write(bytes);
    shutdown(peer_->fd(), SHUT_WR);
    return Wait();
  }
  static constexpr size_t kRequest = 24 + (9 + 6) + (9 + 4) + (9 + 53) + (9 + 13);
  std::string Read(size_t size) {
    std::string bytes;
    const auto limit = Clock::now() + 1min;
    while (bytes.size() < size && Clock::now() < limit) {
      char buffer[256];
      const ssize_t n =
          recv(peer_->fd(), buffer, std::min(sizeof buffer, size - bytes.size()), MSG_DONTWAIT);
      if (n > 0) bytes.append(buffer, static_cast<size_t>(n));
      if (n == 0) break;
      io_.restart();
      io_.run_one_for(10ms);
    }
    return bytes;
  }

  asio::io_context io_{1};
  UniqueFd ours_;
  std::optional<RawPeer> peer_;
  std::optional<Answer> answer_;
};

TEST_F(GrpcClient, SendsTheRequestAsOneCall) {
  Start();
  const std::string expected = absl::StrCat(
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Frame(4, 0, 0, Number(4, 2) + Number((4 << 20) + 5, 4)),
      Frame(8, 0, 0, Number((4 << 20) + 5, 4)),
      Frame(1, 4, 1,
            absl::StrCat("\x83\x86\x04\x06/a.B/C\x01\x09localhost\x0f\x10\x10"
                         "application/grpc",
                         Number(0, 1), "\x02te\x08trailers")),
      Frame(0, 1, 1, Prefixed("question")));
  EXPECT_EQ(Read(expected.size()), expected);
  peer_->Write(Whole("answer"));
  EXPECT_EQ(Wait().value_or("none"), "answer");
}

TEST_F(GrpcClient, AnswersSettingsAndPingsAndPassesTheRestOver) {
  Start();
  EXPECT_EQ(Read(kRequest).size(), kRequest);
  peer_->Write(absl::StrCat(Frame(4, 0, 0, Number(5, 2) + Number(1 << 20, 4)), Frame(4, 1, 0, ""),
                            Frame(6, 0, 0, "12345678"), Frame(6, 1, 0, "87654321"),
                            Frame(8, 0, 0, Number(1, 4)), Frame(0x63, 0xff, 7, "later versions"),
                            Data(""), Frame(0, 1, 3, "another stream"), Headers()));
  EXPECT_EQ(Read(9 + 9 + 8), Frame(4, 1, 0, "") + Frame(6, 1, 0, "12345678"));
  peer_->Write(Data(Number(0, 1) + Number(6, 4) + "an"));
  peer_->Write(Data("swer", 1));
  EXPECT_EQ(Wait().value_or("none"), "answer");
}

TEST_F(GrpcClient, TakesLongAnswers) {
  EXPECT_EQ(Ask(Whole(std::string(4 << 20, 'x'))).value_or("none").size(), size_t{4} << 20);
}

TEST_F(GrpcClient, TakesAnEmptyAnswer) { EXPECT_EQ(Ask(Whole("")).value_or("none"), ""); }

TEST_F(GrpcClient, IsDoneWhenTheAnswerIsWhateverFollows) {
  EXPECT_EQ(Ask(Whole("answer") + "what is this?").value_or("none"), "answer");
}

struct BadAnswer {
  const char* name;
  std::string bytes;
};
class GrpcClientBad : public GrpcClient, public ::testing::WithParamInterface<BadAnswer> {};

TEST_P(GrpcClientBad, IsUnavailable) {
  const Answer answer = Ask(GetParam().bytes);
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
}

INSTANTIATE_TEST_SUITE_P(
    Answers, GrpcClientBad,
    testing::ValuesIn(std::vector<BadAnswer>{
        {"Nothing", ""},
        {"Http1", "HTTP/1.1 400 Bad Request\r\n\r\n"},
        {"Ttrpc", ttrpc::EncodeFrame(1, ttrpc::kResponse, 0, "")},
        {"DataBeforeSettings", Data(Prefixed("answer"), 1)},
        {"HalfAHeader", Settings().substr(0, 5)},
        {"HalfAFrame", Settings() + Data(Prefixed("answer"), 1).substr(0, 12)},
        {"NoEndOfStream", Settings() + Headers() + Data(Prefixed("answer"))},
        {"OnlyTrailers", Settings() + Trailers()},
        {"HalfAPrefix", Settings() + Data(Number(0, 3), 1)},
        {"TheLengthIsTooLarge", Settings() + Data(Number(0, 1) + Number(7, 4) + "answer", 1)},
        {"TheLengthIsTooSmall", Settings() + Data(Number(0, 1) + Number(5, 4) + "answer", 1)},
        {"TheLengthIsHuge", Settings() + Data(Number(0, 1) + Number(0xffffffff, 4), 1)},
        {"Compressed", Settings() + Data(Number(1, 1) + Number(6, 4) + "answer", 1)},
        {"TwoMessages", Settings() + Data(Prefixed("answer") + Prefixed("another"), 1)},
        {"Padded", Settings() + Data(Number(0, 1) + Prefixed("answer"), 1 | 8)},
        {"Reset", Settings() + Frame(3, 0, 1, Number(2, 4))},
        {"GoAway", Settings() + Frame(7, 0, 0, Number(0, 8))},
        {"AFrameAboveTheLimit", Settings() + Data(Prefixed(std::string(16384, 'x')), 1)},
        {"TheLongestFrameOfAll", Settings() + Number(0xffffff, 3) + Number(0, 2) + Number(1, 4)},
        {"AnAnswerAboveTheLimit", Whole(std::string((4 << 20) + 1, 'x'))},
    }),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(GrpcClient, APeerThatIsSilentIsLate) {
  Start(50ms);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Wait().status()));
}

// It asks for answers without end, and reads none.
TEST_F(GrpcClient, APeerThatKeepsItBusyIsLate) {
  Start(200ms);
  peer_->Write(Settings());
  const std::string ping = Frame(6, 0, 0, "12345678");
  std::string pings;
  for (int i = 0; i < 1000; ++i) pings += ping;
  size_t at = 0;
  while (!answer_) {
    const ssize_t n = send(peer_->fd(), &pings[at], pings.size() - at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) at = (at + static_cast<size_t>(n)) % pings.size();
    io_.restart();
    io_.run_one_for(10ms);
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(Wait().status())) << Wait().status();
}

}  // namespace
}  // namespace feather::test
