#include "runtime/base/async.h"

#include <algorithm>
#include <asio/this_coro.hpp>
#include <exception>

namespace feather {

void Spawn(asio::io_context& io, Async<> work) { Spawn(io.get_executor(), std::move(work)); }

void Spawn(const asio::any_io_executor& executor, Async<> work) {
  asio::co_spawn(executor, std::move(work), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
}

void Event::Set() {
  set_ = true;
  for (asio::steady_timer* waiter : std::exchange(waiters_, {})) waiter->cancel();
}

Async<> Event::Wait() {
  std::vector<Event*> self(1, this);
  co_await WaitAny(std::move(self), std::nullopt);
}

Async<bool> Event::WaitUntil(Clock::time_point deadline) {
  std::vector<Event*> self(1, this);
  co_return co_await WaitAny(std::move(self), deadline) == 0;
}

Async<int> WaitAny(std::vector<Event*> events, std::optional<Clock::time_point> deadline) {
  asio::steady_timer timer(co_await asio::this_coro::executor,
                           deadline.value_or(Clock::time_point::max()));
  while (true) {
    for (size_t i = 0; i < events.size(); ++i)
      if (events[i]->set_) co_return static_cast<int>(i);
    if (deadline && Clock::now() >= *deadline) co_return -1;
    // Also when the coroutine is destroyed while it waits.
    struct Registered {
      ~Registered() {
        for (std::vector<asio::steady_timer*>* list : lists) std::erase(*list, timer);
      }
      asio::steady_timer* timer;
      std::vector<std::vector<asio::steady_timer*>*> lists;
    } registered{&timer, {}};
    for (Event* event : events) {
      event->waiters_.push_back(&timer);
      registered.lists.push_back(&event->waiters_);
    }
    co_await timer.async_wait(kAwait);
  }
}

}  // namespace feather
