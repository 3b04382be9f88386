#include "shim/publisher.h"

#include <algorithm>
#include <list>
#include <new>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "proto/events.pb.h"
#include "proto/ttrpc_events.pb.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/trim.h"
#include "shim/ttrpc/client.h"

namespace feather {
namespace {

constexpr Clock::duration kFirstPause = std::chrono::milliseconds(10);
constexpr Clock::duration kLastPause = std::chrono::seconds(1);
// An unanswered call is given up after this, then after twice as long: a stopped containerd handles
// every repetition once it continues, so there should be few.
constexpr Clock::duration kFirstTimeout = std::chrono::seconds(5);
constexpr Clock::duration kLastTimeout = std::chrono::seconds(60);

constexpr size_t kLongQueue = 64;

constexpr absl::string_view kOom = "containerd.events.TaskOOM";

bool NeverDropped(absl::string_view type) {
  return type == "containerd.events.TaskExit" || type == kOom ||
         type == "containerd.events.TaskDelete";
}

std::string ForwardRequest(const std::string& name_space, absl::string_view topic,
                           absl::string_view type, std::string event, absl::Time at) {
  containerd::services::events::ttrpc::v1::ForwardRequest request;
  containerd::types::Envelope& envelope = *request.mutable_envelope();
  timespec time = absl::ToTimespec(at);
  envelope.mutable_timestamp()->set_seconds(time.tv_sec);
  envelope.mutable_timestamp()->set_nanos(static_cast<int32_t>(time.tv_nsec));
  envelope.set_namespace_(name_space);
  envelope.set_topic(std::string(topic));
  envelope.mutable_event()->set_type_url(std::string(type));
  envelope.mutable_event()->set_value(std::move(event));
  return request.SerializeAsString();
}

// The container that an event is about: all have it in the same field. Only the log wants it.
std::string ContainerOf(const std::string& event) {
  containerd::events::TaskOOM any;
  return any.ParseFromString(event) ? any.container_id() : "";
}
std::string ContainerOfRequest(const std::string& bytes) {
  containerd::services::events::ttrpc::v1::ForwardRequest request;
  return request.ParseFromString(bytes) ? ContainerOf(request.envelope().event().value()) : "";
}

}  // namespace

struct Publisher::Impl {
  struct Item {
    std::string topic;
    std::string request;
    bool droppable;
  };
  enum class Outcome { kAnswered, kUnreachable, kTimedOut };

  Impl(asio::io_context& context, std::string to, std::string ns)
      : io(context), address(std::move(to)), name_space(std::move(ns)) {}

  void GiveUp(const absl::Status& why);
  void MakeRoom();
  bool WillTellOomOf(const std::string& container) const;
  static Async<> Send(std::shared_ptr<Impl> self);
  static Async<Outcome> SendFirst(std::shared_ptr<Impl> self, Clock::duration timeout);

  asio::io_context& io;
  std::string address;
  std::string name_space;
  std::list<Item> queue;
  size_t droppable = 0;
  size_t longest = 0;  // the queue, since it was empty
  // The first item is being sent, and stays.
  bool in_flight = false;
  bool sending = false;
  Event stopped;
  std::shared_ptr<ttrpc::Client> client;
  std::shared_ptr<Event> empty;  // while somebody drains
};

// No event will ever leave.
void Publisher::Impl::GiveUp(const absl::Status& why) {
  LogError("no events: there is no way to containerd", {{"error", std::string(why.message())}});
  address.clear();
  queue.clear();
  droppable = 0;
}

// Drops the oldest droppable event, if there is one beside the event in flight.
void Publisher::Impl::MakeRoom() {
  auto begin = queue.begin();
  if (in_flight && begin != queue.end()) ++begin;
  auto oldest = droppable == 0 ? queue.end()
                               : std::find_if(begin, queue.end(),
                                              [](const Item& item) { return item.droppable; });
  if (oldest == queue.end()) return;
  LogWarning("event dropped: containerd has been away too long",
             {{"topic", oldest->topic}, {"id", ContainerOfRequest(oldest->request)}});
  --droppable;
  queue.erase(oldest);
}

// An event waits that says the same.
bool Publisher::Impl::WillTellOomOf(const std::string& container) const {
  return std::any_of(queue.rbegin(), queue.rend(), [&container](const Item& item) {
    return item.topic == "/tasks/oom" && ContainerOfRequest(item.request) == container;
  });
}

Async<Publisher::Impl::Outcome> Publisher::Impl::SendFirst(std::shared_ptr<Impl> self,
                                                           Clock::duration timeout) {
  if (!self->client || self->client->closed()) {
    absl::StatusOr<std::shared_ptr<ttrpc::Client>> connected =
        co_await ttrpc::Client::Connect(self->io, self->address);
    if (absl::IsInvalidArgument(connected.status())) {
      self->GiveUp(connected.status());
      co_return Outcome::kUnreachable;
    }
    if (!connected.ok()) {
      LogDebug("containerd does not take events", {{"error", connected.status().ToString()}});
      co_return Outcome::kUnreachable;
    }
    if (self->stopped.set()) co_return Outcome::kUnreachable;
    self->client = *std::move(connected);
  }
  std::shared_ptr<ttrpc::Client> client = self->client;
  ttrpc::Client::Metadata metadata;
  metadata.emplace_back("containerd-namespace-ttrpc", self->name_space);
  std::string request = self->queue.front().request;
  absl::StatusOr<std::string> answer =
      co_await client->Call("containerd.services.events.ttrpc.v1.Events", "Forward",
                            std::move(request), timeout, std::move(metadata));
  if (answer.ok()) co_return Outcome::kAnswered;
  bool timed_out = absl::IsDeadlineExceeded(answer.status());
  if (!timed_out && !absl::IsUnavailable(answer.status())) {
    LogError("containerd refused an event",
             {{"topic", self->queue.front().topic},
              {"error", answer.status().ToString()},
              {"id", ContainerOfRequest(self->queue.front().request)}});
    co_return Outcome::kAnswered;
  }
  client->Close();
  self->client = nullptr;
  co_return timed_out ? Outcome::kTimedOut : Outcome::kUnreachable;
}

// Runs while there are events.
Async<> Publisher::Impl::Send(std::shared_ptr<Impl> self) {
  // Without memory to go on with, the next event begins anew.
  absl::Cleanup over = [self] { self->sending = self->in_flight = false; };
  Clock::duration pause = kFirstPause;
  Clock::duration timeout = kFirstTimeout;
  while (!self->queue.empty() && !self->stopped.set()) {
    self->in_flight = true;
    Outcome outcome = Outcome::kUnreachable;
    try {
      outcome = co_await SendFirst(self, timeout);
    } catch (const std::bad_alloc&) {
      NoMemoryError().IgnoreError();
    }
    self->in_flight = false;
    if (outcome == Outcome::kAnswered) {
      if (self->queue.front().droppable) --self->droppable;
      self->queue.pop_front();
      pause = kFirstPause;
      timeout = kFirstTimeout;
      continue;
    }
    if (self->queue.empty()) break;
    if (pause == kFirstPause)
      LogWarning("containerd is away; events wait",
                 {{"pending", std::to_string(self->queue.size())}});
    if (outcome == Outcome::kTimedOut) timeout = std::min(timeout * 2, kLastTimeout);
    co_await self->stopped.WaitUntil(Clock::now() + pause);
    pause = std::min(pause * 2, kLastPause);
  }
  if (self->longest >= kLongQueue) TrimSoon(self->io);
  self->longest = 0;
  if (self->empty && self->queue.empty()) std::exchange(self->empty, nullptr)->Set();
}

Publisher::Publisher(asio::io_context& io, std::string address, std::string name_space)
    : impl_(std::make_shared<Impl>(io, std::move(address), std::move(name_space))) {}

Publisher::~Publisher() {
  impl_->stopped.Set();
  if (impl_->client) impl_->client->Close();
}

void Publisher::Publish(absl::string_view topic, absl::string_view type, std::string event,
                        absl::Time at) {
  if (impl_->address.empty()) return;
  bool droppable = !NeverDropped(type);
  if (impl_->queue.size() >= kMaxPending) {
    // A container can make any number of these; the others come of what a client has asked for.
    if (type == kOom && impl_->WillTellOomOf(ContainerOf(event))) return;
    impl_->MakeRoom();
  }
  if (impl_->queue.size() >= kMaxPending && droppable) {
    LogWarning("event dropped: containerd has been away too long",
               {{"topic", std::string(topic)}, {"id", ContainerOf(event)}});
    return;
  }
  impl_->queue.push_back(
      {.topic = std::string(topic),
       .request = ForwardRequest(impl_->name_space, topic, type, std::move(event), at),
       .droppable = droppable});
  impl_->droppable += droppable ? 1 : 0;
  impl_->longest = std::max(impl_->longest, impl_->queue.size());
  if (impl_->sending) return;
  impl_->sending = true;
  // Exits and OOM kills are published again by whom the exception reaches: not twice.
  absl::Cleanup undo = [this, droppable] {
    impl_->sending = false;
    impl_->queue.pop_back();
    impl_->droppable -= droppable ? 1 : 0;
  };
  Spawn(impl_->io, Impl::Send(impl_));
  std::move(undo).Cancel();
}

size_t Publisher::pending() const { return impl_->queue.size(); }

Async<bool> Publisher::Drain(Clock::duration limit) {
  std::shared_ptr<Impl> impl = impl_;
  Clock::time_point deadline = Clock::now() + limit;
  while (!impl->queue.empty()) {
    if (!impl->empty) impl->empty = std::make_shared<Event>();
    std::shared_ptr<Event> empty = impl->empty;
    bool drained = co_await empty->WaitUntil(deadline);
    if (!drained) co_return false;
  }
  co_return true;
}

}  // namespace feather
