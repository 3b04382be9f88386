#pragma once

#include <chrono>
#include <memory>
#include <utility>

#include "oom/watch.h"
#include "runtime/base/async.h"
#include "runtime/base/no_memory.h"

namespace feather::oom {

// A reading from the loop; false if it was refused memory: it is to be made again.
template <typename State>
bool TryToRead(State& state, void (State::*read)()) noexcept {
  return CatchNoMemory([&] { (state.*read)(); }).ok();
}
inline constexpr Clock::duration kRetryAfter = std::chrono::milliseconds(100);

// A Watch by way of a state that it shares with the coroutines that work on it, and closes at its
// end. `State` has Read, Finish, Close and counters.
template <typename State>
class StateWatch : public Watch {
 public:
  explicit StateWatch(std::shared_ptr<State> state) : state_(std::move(state)) {}
  StateWatch(const StateWatch&) = delete;
  StateWatch& operator=(const StateWatch&) = delete;
  ~StateWatch() override { state_->Close(); }
  void Read() override { state_->Read(); }
  void Finish() override { state_->Finish(); }
  const Counters& counters() const override { return state_->counters(); }

 private:
  std::shared_ptr<State> state_;
};

}  // namespace feather::oom
