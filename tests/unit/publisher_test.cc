#include "shim/publisher.h"

#include <gmock/gmock.h>

#include "proto/events.pb.h"
#include "proto/ttrpc_events.pb.h"
#include "runtime/base/log.h"
#include "tests/support/ttrpc.h"

namespace feather {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kExit[] = "containerd.events.TaskExit";
constexpr char kStart[] = "containerd.events.TaskStart";
constexpr auto kLong = std::chrono::seconds(50);

// A stub of containerd's Events service that keeps what it was sent.
class PublisherTest : public test::TtrpcFixture {
 public:
  using Envelope = containerd::types::Envelope;

  PublisherTest() {
    methods.Add(
        "containerd.services.events.ttrpc.v1.Events", "Forward",
        [this](rpc::CallContext context, std::string bytes) -> Async<absl::StatusOr<std::string>> {
          return Forward(this, std::move(context), std::move(bytes));
        });
  }

  static Async<absl::StatusOr<std::string>> Forward(PublisherTest* self, rpc::CallContext context,
                                                    std::string bytes) {
    containerd::services::events::ttrpc::v1::ForwardRequest request;
    EXPECT_TRUE(request.ParseFromString(bytes));
    std::string name_space;
    for (auto& [key, value] : context.metadata)
      if (key == "containerd-namespace-ttrpc") name_space = value;
    EXPECT_EQ(name_space, "k8s.io");
    ++self->in_flight;
    EXPECT_EQ(self->in_flight, 1);
    if (self->silent > 0) {
      --self->silent;
      co_await context.gone->Wait();
      --self->in_flight;
      co_return std::string();
    }
    absl::Status answer = absl::OkStatus();
    if (request.envelope().topic() == self->refused)
      answer = absl::InvalidArgumentError("no such topic");
    if (self->unavailable > 0) {
      --self->unavailable;
      answer = absl::UnavailableError("later");
    } else {
      self->got.push_back(request.envelope());
    }
    --self->in_flight;
    if (!answer.ok()) co_return answer;
    co_return std::string();
  }

  std::vector<std::string> Topics() const {
    std::vector<std::string> topics;
    for (const Envelope& envelope : got) topics.push_back(envelope.topic());
    return topics;
  }

  std::vector<Envelope> got;
  std::string refused;
  int silent = 0;
  int unavailable = 0;
  int in_flight = 0;
};

// Checklist: P1, P5.
TEST_F(PublisherTest, SendsTheEventWithItsOwnTimeNamespaceAndType) {
  Serve();
  Publisher publisher(io, socket.path(), "k8s.io");
  publisher.Publish("/tasks/start", kStart, "payload",
                    absl::FromUnixSeconds(1234) + absl::Nanoseconds(56));
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].timestamp().seconds(), 1234);
  EXPECT_EQ(got[0].timestamp().nanos(), 56);
  EXPECT_EQ(got[0].namespace_(), "k8s.io");
  EXPECT_EQ(got[0].topic(), "/tasks/start");
  EXPECT_EQ(got[0].event().type_url(), kStart);
  EXPECT_EQ(got[0].event().value(), "payload");
}

TEST_F(PublisherTest, KeepsTheOrderOfPublishingWithOneCallInFlight) {
  Serve();
  Publisher publisher(io, socket.path(), "k8s.io");
  std::vector<std::string> expected;
  for (int i = 0; i < 500; ++i) {
    expected.push_back("/t/" + std::to_string(i));
    publisher.Publish(expected.back(), kStart, "");
  }
  EXPECT_EQ(publisher.pending(), 500u);
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  EXPECT_EQ(Topics(), expected);
  EXPECT_EQ(publisher.pending(), 0u);
}

TEST_F(PublisherTest, ARefusedEventDoesNotHoldUpTheNext) {
  refused = "/bad";
  Serve();
  Publisher publisher(io, socket.path(), "k8s.io");
  containerd::events::TaskExit exit;
  exit.set_container_id("whose");
  exit.set_pid(7);
  publisher.Publish("/bad", kExit, exit.SerializeAsString());
  publisher.Publish("/good", kExit, "");
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  EXPECT_EQ(Topics(), (std::vector<std::string>{"/bad", "/good"}));
  ASSERT_FALSE(LastProblems().empty());
  EXPECT_THAT(LastProblems().back().text,
              AllOf(HasSubstr("topic=/bad"), HasSubstr("no such topic"), HasSubstr("id=whose")));
}

TEST_F(PublisherTest, UnavailableKeepsTheEvent) {
  unavailable = 3;
  Serve();
  Publisher publisher(io, socket.path(), "k8s.io");
  publisher.Publish("/a", kExit, "");
  publisher.Publish("/b", kExit, "");
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  EXPECT_EQ(Topics(), (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(unavailable, 0);
}

// Checklist: P2.
TEST_F(PublisherTest, KeepsEverythingWhileTheServerIsAwayAndSendsItInOrderWhenItIsBack) {
  Publisher publisher(io, socket.path(), "k8s.io");
  publisher.Publish("/1", kExit, "");  // no socket there yet
  Run([](Publisher* p) -> Async<> {
    EXPECT_FALSE(co_await p->Drain(std::chrono::milliseconds(50)));
  }(&publisher));
  EXPECT_EQ(publisher.pending(), 1u);
  Serve();
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));

  server = nullptr;  // the socket stays and refuses
  publisher.Publish("/2", kStart, "");
  publisher.Publish("/3", kExit, "");
  Run([](Publisher* p) -> Async<> {
    EXPECT_FALSE(co_await p->Drain(std::chrono::milliseconds(50)));
  }(&publisher));
  Serve();
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  EXPECT_EQ(Topics(), (std::vector<std::string>{"/1", "/2", "/3"}));
}

// Checklist: P3.
TEST_F(PublisherTest, SendsAgainWhenAServerAcceptedAndNeverAnswered) {
  silent = 1;
  Serve();
  Publisher publisher(io, socket.path(), "k8s.io");
  publisher.Publish("/a", kExit, "");
  publisher.Publish("/b", kExit, "");
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  EXPECT_EQ(Topics(), (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(silent, 0);
}

// Checklist: P4.
TEST_F(PublisherTest, AFullQueueDropsTheOldestThatIsNotAnExit) {
  Publisher publisher(io, socket.path(), "k8s.io");
  std::vector<std::string> expected;
  for (size_t i = 0; i < Publisher::kMaxPending; ++i) {
    bool exit = i % 2 == 0;
    publisher.Publish("/t/" + std::to_string(i), exit ? kExit : kStart, "");
    if (exit || i > 3) expected.push_back("/t/" + std::to_string(i));
  }
  publisher.Publish("/new/start", kStart, "");
  publisher.Publish("/new/exit", kExit, "");
  expected.push_back("/new/start");
  expected.push_back("/new/exit");
  EXPECT_EQ(publisher.pending(), Publisher::kMaxPending);
  Serve();
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  EXPECT_EQ(Topics(), expected);
}

TEST_F(PublisherTest, AQueueFullOfExitsGrowsForExitsOnly) {
  Publisher publisher(io, socket.path(), "k8s.io");
  size_t i = 0;
  for (; i < Publisher::kMaxPending; ++i) publisher.Publish("/t/" + std::to_string(i), kExit, "");
  publisher.Publish("/start", kStart, "");
  EXPECT_EQ(publisher.pending(), Publisher::kMaxPending);
  publisher.Publish("/exit", kExit, "");
  publisher.Publish("/oom", "containerd.events.TaskOOM", "");
  publisher.Publish("/delete", "containerd.events.TaskDelete", "");
  EXPECT_EQ(publisher.pending(), Publisher::kMaxPending + 3);
  Serve();
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  ASSERT_EQ(got.size(), Publisher::kMaxPending + 3);
  EXPECT_EQ(got.back().topic(), "/delete");
}

// Its children can be killed for ever.
TEST_F(PublisherTest, AContainersOomKillsDoNotMakeAFullQueueGrow) {
  Publisher publisher(io, socket.path(), "k8s.io");
  const auto publish_oom = [&publisher](const char* container) {
    containerd::events::TaskOOM oom;
    oom.set_container_id(container);
    publisher.Publish("/tasks/oom", "containerd.events.TaskOOM", oom.SerializeAsString());
  };
  for (size_t i = 0; i < Publisher::kMaxPending; ++i) publish_oom("a");
  EXPECT_EQ(publisher.pending(), Publisher::kMaxPending);
  for (int i = 0; i < 1000; ++i) {
    publish_oom("a");
    publish_oom("b");
  }
  EXPECT_EQ(publisher.pending(), Publisher::kMaxPending + 1);
  Serve();
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
  publish_oom("a");
  EXPECT_EQ(publisher.pending(), 1u);
}

TEST_F(PublisherTest, WithoutAnAddressEventsAreDropped) {
  Publisher publisher(io, "", "k8s.io");
  publisher.Publish("/a", kExit, "");
  EXPECT_EQ(publisher.pending(), 0u);
  Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
}

TEST_F(PublisherTest, WhatCannotBeASocketIsNotTriedForEver) {
  for (const std::string& address : {std::string("ctrd.sock"), std::string(500, '/')}) {
    Publisher publisher(io, address, "k8s.io");
    publisher.Publish("/a", kExit, "");
    publisher.Publish("/b", kStart, "");
    Run([](Publisher* p) -> Async<> { EXPECT_TRUE(co_await p->Drain(kLong)); }(&publisher));
    publisher.Publish("/c", kExit, "");
    EXPECT_EQ(publisher.pending(), 0u) << address;
  }
}

TEST_F(PublisherTest, CanBeDestroyedWithAnEventInFlight) {
  silent = 1;
  Serve();
  auto publisher = std::make_unique<Publisher>(io, socket.path(), "k8s.io");
  publisher->Publish("/a", kExit, "");
  while (in_flight == 0) io.run_one_for(std::chrono::seconds(1));
  publisher = nullptr;
  while (in_flight == 1) io.run_one_for(std::chrono::seconds(1));
  EXPECT_EQ(got.size(), 0u);
}

}  // namespace
}  // namespace feather
