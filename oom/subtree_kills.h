#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "oom/logged_kills.h"

namespace feather::oom {

// On cgroup1, whose counters are of one cgroup each: the kills in a cgroup and all below it. What
// is taken for a kill: an increase of a counter; and for a cgroup that is gone, what the kernel's
// log has of it and no counter had. None is taken twice, since the log names the victim's cgroup
// before the count and is read after the counters: of each increase the lines are there by then.
//
// Cgroups are told apart by inode: one may be made anew under an old name, or renamed.
//
// Of more than kMostCgroups the counters of the farthest are left out, and what is new to the
// reading after that may have been counted before: a container that makes so many hides its own
// kills only, but for those that the log names.
class SubtreeKills {
 public:
  // `log`: none where only the counters are wanted.
  explicit SubtreeKills(std::string directory, std::unique_ptr<LoggedKills> log = nullptr);
  const std::string& directory() const { return own_.path; }

  // A reading: ReadLog, then read the cgroup's own counter, then Add. `processes`: who is in the
  // cgroup; empty: as before. Returns the kills so far.
  void ReadLog();
  uint64_t Add(uint64_t own, std::vector<pid_t> processes);
  // Instead of Add, if the cgroup itself is gone.
  uint64_t AddRemoved();
  // No reading comes any more: lets go of the log.
  void Close() { log_.reset(); }
  // The errno for which Add could not read all that is there, for want of descriptors, say; 0: it
  // could.
  int error() const { return error_; }

 private:
  struct Cgroup {
    std::string path;
    uint64_t kills = 0;
    // Those of the last reading that the log did not name.
    uint64_t unnamed = 0;
    std::vector<pid_t> processes;
  };
  using Cgroups = std::map<ino_t, Cgroup>;

  Cgroups ReadBelow(bool& all);
  // Takes what the log has of `cgroup`, `kills` of which are in the counter now; `made`: since the
  // last reading. Returns the kills of earlier cgroups of that name.
  uint64_t Match(Cgroup& cgroup, uint64_t kills, bool made);
  // Kills in cgroups that are gone without having been seen, or since they were, or, unless `all`
  // are in `now`, that were left out.
  uint64_t TakeGone(const Cgroups& now, bool all);
  // Of a cgroup that is gone, by the processes that were there.
  static uint64_t CountUnnamed(const Cgroup& gone, const std::vector<pid_t>& victims);

  Cgroup own_;
  std::unique_ptr<LoggedKills> log_;
  Cgroups seen_;
  bool begun_ = false;
  bool seen_all_ = true;
  int error_ = 0;
  uint64_t total_ = 0;
};

}  // namespace feather::oom
