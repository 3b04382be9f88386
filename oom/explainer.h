#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "oom/logged_kills.h"
#include "oom/watch.h"
#include "runtime/base/async.h"

namespace feather::oom {

// Asks the kernel's log about a container's kills, for the explanation of each. Used by both back
// ends.
//
// The log is read for kPatience (kernel_record.h) after each increase: from then on, whatever is
// found belongs to a later one. Then the watch is asked to read the counters again: the log may be
// ahead of them, and lines that came after their count must not be new to the next reading
// (subtree_kills.h).
//
// An explanation is for people to read: one for which there is no memory is left out, and harms
// nothing.
class Explainer : public std::enable_shared_from_this<Explainer> {
 public:
  // `limit_file`: the name of the file in `directory` that has the limit.
  Explainer(asio::io_context& io, const std::string& directory, std::string limit_file,
            const Beginning& beginning, Watch::OnExplained on_explained);

  // `read_counters` makes the watch read its counters, and call KillsCounted if one has risen;
  // called by the loop until End or Drop, kPatience after an increase. Without it, the victim of a
  // kill just now may remain unknown.
  void SetReadCounters(std::function<void()> read_counters) {
    read_counters_ = std::move(read_counters);
  }

  // Call it at each reading, with the processes that are in the cgroup then; empty: as before.
  // Where the log names no cgroup, they are known by that: a victim may be among them still, as a
  // zombie, or only among those of the reading before; while the log is read for a kill, of all
  // since that.
  void SawProcesses(const std::vector<pid_t>& processes) noexcept;
  // Call it for each increase of the counter, whether it was told or not.
  void KillsCounted(const Counters& now, bool told) noexcept;
  // Explains what is left to be, and ends.
  void End() noexcept;
  // Ends, with nothing held open and nobody told.
  void Drop() noexcept;

 private:
  static Async<> Follow(std::shared_ptr<Explainer> self);
  void Read() noexcept;
  void TakeVictims();
  // True if `pid` was among the processes; once for each, since the log has a group's first victim
  // twice, and pids are given anew.
  bool Forget(pid_t pid);
  void ReadLimit();
  void Explain() noexcept;

  asio::io_context& io_;
  const std::string directory_;
  const std::string limit_file_;
  std::string limit_;  // as last read
  Watch::OnExplained on_explained_;
  std::function<void()> read_counters_;
  std::optional<LoggedKills> log_;  // none after the end
  std::vector<pid_t> processes_;    // at the last reading
  std::vector<pid_t> before_;
  std::optional<Explanation> pending_;           // of a kill that was told, not yet explained
  std::vector<Victim> found_;                    // in the log, and in no explanation yet
  std::optional<Clock::time_point> counted_at_;  // the last increase
  bool following_ = false;                       // Follow runs
};

}  // namespace feather::oom
