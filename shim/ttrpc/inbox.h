#pragma once

#include <list>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "shim/ttrpc/frame.h"

namespace feather::ttrpc {

// The frames that have arrived for one stream and wait for their consumer. Filled by the
// connection's reader, which waits a moment when it is full; one consumer at a time.
class Inbox {
 public:
  // A frame more fits while fewer than kMaxFrames and kMaxBytes are there.
  static constexpr size_t kMaxFrames = 64;
  static constexpr size_t kMaxBytes = kMaxPayload;
  // How long the reader of a connection waits for room before it fails the stream.
  static constexpr auto kPatience = std::chrono::seconds(1);

  bool full() const { return frames_.size() >= kMaxFrames || bytes_ >= kMaxBytes; }
  bool ended() const { return end_.has_value(); }
  void Push(Frame frame);
  // No more frames come: OK at the stream's regular end. The first call counts. The consumer gets
  // what was pushed before.
  void End(absl::Status why);

  // The next frame; nullopt at the regular end, and again at each further call.
  static Async<absl::StatusOr<std::optional<Frame>>> Pop(std::shared_ptr<Inbox> self,
                                                         std::optional<Clock::time_point> deadline);
  // False if there is no room within kPatience. True also when the inbox has ended.
  static Async<bool> WaitForRoom(std::shared_ptr<Inbox> self);

 private:
  static void Wake(std::shared_ptr<Event>& event);

  std::list<Frame> frames_;
  size_t bytes_ = 0;
  std::optional<absl::Status> end_;
  std::shared_ptr<Event> arrived_;  // while somebody waits
  std::shared_ptr<Event> taken_;
};

}  // namespace feather::ttrpc
