#include "oom/uncounted_kills.h"

#include <algorithm>
#include <utility>

namespace feather::oom {

UncountedKills::UncountedKills(pid_t init, std::unique_ptr<LoggedKills> log)
    : log_(std::move(log)) {
  if (init != 0) processes_ = {init};
}

void UncountedKills::BeginReading() {
  if (!log_) return;
  log_->Read();
  for (LoggedKills::Named& kill : log_->named()) kill.certain = kill.counted;
  unnamed_ = log_->TakeUnnamed();
}

void UncountedKills::EndReading(std::vector<pid_t> processes, bool rose) {
  if (!processes.empty()) processes_ = std::move(processes);
  if (rose) rose_at_ = Clock::now();
  // The counter has these, and the others soon.
  unnamed_.clear();
  if (log_) std::erase_if(log_->named(), [](const auto& kill) { return kill.certain; });
}

uint64_t UncountedKills::Count() {
  if (!log_ || (rose_at_ && Clock::now() - *rose_at_ <= kDoubt)) return 0;
  log_->Read();
  uint64_t kills = log_->named().size();
  const std::vector<pid_t> more = log_->TakeUnnamed();
  unnamed_.insert(unnamed_.end(), more.begin(), more.end());
  for (pid_t victim : unnamed_)
    kills += static_cast<uint64_t>(std::count(processes_.begin(), processes_.end(), victim));
  return kills;
}

}  // namespace feather::oom
