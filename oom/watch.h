#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace feather::oom {

class KernelLogMark;

// The counters of memory.events (cgroup2) or memory.oom_control (cgroup1, `oom_kill` only) as last
// read. On both they count the container's cgroup and everything below it; with memory_localevents
// `oom_kill` does, and the others that cgroup alone.
struct Counters {
  uint64_t low = 0;
  uint64_t high = 0;
  uint64_t max = 0;
  uint64_t oom = 0;
  uint64_t oom_kill = 0;
  uint64_t oom_group_kill = 0;
};

// A process that the OOM killer took, as the kernel's log has it.
struct Victim {
  pid_t pid = 0;  // in the first pid namespace
  std::string name;
  // The cgroup that was at its limit; empty: the machine itself, or not known.
  std::string limit_of;
};

// What is known of a kill, for people to read.
struct Explanation {
  std::string cgroup;  // the container's, an absolute directory
  std::string limit;   // of it, as the kernel words it
  Counters counters;
  // None where the kernel's log did not tell. (Where kills are told a few milliseconds apart, the
  // first may have the second's as well.)
  std::vector<Victim> victims;
};

// What the watch cannot see by itself: from where on a cgroup's kills are a container's, and
// whether the counters are those of each cgroup alone.
struct Beginning {
  // Those after this count: what CountKills said before the OCI runtime made the container, or what
  // an earlier watch had told. nullopt: what is counted when the watch starts, so that a kill
  // before that is not told.
  std::optional<uint64_t> kills;
  // From before the OCI runtime made the container, of the caller's; nullptr: the watch hears the
  // kernel's log from its start on.
  const KernelLogMark* log = nullptr;
  // Its first process, which is in none of the cgroup's lists if it has ended; 0: not known.
  pid_t init = 0;
  // cgroup2 is mounted with memory_localevents: a counter leaves out the cgroups below.
  bool local_events = false;
};

// Watches one container's cgroup for OOM kills. Back ends: cgroup2.h (memory.events and
// cgroup.events polled for EPOLLPRI, no inotify) and cgroup1.h (memory.oom_control with an
// eventfd); their headers name the kernel's guarantees that they stand on and what remains
// uncertain. What they are made of, in the order in which to read it:
//   cgroupfs.h         reads and parses the files
//   account.h          decides which readings are told
//   kernel_record.h    reads and parses the kernel's log
//   kernel_log.h       hears it from a moment on
//   logged_kills.h     the kills in that
//   subtree_kills.h    adds those, for cgroups that are gone before they were read, and, where
//                      counters are of one cgroup each, those of the cgroups below
//   explainer.h        tells people who was killed
//   siblings.h         what a scope of systemd's that is gone had, by the counts of others
//   cgroup1.cc, cgroup2.cc
//
// "Told" means, here and in those files, that on_kill was called.
//
// `on_kill` is called from the loop, or from inside Read and Finish, never from inside Start, once
// for each reading that finds `oom_kill` greater than the one before; a group kill that was read
// half-way counts once (account.h). It must not destroy the watch. `on_explained` follows each
// `on_kill`, in the same way, as soon as the kernel's log names the victim, after 0.1 s or at the
// watch's end in any case.
//
// Order of calls: Start once the container's init is in the cgroup; Read before each exit of one of
// its processes is published, Finish before the init's. The watch also ends by itself, in the same
// way as by Finish, when the cgroup turns empty or is removed, whichever is first; after its end it
// holds no descriptor, and every call is allowed and does nothing.
class Watch {
 public:
  using OnKill = std::function<void(const Counters&)>;
  using OnExplained = std::function<void(const Explanation&)>;

  // `directory`: the container's cgroup; on cgroup1 that of the memory controller. An error (no
  // memory controller, no such cgroup, one that belongs to another user) leaves nothing open.
  static absl::StatusOr<std::unique_ptr<Watch>> Start(asio::io_context& io, bool unified,
                                                      std::string directory, OnKill on_kill,
                                                      Beginning beginning = {},
                                                      OnExplained on_explained = nullptr);
  virtual ~Watch() = default;

  // Reads the counters now. Call it before the exit of any process of the container is published:
  // the kernel raises the counter before it sends the SIGKILL (mm/oom_kill.c), so that a kill is
  // always told before the exit that it caused.
  virtual void Read() = 0;
  // Reads a last time and closes every descriptor. Idempotent.
  virtual void Finish() = 0;
  // As last read; still there after Finish.
  virtual const Counters& counters() const = 0;
};

// Kills that a cgroup has counted so far, 0 if there is none (yet). A cgroup can be older than its
// container. Fails where that cannot be known just now, for want of descriptors or memory.
absl::StatusOr<uint64_t> CountKills(bool unified, const std::string& directory);

// For a container whose cgroup was gone before it could be watched: what the kernel's log says of
// its init, which has ended, from `log` on. nullopt if the OOM killer did not take it, or the log
// does not tell.
std::optional<Explanation> FindKillOfInit(const std::string& directory, KernelLogMark& log,
                                          pid_t init);

}  // namespace feather::oom
