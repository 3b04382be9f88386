#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "oom/kernel_log.h"
#include "oom/watch.h"

namespace feather::oom {

// The kills that the kernel's log tells of from a moment on and that are a container's, or may be:
// the line of a victim's choice (kernel_record.h) names its cgroup, that of its kill its pid. Pids
// mean what they mean here only in the first pid namespace, cgroups' names only in the first cgroup
// namespace: elsewhere they are not used.
//
// Errs towards too few: lines that the log has lost, that the rate limit has kept back, or that
// this process may not read.
class LoggedKills : public KernelLogListener {
 public:
  // In the container's cgroup or one below.
  struct Named {
    Victim victim;
    std::string directory;  // of its cgroup, absolute
    // Its counter has been raised: the line that comes after that has been read.
    bool counted = false;
    // For the caller.
    bool certain = false;
  };
  // A victim whose cgroup the log does not name, anywhere on the machine; its counter has been
  // raised.
  struct Unnamed {
    Victim victim;
    bool certain = false;
  };

  // `directory`: the container's cgroup. `since`: from there on; nullptr: from now on.
  explicit LoggedKills(const std::string& directory, const KernelLogMark* since = nullptr);

  // In the log's order; the caller takes out what it knows. Of kMostKept the oldest goes.
  std::vector<Named>& named() { return named_; }
  std::vector<Unnamed>& unnamed() { return unnamed_; }

  void Hear(absl::string_view line) override;

  static constexpr size_t kMostKept = 64;

 private:
  // That of the last choice, if it is among them.
  Named* LastChosen();

  const std::string directory_;
  // As the log names it; empty: not known.
  const std::string cgroup_;
  const bool knows_pids_;
  std::vector<Named> named_;
  std::vector<Unnamed> unnamed_;
  struct Chosen {
    pid_t pid;
    bool ours;
  };
  std::optional<Chosen> chosen_;
};

}  // namespace feather::oom
