// By itself, so that fuzz targets can have a time of their own.
#include <asio/this_coro.hpp>

#include "runtime/base/async.h"

namespace feather {

Async<> SleepFor(Clock::duration duration) {
  asio::steady_timer timer(co_await asio::this_coro::executor, duration);
  co_await timer.async_wait(kAwait);
}

}  // namespace feather
