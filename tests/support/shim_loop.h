#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace asio {
class io_context;
}

// These headers name as little of Asio as they can: every test includes them.
namespace feather {
using Clock = std::chrono::steady_clock;
}

namespace feather::test {

// "Eventually", on a loaded machine that emulates another: a checkpoint there has needed more than
// a minute.
inline constexpr auto kLimit = std::chrono::seconds(180);

// The test's own event loop: what plays containerd and its clients runs only inside of RunUntil.
class Loop {
 public:
  Loop();
  ~Loop();
  asio::io_context& io() { return *io_; }
  // Runs until `done` says so; false when `limit` has passed first.
  bool RunUntil(const std::function<bool()>& done, Clock::duration limit = kLimit);
  // Runs for that long, whatever happens.
  void RunFor(Clock::duration duration);

 private:
  std::unique_ptr<asio::io_context> io_;
};

// A call that has been sent. It goes on whether or not this object lives.
template <typename Response>
class Pending {
 public:
  using Answer = std::optional<absl::StatusOr<std::string>>;
  Pending(Loop& loop, std::shared_ptr<Answer> answer) : loop_(&loop), answer_(std::move(answer)) {}

  bool done() const { return answer_->has_value(); }
  // Waits for the answer, at most kLimit.
  absl::StatusOr<Response> Get() {
    if (!loop_->RunUntil([this] { return done(); }))
      return absl::DeadlineExceededError("the test's limit passed without an answer");
    if (!(*answer_)->ok()) return (*answer_)->status();
    Response response;
    if (!response.ParseFromString(***answer_))
      return absl::InternalError("the answer cannot be parsed");
    return response;
  }

 private:
  Loop* loop_;
  std::shared_ptr<Answer> answer_;
};

}  // namespace feather::test
