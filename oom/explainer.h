#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "oom/watch.h"
#include "runtime/base/async.h"

namespace feather::oom {

// Explains a container's kills, each once it is known who was killed. Used by both back ends.
//
// The watch is asked to read for kPatience (kernel_record.h) after each increase: from then on,
// whatever is found belongs to a later one.
//
// An explanation is for people to read: one for which there is no memory is left out, and harms
// nothing.
class Explainer : public std::enable_shared_from_this<Explainer> {
 public:
  // `limit_file`: the name of the file in `directory` that has the limit.
  Explainer(asio::io_context& io, const std::string& directory, std::string limit_file,
            Watch::OnExplained on_explained);

  // `read_counters` makes the watch read, and call Counted; called by the loop until End or Drop.
  void SetReadCounters(std::function<void()> read_counters) {
    read_counters_ = std::move(read_counters);
  }

  // Call it at each reading. `rose`: the counter has; `told`: on_kill was called for it. `victims`:
  // SubtreeKills::TakeVictims.
  void Counted(const Counters& now, bool rose, bool told, std::vector<Victim> victims) noexcept;
  // Explains what is left to be, and ends.
  void End() noexcept;
  // Ends, with nobody told.
  void Drop() noexcept;

 private:
  static Async<> Follow(std::shared_ptr<Explainer> self);
  void ReadLimit();
  void Explain() noexcept;

  asio::io_context& io_;
  const std::string directory_;
  const std::string limit_file_;
  std::string limit_;  // as last read
  Watch::OnExplained on_explained_;
  std::function<void()> read_counters_;
  std::optional<Explanation> pending_;           // of a kill that was told, not yet explained
  std::vector<Victim> found_;                    // and in no explanation yet
  std::vector<pid_t> named_;                     // in one, since Follow began
  std::optional<Clock::time_point> counted_at_;  // the last increase
  bool following_ = false;                       // Follow runs
  bool ended_ = false;
};

}  // namespace feather::oom
