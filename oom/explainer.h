#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "oom/kernel_log.h"
#include "oom/watch.h"
#include "runtime/base/async.h"

namespace feather::oom {

// Asks the kernel's log about a container's kills: for the explanation of each, and for kills that
// no counter tells any more. Used by both back ends.
//
// The line of a kill is written some microseconds after the counter was raised, and the log is read
// for kPatience after each increase: from then on, whatever is found belongs to a later one. The
// log may be ahead of the counters as they were last read: before a line is thrown away, the watch
// is asked to read them again.
class Explainer : public std::enable_shared_from_this<Explainer> {
 public:
  static constexpr Clock::duration kPatience = std::chrono::milliseconds(100);
  // For so long after an increase no kill is taken for one that was not counted: the rest of a
  // group is killed within that time.
  static constexpr Clock::duration kDoubt = std::chrono::seconds(1);

  // `limit_file`: the name of the file in `directory` that has the limit.
  Explainer(asio::io_context& io, const std::string& directory, std::string limit_file,
            const Beginning& beginning, Watch::OnExplained on_explained);

  // `read_counters` makes the watch read its counters, and call KillsCounted if one has risen;
  // called by the loop until End or Drop. Without it, the victim of a kill just now may remain
  // unknown.
  void SetReadCounters(std::function<void()> read_counters) {
    read_counters_ = std::move(read_counters);
  }

  // Call it at each reading, with the processes that are in the cgroup then
  // (KernelLog::SawProcesses).
  void SawProcesses(std::vector<pid_t> processes) {
    if (processes.empty()) return;
    read_at_ = Clock::now();
    log_.SawProcesses(std::move(processes), following_);
  }
  // Call it for each increase of the counter, whether it was told or not.
  void KillsCounted(const Counters& now, bool told);
  // Victims in the log that no increase stands for. `by_name`: also those that were never seen in
  // the cgroup; give true only if there was a kill just now, since the cgroup's name may have been
  // another container's before.
  uint64_t CountUncounted(bool by_name);
  // Explains what is left to be, and ends.
  void End();
  // Ends, with nothing held open and nobody told.
  void Drop();

 private:
  static Async<> Follow(std::shared_ptr<Explainer> self);
  // Passes over victims that were killed before `since`.
  void Read(Clock::time_point since = {});
  void ReadLimit();
  void Explain();

  asio::io_context& io_;
  const std::string directory_;
  const std::string limit_file_;
  std::string limit_;  // as last read
  Watch::OnExplained on_explained_;
  std::function<void()> read_counters_;
  KernelLog log_;
  std::optional<Explanation> pending_;           // of a kill that was told, not yet explained
  std::vector<Victim> found_;                    // in the log, and in no explanation yet
  std::optional<Clock::time_point> counted_at_;  // the last increase
  Clock::time_point read_at_;                    // the last reading with a process
  bool following_ = false;                       // Follow runs
  bool ended_ = false;
};

}  // namespace feather::oom
