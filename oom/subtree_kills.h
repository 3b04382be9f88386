#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "oom/logged_kills.h"
#include "oom/watch.h"
#include "runtime/base/async.h"

namespace feather::oom {

// The kills in a cgroup and all below it. What is taken for a kill: an increase of a counter; and
// for a cgroup that is gone, what the kernel's log has of it and no counter had. None is taken
// twice, since the log names the victim's cgroup before the count and is read after the counters:
// of each increase that line is there by then. Where it names none, a kill is the cgroup's whose
// process it was at the last reading.
//
// Cgroups are told apart by inode: one may be made anew under an old name, or renamed.
//
// Of more than kMostCgroups the counters of the farthest are left out, and what is new to the
// reading after that may have been counted before: a container that makes so many hides its own
// kills only, but for those that the log names.
class SubtreeKills {
 public:
  // `counter`: the file of each cgroup below that counts its kills alone; nullptr: the cgroup's own
  // counter has those, too. `log`: none where only the counters are wanted. `init`: the container's
  // first process, which may have ended by the first reading; 0: not known.
  SubtreeKills(std::string directory, const char* counter,
               std::unique_ptr<LoggedKills> log = nullptr, pid_t init = 0);
  const std::string& directory() const { return own_.path; }
  // As the cgroup's own counter was last read.
  uint64_t own() const { return own_.kills; }

  // A reading: ReadLog, then read the cgroup's own counter, then Add. `processes`: who is in the
  // cgroup; empty: as before. Returns the kills so far.
  void ReadLog();
  uint64_t Add(uint64_t own, std::vector<pid_t> processes);
  // Instead of Add, if the cgroup itself is gone.
  uint64_t AddRemoved();
  // No reading comes any more: lets go of the log.
  void Close() { log_.reset(); }
  // Whom the readings since the last call have counted, as far as the log tells. A line that names
  // no cgroup comes after the count, and so does its victim.
  std::vector<Victim> TakeVictims() { return std::exchange(victims_, {}); }
  // The errno for which Add could not read all that is there, for want of descriptors, say; 0: it
  // could.
  int error() const { return error_; }

 private:
  struct Cgroup {
    std::string path;
    uint64_t kills = 0;
    // In it at the last reading; at that or the one before, or, while kills are unlogged, earlier.
    std::vector<pid_t> last;
    std::vector<pid_t> processes;
    // Counted, and the log has no line of it: that which names no cgroup comes after the count. A
    // reading kPatience later has it.
    uint64_t unlogged = 0;
    Clock::time_point rose_at = {};
  };
  using Cgroups = std::map<ino_t, Cgroup>;

  // A kill is counted and its line taken, or neither: what is between needs no memory.
  void MakeRoomForVictims();
  static void Saw(Cgroup& cgroup, std::vector<pid_t> processes);
  Cgroups ReadBelow(bool& all);
  std::string CounterOf(const std::string& cgroup) const;
  // Needs no descriptor. Without `inode`: a cgroup of that name.
  bool IsThere(const std::string& cgroup, std::optional<ino_t> inode = std::nullopt) const;
  // Takes what the log has of `cgroup`, `kills` of which are in the counter now; `made`: since the
  // last reading. Returns the kills of earlier cgroups of that name.
  uint64_t Match(Cgroup& cgroup, uint64_t kills, bool made);
  // Kills in cgroups that are gone without having been seen, or since they were, or, unless `all`
  // are in `now`, that were left out.
  uint64_t TakeGone(const Cgroups& now, bool all);
  // Of a cgroup that is gone, by the processes that were there.
  uint64_t TakeUnnamed(const Cgroup& gone);

  const char* const counter_;
  Cgroup own_;
  std::unique_ptr<LoggedKills> log_;
  std::vector<Victim> victims_;
  Clock::time_point logged_at_;  // before the log was read for this reading
  Cgroups seen_;
  bool begun_ = false;
  bool seen_all_ = true;
  int error_ = 0;
  uint64_t total_ = 0;
};

}  // namespace feather::oom
