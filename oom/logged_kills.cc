#include "oom/logged_kills.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "oom/kernel_record.h"

namespace feather::oom {
namespace {

template <typename Kill>
void Keep(std::vector<Kill>& kills, Kill kill) {
  if (kills.size() == LoggedKills::kMostKept) kills.erase(kills.begin());
  kills.push_back(std::move(kill));
}

}  // namespace

LoggedKills::LoggedKills(const std::string& directory, const KernelLogMark* since)
    : directory_(directory), cgroup_(LogNameOf(directory)), knows_pids_(KnowsPidsOfLog()) {
  if (cgroup_.empty() && !knows_pids_) return;
  Listen();
  if (since == nullptr) return;
  // It has heard all up to where this begins to.
  for (const std::string& line : since->lines()) Hear(line);
}

void LoggedKills::Hear(absl::string_view line) {
  if (line.empty()) {
    // The line of the last choice's kill may be among the lost: not to be awaited.
    if (Named* named = LastChosen()) named->counted = true;
    return chosen_.reset();
  }
  if (const auto choice = ParseChoice(line, cgroup_)) {
    chosen_.reset();
    if (choice->below)
      Keep(named_,
           {.victim = {choice->pid, std::string(choice->name), std::string(choice->limit_of)},
            .directory = absl::StrCat(directory_, Unescaped(*choice->below))});
    chosen_ = Chosen{choice->pid, choice->below.has_value()};
    return;
  }
  const auto victim = ParseVictim(line);
  if (!victim) return;
  const bool same = chosen_ && chosen_->pid == victim->pid;
  // It is the chosen one's in any case, unless an old kernel has passed over that without a word.
  if (Named* named = LastChosen(); named != nullptr && (same || victim->killed)) {
    named->victim.name = std::string(victim->name);
    named->counted = true;
    if (!victim->killed) named_.erase(named_.begin() + (named - named_.data()));
  }
  const auto chosen = std::exchange(chosen_, std::nullopt);
  if (!knows_pids_ || !victim->killed) return;
  // Where no name means anything, pids do. The choice's is 0 if its line was broken in two.
  const bool chosen_means_it = cgroup_.empty() && chosen && chosen->pid != 0;
  if (cgroup_.empty() || !same)
    Keep(unnamed_, {{chosen_means_it ? chosen->pid : victim->pid, std::string(victim->name), ""}});
}

LoggedKills::Named* LoggedKills::LastChosen() {
  if (!chosen_ || !chosen_->ours) return nullptr;
  const auto found = std::find_if(named_.rbegin(), named_.rend(), [this](const Named& named) {
    return named.victim.pid == chosen_->pid;
  });
  return found == named_.rend() ? nullptr : &*found;
}

}  // namespace feather::oom
