#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/experimental/as_tuple.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <vector>

namespace feather {

// The program has one thread and one asio::io_context; everything that waits is a coroutine.
//
// A coroutine takes its parameters by value, unless its caller awaits it in the same expression.
// What a coroutine reaches through `this` or a pointer must outlive it: spawned work holds a
// shared_ptr to what it works on.
template <typename T = void>
using Async = asio::awaitable<T>;

using Clock = std::chrono::steady_clock;

// Completion token: the error of an operation is a value, not an exception.
inline constexpr auto kAwait = asio::experimental::as_tuple(asio::use_awaitable);

// Spawns a coroutine whose end nobody waits for. An exception out of it is a bug and ends the
// program.
void Spawn(asio::io_context& io, Async<> work);
void Spawn(const asio::any_io_executor& executor, Async<> work);

Async<> SleepFor(Clock::duration duration);

// A latch: once set it stays set. Any number of coroutines wait for it. It must outlive its
// waiters.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void Set();
  bool set() const { return set_; }

  Async<> Wait();
  // False if `deadline` passes first.
  Async<bool> WaitUntil(Clock::time_point deadline);

 private:
  friend Async<int> WaitAny(std::vector<Event*> events, std::optional<Clock::time_point> deadline);
  bool set_ = false;
  std::vector<asio::steady_timer*> waiters_;
};

// The index of the first event that is set, or -1 when the deadline has passed with none set. A
// deadline in the past still lets an event that is set already win.
Async<int> WaitAny(std::vector<Event*> events, std::optional<Clock::time_point> deadline);

}  // namespace feather
