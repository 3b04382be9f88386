#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace feather::oom {

// The kills of one container that the kernel's log tells of from the construction on, whether a
// counter has them or not: unlike KernelLog's they are bounded by the log's order, not by its
// clock, so that nothing from before is among them.
//
// For that the log is kept open, by one descriptor for all objects of this class (it costs the
// kernel 3 to 16 KiB), which nobody waits for: it wakes nobody.
class LoggedKills {
 public:
  struct Named {
    pid_t pid = 0;
    // The victim's cgroup, an absolute directory: the container's or one below.
    std::string directory;
    // Its counter has been raised: the line that comes after that has been read.
    bool counted = false;
    // For the caller.
    bool certain = false;
  };
  // A victim whose cgroup the log does not name, anywhere on the machine; its counter has been
  // raised.
  struct Unnamed {
    pid_t pid = 0;
    bool certain = false;
  };

  // `directory`: the container's cgroup. Where the log or the names in it are of no use here,
  // nothing is ever found.
  explicit LoggedKills(const std::string& directory);
  LoggedKills(const LoggedKills&) = delete;
  LoggedKills& operator=(const LoggedKills&) = delete;
  ~LoggedKills();

  // What the log has by now. One read(2) if there is nothing new on the whole machine.
  void Read();
  // In the log's order; the caller takes out what it knows. Of kMostKept the oldest goes.
  std::vector<Named>& named() { return named_; }
  std::vector<Unnamed>& unnamed() { return unnamed_; }

  // A line of the kernel's.
  void Add(absl::string_view text);

  static constexpr size_t kMostKept = 256;

 private:
  class Log;

  const std::string directory_;
  // As the log names it; empty: not known.
  const std::string cgroup_;
  const bool knows_pids_;
  std::shared_ptr<Log> log_;
  std::vector<Named> named_;
  std::vector<Unnamed> unnamed_;
  struct Chosen {
    pid_t pid;
    bool ours;
  };
  std::optional<Chosen> chosen_;
};

}  // namespace feather::oom
