#pragma once

#include <cstdint>
#include <optional>

#include "oom/watch.h"
#include "runtime/base/async.h"

namespace feather::oom {

// Decides which readings of the counters are reported: pure arithmetic, no descriptors.
//
// A group kill (memory.oom.group) raises oom_kill for the first victim, then oom_group_kill, then
// oom_kill for each process of the group, the first victim again if it has not gone by then
// (mm/oom_kill.c, oom_kill_process), so that a reading can fall between them and show one kill
// twice. Therefore an increase within kGroupWindow of a reported one is folded into it if
// oom_group_kill rose with either of the two. Where that counter does not show a group (the group
// is that of an ancestor, which counts it; Linux before 5.17; the cgroup is gone), MarkMaybeGroup
// stands for it.
//
// Errs: towards one report too few when an unrelated kill comes within the window of a group kill
// (the group's report stands, at most kGroupWindow earlier); towards one too many when the loop
// stood still for longer than the window.
class Account {
 public:
  static constexpr Clock::duration kGroupWindow = std::chrono::seconds(1);

  // `baseline`: Beginning::kills.
  Account(Watch::OnKill on_kill, const Counters& now, std::optional<uint64_t> baseline);

  // Takes a reading made at `at`; reports it, and returns true, if it must be.
  bool Observe(const Counters& now, Clock::time_point at);
  // The kill that was reported last may have been the first of a group: until kGroupWindow is over,
  // every increase is folded into it.
  void MarkMaybeGroup() { told_maybe_group_ = true; }
  const Counters& last() const { return last_; }

 private:
  Watch::OnKill on_kill_;
  Counters last_;
  uint64_t covered_;                          // oom_kill up to which all is told, or folded into it
  std::optional<Clock::time_point> told_at_;  // the last report, if there was one
  bool told_group_ = false;                   // its oom_group_kill has been read
  bool told_maybe_group_ = false;             // MarkMaybeGroup
};

}  // namespace feather::oom
