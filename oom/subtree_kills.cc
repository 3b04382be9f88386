#include "oom/subtree_kills.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "oom/cgroupfs.h"
#include "oom/kernel_record.h"
#include "runtime/base/directory_tree.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {
namespace {

bool IsGone(int error) { return error == ENOENT || error == ENODEV; }

bool Contains(const std::vector<pid_t>& pids, pid_t pid) {
  return std::find(pids.begin(), pids.end(), pid) != pids.end();
}

}  // namespace

SubtreeKills::SubtreeKills(std::string directory, const char* counter,
                           std::unique_ptr<LoggedKills> log, pid_t init)
    : counter_(counter), log_(std::move(log)) {
  own_.path = std::move(directory);
  if (init != 0) own_.processes = own_.last = {init};
}

void SubtreeKills::ReadLog() {
  if (!log_) return;
  logged_at_ = Clock::now();
  log_->Read();
  for (LoggedKills::Named& kill : log_->named()) kill.certain = kill.counted;
  for (LoggedKills::Unnamed& kill : log_->unnamed()) kill.certain = true;
}

uint64_t SubtreeKills::Add(uint64_t own, std::vector<pid_t> processes) {
  bool all = true;
  Cgroups now;
  if (counter_ != nullptr) now = ReadBelow(all);
  const uint64_t rise = own - std::min(own, own_.kills);
  if (log_ && (counter_ != nullptr || rise > 0)) log_->Read();
  MakeRoomForVictims();
  if (!processes.empty()) Saw(own_, std::move(processes));

  own_.kills = own;
  total_ += rise;
  Match(own_, rise, /*made=*/false);
  // Not in the total before they are in `seen_`: what throws in between must not count them twice.
  uint64_t rises = 0;
  for (auto& [inode, cgroup] : now) {
    const auto before = seen_.find(inode);
    const bool made = before == seen_.end();
    const uint64_t counted = made ? 0 : std::min(before->second.kills, cgroup.kills);
    // Of one that may have been left out, only what the log has is new for certain.
    const uint64_t rise_below = made && !seen_all_ ? 0 : cgroup.kills - counted;
    total_ += Match(cgroup, rise_below, made);
    rises += rise_below;
  }
  total_ += TakeGone(now, all);
  // One that is there, but cannot be read just now, would be new to the next reading.
  for (const auto& [inode, cgroup] : seen_)
    if (all && now.size() < kMostCgroups && !now.contains(inode) && IsThere(cgroup.path, inode))
      now.emplace(inode, cgroup);
  total_ += rises;
  seen_ = std::move(now);
  // What could not be read at the first time is not new later on.
  seen_all_ = all && (begun_ || error_ == 0);
  begun_ = true;
  return total_;
}

uint64_t SubtreeKills::AddRemoved() {
  if (!log_) return total_;
  log_->Read();
  MakeRoomForVictims();
  total_ += log_->named().size();
  for (LoggedKills::Named& kill : log_->named()) victims_.push_back(std::move(kill.victim));
  log_->named().clear();
  total_ += TakeUnnamed(own_);
  for (const auto& [inode, cgroup] : seen_) total_ += TakeUnnamed(cgroup);
  return total_;
}

void SubtreeKills::MakeRoomForVictims() {
  if (log_) victims_.reserve(victims_.size() + log_->named().size() + log_->unnamed().size());
}

void SubtreeKills::Saw(Cgroup& cgroup, std::vector<pid_t> processes) {
  constexpr size_t kMostSeen = 256;
  if (cgroup.unlogged == 0 || cgroup.processes.size() > kMostSeen) cgroup.processes = cgroup.last;
  for (const pid_t pid : processes)
    if (!Contains(cgroup.processes, pid)) cgroup.processes.push_back(pid);
  cgroup.last = std::move(processes);
}

SubtreeKills::Cgroups SubtreeKills::ReadBelow(bool& all) {
  Cgroups now;
  error_ = 0;
  const std::vector<std::string> tree = DirectoryTree(own_.path, kMostCgroups, &error_);
  if (IsGone(error_)) error_ = 0;
  all = tree.size() < kMostCgroups;
  for (const std::string& path : tree) {
    if (path == own_.path) continue;
    Cgroup cgroup;
    cgroup.path = path;
    // Before the counter: who is killed in between would be in neither.
    std::vector<pid_t> processes;
    if (log_) processes = Processes(path);
    const UniqueFd counter(open(CounterOf(path).c_str(), O_RDONLY | O_CLOEXEC));
    const Content control = counter ? ReadAgain(counter.get()) : Content{errno, {}};
    struct stat info {};
    if (control.error != 0 || fstat(counter.get(), &info) != 0) {
      if (!IsGone(control.error)) error_ = control.error;
      continue;
    }
    if (const auto before = seen_.find(info.st_ino); before != seen_.end()) {
      cgroup = before->second;
      cgroup.path = path;
    }
    cgroup.kills = ParseCounters(control.text).oom_kill;
    Saw(cgroup, std::move(processes));
    now.emplace(info.st_ino, std::move(cgroup));
  }
  return now;
}

std::string SubtreeKills::CounterOf(const std::string& cgroup) const {
  return absl::StrCat(cgroup, "/", counter_);
}

bool SubtreeKills::IsThere(const std::string& cgroup, std::optional<ino_t> inode) const {
  struct stat info {};
  if (stat(CounterOf(cgroup).c_str(), &info) != 0) return !IsGone(errno);
  return !inode || info.st_ino == *inode;
}

uint64_t SubtreeKills::Match(Cgroup& cgroup, uint64_t kills, bool made) {
  if (!log_) return 0;
  if (kills > 0) cgroup.rose_at = Clock::now();
  std::erase_if(log_->named(), [&](LoggedKills::Named& kill) {
    if (kills == 0 || !kill.certain) return false;
    if (counter_ != nullptr && kill.directory != cgroup.path) return false;
    --kills;
    victims_.push_back(std::move(kill.victim));
    return true;
  });
  // These first: the last choice may be of a kill that is not counted yet.
  std::erase_if(log_->unnamed(), [&](LoggedKills::Unnamed& kill) {
    if (!kill.certain || !Contains(cgroup.processes, kill.victim.pid)) return false;
    uint64_t& counted = cgroup.unlogged > 0 ? cgroup.unlogged : kills;
    if (counted > 0) victims_.push_back(std::move(kill.victim));
    counted -= std::min<uint64_t>(counted, 1);
    return true;
  });
  uint64_t earlier = 0;
  std::erase_if(log_->named(), [&](LoggedKills::Named& kill) {
    if (counter_ != nullptr && kill.directory != cgroup.path) return false;
    // The others' count may be to come.
    if (kills == 0 && !kill.certain) return false;
    if (kills == 0 && !made) return true;
    if (kills > 0)
      --kills;
    else
      ++earlier;
    victims_.push_back(std::move(kill.victim));
    return true;
  });
  cgroup.unlogged += kills;
  std::erase_if(log_->unnamed(), [&](LoggedKills::Unnamed& kill) {
    if (cgroup.unlogged == 0 || !Contains(cgroup.processes, kill.victim.pid)) return false;
    --cgroup.unlogged;
    victims_.push_back(std::move(kill.victim));
    return true;
  });
  // What there is of them was read.
  if (logged_at_ - cgroup.rose_at > kPatience) cgroup.unlogged = 0;
  return earlier;
}

uint64_t SubtreeKills::TakeGone(const Cgroups& now, bool all) {
  if (!log_) return 0;
  uint64_t kills = 0;
  if (counter_ != nullptr) {
    kills = std::erase_if(log_->named(), [&](LoggedKills::Named& kill) {
      // Match has left no certain one of those that were read.
      const bool left_out = !all && kill.certain;
      if (kill.directory == own_.path || (!left_out && IsThere(kill.directory))) return false;
      victims_.push_back(std::move(kill.victim));
      return true;
    });
    for (const auto& [inode, cgroup] : seen_)
      if (!log_->unnamed().empty() && !now.contains(inode) && !IsThere(cgroup.path, inode))
        kills += TakeUnnamed(cgroup);
  }
  // Counted by now, or somebody else's.
  std::erase_if(log_->unnamed(), [](const auto& kill) { return kill.certain; });
  return kills;
}

uint64_t SubtreeKills::TakeUnnamed(const Cgroup& gone) {
  const uint64_t found = std::erase_if(log_->unnamed(), [&](LoggedKills::Unnamed& kill) {
    if (!Contains(gone.processes, kill.victim.pid)) return false;
    victims_.push_back(std::move(kill.victim));
    return true;
  });
  return found - std::min(found, gone.unlogged);
}

}  // namespace feather::oom
