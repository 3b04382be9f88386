#include "shim/ttrpc/inbox.h"

#include <utility>

namespace feather::ttrpc {

void Inbox::Wake(std::shared_ptr<Event>& event) {
  if (std::shared_ptr<Event> waiting = std::exchange(event, nullptr)) waiting->Set();
}

void Inbox::Push(Frame frame) {
  if (ended()) return;
  bytes_ += frame.payload.size();
  frames_.push_back(std::move(frame));
  Wake(arrived_);
}

void Inbox::End(absl::Status why) {
  if (ended()) return;
  end_ = std::move(why);
  Wake(arrived_);
  Wake(taken_);
}

Async<absl::StatusOr<std::optional<Frame>>> Inbox::Pop(std::shared_ptr<Inbox> self,
                                                       std::optional<Clock::time_point> deadline) {
  while (self->frames_.empty()) {
    if (self->ended()) {
      if (!self->end_->ok()) co_return *self->end_;
      co_return std::optional<Frame>();
    }
    if (!self->arrived_) self->arrived_ = std::make_shared<Event>();
    std::shared_ptr<Event> arrived = self->arrived_;
    std::vector<Event*> events(1, arrived.get());
    int first = co_await WaitAny(std::move(events), deadline);
    if (first < 0) co_return absl::DeadlineExceededError("context deadline exceeded");
  }
  std::optional<Frame> frame = std::move(self->frames_.front());
  self->frames_.pop_front();
  self->bytes_ -= frame->payload.size();
  Wake(self->taken_);
  co_return frame;
}

Async<bool> Inbox::WaitForRoom(std::shared_ptr<Inbox> self) {
  Clock::time_point deadline = Clock::now() + kPatience;
  while (self->full() && !self->ended()) {
    if (!self->taken_) self->taken_ = std::make_shared<Event>();
    std::shared_ptr<Event> taken = self->taken_;
    bool room = co_await taken->WaitUntil(deadline);
    if (!room) co_return false;
  }
  co_return true;
}

}  // namespace feather::ttrpc
