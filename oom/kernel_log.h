#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "oom/watch.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {

// Which processes of a container the kernel's log says were OOM-killed. A victim is the container's
// if the line of its choice (kernel_record.h) names its cgroup or one below, or if its pid was
// among those that SawProcesses was told. Pids mean what they mean here only in the first pid
// namespace, cgroups' names only in the first cgroup namespace: elsewhere they are not used.
//
// A cgroup may have had an earlier life under the same name. The log's clock is none that can be
// read; but it runs as ours does, and whoever reads the log after a kill finds a line that has just
// been written: what is older than that by more than the object's age is left out.
//
// Errs towards too few: lines that the log has lost, that the rate limit has kept back, or that
// this process may not read.
class KernelLog {
 public:
  // `directory`: the container's cgroup, used by it since `begun`.
  explicit KernelLog(const std::string& directory, Clock::time_point begun = Clock::now());

  // The processes that are in the cgroup now; empty: as before. A victim may be among them still,
  // as a zombie, or only among those of the call before; with `keep`, of all calls since the last
  // one without it.
  void SawProcesses(std::vector<pid_t> processes, bool keep = false);
  // A record, as it is read from /dev/kmsg. One that was there already is passed over.
  void Add(absl::string_view record);
  // All records that there are: some milliseconds where the log is long. From then on the log is
  // open, and the next call reads what has come since, until Close.
  void Read(const std::string& path = "/dev/kmsg");
  void Close() { log_.Reset(); }
  // The victims that were found since the last call, each once.
  std::vector<Victim> Take();

 private:
  void AddKill(pid_t pid, absl::string_view name, uint64_t at);

  UniqueFd log_;
  // As the kernel's log names it; empty: not known.
  std::string cgroup_;
  bool knows_pids_;
  std::vector<pid_t> processes_;
  std::vector<pid_t> before_;
  // Whom the last choice was.
  std::optional<Victim> chosen_;
  struct Found {
    uint64_t at;
    Victim victim;
  };
  std::vector<Found> found_;
  const Clock::time_point begun_;
  // When the last record was written, in microseconds of the log's own clock.
  uint64_t newest_ = 0;
  // Sequence number of the first record that has not been seen.
  uint64_t next_ = 0;
};

}  // namespace feather::oom
