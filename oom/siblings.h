#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "runtime/base/async.h"

namespace feather::oom {

// Tells how many kills a cgroup2 had had when it went away, from the oom_kill counters of its
// parent, which keeps the kills of removed children, and of its siblings.
//
// The counters are not read at one instant: the parent is read before and after the others, and a
// reading during which it changed is repeated.
class Siblings {
 public:
  // `directory`: the watched cgroup, absolute.
  explicit Siblings(const std::string& directory);

  // Call it before each reading of the cgroup's own counter, so that a kill between the two is in
  // one of them. `parent`: the parent's oom_kill, just read. Only if it has changed each child is
  // read, and not soon again: where each of many siblings has a watch (below system.slice, say) a
  // kill has all of them read all. LastCount does without a guess then.
  void Remember(uint64_t parent, Clock::time_point now);

  // After the cgroup has gone, and a last Remember: its oom_kill, told from the others' kills since
  // their last reading; nullopt where it cannot be told. An earlier reading that was left out may
  // have missed a sibling that came, was killed and went: whether what is left of the kills was
  // ours cannot be told then.
  std::optional<uint64_t> LastCount();

 private:
  struct Reading {
    uint64_t parent = 0;
    std::map<std::string, uint64_t> children;
  };
  // nullopt: the parent is gone, or changed during each of some attempts.
  std::optional<Reading> ReadAll() const;

  std::string parent_;
  std::string name_;
  std::optional<Reading> remembered_;  // always with name_ among the children
  Clock::time_point next_;             // reading, not before
  int left_out_ = 0;                   // readings since remembered_, or failed ones
};

}  // namespace feather::oom
