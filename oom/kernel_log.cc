#include "oom/kernel_log.h"

#include <chrono>
#include <utility>

#include "oom/kernel_record.h"

namespace feather::oom {
namespace {

// A container that is killed from again and again is never at rest.
constexpr size_t kMostKept = 256;

}  // namespace

KernelLog::KernelLog(const std::string& directory, Clock::time_point begun)
    : cgroup_(LogNameOf(directory)), knows_pids_(KnowsPidsOfLog()), begun_(begun) {}

void KernelLog::SawProcesses(std::vector<pid_t> processes, bool keep) {
  if (!knows_pids_ || processes.empty()) return;
  if (!keep || before_.size() > kMostKept) before_.clear();
  before_.insert(before_.end(), processes_.begin(), processes_.end());
  processes_ = std::move(processes);
}

void KernelLog::Add(absl::string_view text) {
  const auto record = ParseRecord(text);
  if (!record || record->sequence < next_) return;
  if (record->sequence > next_) chosen_.reset();
  next_ = record->sequence + 1;
  newest_ = record->at;
  if (const auto choice = ParseChoice(record->text, cgroup_)) {
    chosen_.reset();
    if (!choice->below) return;
    chosen_ = Victim{};
    chosen_->pid = choice->pid;
    chosen_->limit_of = std::string(choice->limit_of);
  } else if (const auto victim = ParseVictim(record->text)) {
    if (victim->killed) AddKill(victim->pid, victim->name, record->at);
    chosen_.reset();
  }
}

void KernelLog::AddKill(pid_t pid, absl::string_view name, uint64_t at) {
  Victim victim;
  victim.pid = pid;
  // Once each: a group's first victim is told twice, and pids are given anew.
  const bool seen = std::erase(processes_, pid) + std::erase(before_, pid) > 0;
  // A thread of the one that was chosen, then.
  if (chosen_ && !seen) {
    victim.pid = chosen_->pid;
    std::erase(processes_, victim.pid);
    std::erase(before_, victim.pid);
  }
  const bool chosen = chosen_ && chosen_->pid == victim.pid;
  if (!chosen && !seen) return;
  if (chosen) victim.limit_of = std::move(chosen_->limit_of);
  victim.name = std::string(name);
  found_.push_back({at, std::move(victim)});
}

void KernelLog::Read(const std::string& path) {
  if (cgroup_.empty() && processes_.empty()) return;
  if (!log_) log_ = OpenKernelLog(path);
  ReadRecords(log_, [this](absl::string_view record) { Add(record); });
}

std::vector<Victim> KernelLog::Take() {
  const auto age = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begun_);
  std::vector<Victim> victims;
  for (Found& found : std::exchange(found_, {}))
    if (found.at + static_cast<uint64_t>(age.count()) >= newest_)
      victims.push_back(std::move(found.victim));
  return victims;
}

}  // namespace feather::oom
