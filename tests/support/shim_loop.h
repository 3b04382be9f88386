#pragma once

#include <asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "shim/ttrpc/client.h"

namespace feather::test {

// "Eventually", on a loaded machine.
inline constexpr auto kLimit = std::chrono::seconds(60);

// The test's own event loop: what plays containerd and its clients runs only inside of RunUntil.
class Loop {
 public:
  asio::io_context& io() { return io_; }
  // Runs until `done` says so; false when `limit` has passed first.
  bool RunUntil(const std::function<bool()>& done, Clock::duration limit = kLimit);
  // Runs for that long, whatever happens.
  void RunFor(Clock::duration duration);

 private:
  asio::io_context io_{1};
};

// A call that has been sent. It goes on whether or not this object lives.
template <typename Response>
class Pending {
 public:
  struct State {
    std::optional<absl::StatusOr<std::string>> answer;
  };
  Pending(Loop& loop, std::shared_ptr<State> state) : loop_(&loop), state_(std::move(state)) {}

  bool done() const { return state_->answer.has_value(); }
  // Waits for the answer, at most kLimit.
  absl::StatusOr<Response> Get() {
    if (!loop_->RunUntil([this] { return done(); }))
      return absl::DeadlineExceededError("the test's limit passed without an answer");
    if (!state_->answer->ok()) return state_->answer->status();
    Response response;
    if (!response.ParseFromString(**state_->answer))
      return absl::InternalError("the answer cannot be parsed");
    return response;
  }

 private:
  Loop* loop_;
  std::shared_ptr<State> state_;
};

}  // namespace feather::test
