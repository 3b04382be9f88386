#pragma once

#include <memory>
#include <utility>

#include "oom/watch.h"

namespace feather::oom {

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
