#include "oom/account.h"

#include <algorithm>
#include <utility>

namespace feather::oom {

Account::Account(Watch::OnKill on_kill, const Counters& now, std::optional<uint64_t> baseline)
    : on_kill_(std::move(on_kill)),
      last_(now),
      // A count below the baseline is that of a cgroup made anew.
      covered_(std::min(baseline.value_or(now.oom_kill), now.oom_kill)) {}

bool Account::Observe(const Counters& now, Clock::time_point at) {
  bool group_rose = now.oom_group_kill > last_.oom_group_kill;
  bool recent = told_at_ && at - *told_at_ <= kGroupWindow;
  last_ = now;
  if (now.oom_kill <= covered_) {
    // The first victim was reported before its group was counted.
    if (group_rose && recent) told_group_ = true;
    return false;
  }
  // If just one of the two readings had a group's counter, they are the halves of one group kill;
  // if both had it, two groups; if neither, two kills of one process each.
  if (recent && (group_rose != told_group_ || told_maybe_group_)) {
    told_group_ = told_group_ || group_rose;
    covered_ = now.oom_kill;
    return false;
  }
  // If it throws, the kill is left to the next reading.
  on_kill_(last_);
  covered_ = now.oom_kill;
  told_at_ = at;
  told_group_ = group_rose;
  told_maybe_group_ = false;
  return true;
}

}  // namespace feather::oom
