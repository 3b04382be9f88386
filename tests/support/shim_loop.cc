#include "tests/support/shim_loop.h"

#include <algorithm>
#include <asio/io_context.hpp>

namespace feather::test {

Loop::Loop() : io_(std::make_unique<asio::io_context>(1)) {}
Loop::~Loop() = default;

bool Loop::RunUntil(const std::function<bool()>& done, Clock::duration limit) {
  auto deadline = Clock::now() + limit;
  while (!done()) {
    auto now = Clock::now();
    if (now >= deadline) return false;
    // Conditions outside of the loop (a process that ends) are looked at every 20 ms.
    io_->restart();
    io_->run_one_for(std::min<Clock::duration>(deadline - now, std::chrono::milliseconds(20)));
    io_->poll();
  }
  return true;
}

void Loop::RunFor(Clock::duration duration) {
  RunUntil([] { return false; }, duration);
}

}  // namespace feather::test
