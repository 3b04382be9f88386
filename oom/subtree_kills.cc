#include "oom/subtree_kills.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "oom/cgroupfs.h"
#include "runtime/base/directory_tree.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {
namespace {

std::string CounterOf(const std::string& cgroup) {
  return absl::StrCat(cgroup, "/memory.oom_control");
}

bool IsGone(int error) { return error == ENOENT || error == ENODEV; }

// Needs no descriptor. Without `inode`: a cgroup of that name.
bool IsThere(const std::string& cgroup, std::optional<ino_t> inode = std::nullopt) {
  struct stat info {};
  if (stat(CounterOf(cgroup).c_str(), &info) != 0) return !IsGone(errno);
  return !inode || info.st_ino == *inode;
}

}  // namespace

SubtreeKills::SubtreeKills(std::string directory, std::unique_ptr<LoggedKills> log)
    : log_(std::move(log)) {
  own_.path = std::move(directory);
}

void SubtreeKills::ReadLog() {
  if (!log_) return;
  log_->Read();
  for (LoggedKills::Named& kill : log_->named()) kill.certain = kill.counted;
}

uint64_t SubtreeKills::Add(uint64_t own, std::vector<pid_t> processes) {
  bool all = true;
  Cgroups now = ReadBelow(all);
  if (log_) log_->Read();

  const uint64_t rise = own - std::min(own, own_.kills);
  own_.kills = own;
  total_ += rise;
  Match(own_, rise, /*made=*/false);
  if (!processes.empty()) own_.processes = std::move(processes);
  for (auto& [inode, cgroup] : now) {
    auto before = seen_.find(inode);
    const bool made = before == seen_.end();
    const uint64_t counted = made ? 0 : std::min(before->second.kills, cgroup.kills);
    const uint64_t earlier = Match(cgroup, cgroup.kills - counted, made);
    if (!made || seen_all_) total_ += cgroup.kills - counted + earlier;
  }
  total_ += TakeGone(now, all);
  // One that is there, but cannot be read just now, would be new to the next reading.
  for (const auto& [inode, cgroup] : seen_)
    if (all && now.size() < kMostCgroups && !now.contains(inode) && IsThere(cgroup.path, inode))
      now.emplace(inode, cgroup);
  seen_ = std::move(now);
  // What could not be read at the first time is not new later on.
  seen_all_ = all && (begun_ || error_ == 0);
  begun_ = true;
  return total_;
}

uint64_t SubtreeKills::AddRemoved() {
  if (!log_) return total_;
  log_->Read();
  total_ += log_->named().size();
  log_->named().clear();
  const std::vector<pid_t> victims = log_->TakeUnnamed();
  total_ += CountUnnamed(own_, victims);
  for (const auto& [inode, cgroup] : seen_) total_ += CountUnnamed(cgroup, victims);
  return total_;
}

SubtreeKills::Cgroups SubtreeKills::ReadBelow(bool& all) {
  Cgroups now;
  error_ = 0;
  const std::vector<std::string> tree = DirectoryTree(own_.path, kMostCgroups, &error_);
  if (IsGone(error_)) error_ = 0;
  all = tree.size() < kMostCgroups;
  for (const std::string& path : tree) {
    if (path == own_.path) continue;
    const UniqueFd counter(open(CounterOf(path).c_str(), O_RDONLY | O_CLOEXEC));
    const Content control = counter ? ReadAgain(counter.get()) : Content{errno, {}};
    struct stat info {};
    if (control.error != 0 || fstat(counter.get(), &info) != 0) {
      if (!IsGone(control.error)) error_ = control.error;
      continue;
    }
    Cgroup cgroup{path, ParseCounters(control.text).oom_kill, 0, {}};
    if (log_) cgroup.processes = Processes(path);
    now.emplace(info.st_ino, std::move(cgroup));
  }
  return now;
}

uint64_t SubtreeKills::Match(Cgroup& cgroup, uint64_t kills, bool made) {
  cgroup.unnamed = kills;
  if (!log_) return 0;
  uint64_t earlier = 0;
  std::erase_if(log_->named(), [&](const LoggedKills::Named& kill) {
    if (kill.directory != cgroup.path) return false;
    if (cgroup.unnamed > 0) {
      --cgroup.unnamed;
      return true;
    }
    // The others' count may be to come.
    if (kill.certain && made) ++earlier;
    return kill.certain;
  });
  return earlier;
}

uint64_t SubtreeKills::TakeGone(const Cgroups& now, bool all) {
  if (!log_) return 0;
  uint64_t kills = std::erase_if(log_->named(), [&](const LoggedKills::Named& kill) {
    // Match has left no certain one of those that were read.
    const bool left_out = !all && kill.certain;
    return kill.directory != own_.path && (left_out || !IsThere(kill.directory));
  });
  const std::vector<pid_t> victims = log_->TakeUnnamed();
  if (victims.empty()) return kills;
  for (const auto& [inode, cgroup] : seen_)
    if (!now.contains(inode) && !IsThere(cgroup.path, inode))
      kills += CountUnnamed(cgroup, victims);
  return kills;
}

uint64_t SubtreeKills::CountUnnamed(const Cgroup& gone, const std::vector<pid_t>& victims) {
  const auto found =
      static_cast<uint64_t>(std::count_if(victims.begin(), victims.end(), [&](pid_t victim) {
        return std::find(gone.processes.begin(), gone.processes.end(), victim) !=
               gone.processes.end();
      }));
  // The line comes after the count, which the last reading may have had.
  return found - std::min(found, gone.unnamed);
}

}  // namespace feather::oom
