#pragma once

#include "oom/watch.h"

namespace feather::oom {

// The back end for cgroup2 (Documentation/admin-guide/cgroup-v2.rst). It holds memory.events and
// cgroup.events of the container's cgroup open and polls them; below systemd (a cgroup named
// *.scope) also the parent's memory.events. What it relies on, each shown on the running kernel by
// tests/cgroup2/oom_kernel_test.cc:
//  - A change of either file wakes poll(2) with POLLPRI at once (fs/kernfs/file.c, kernfs_notify);
//    reading from offset 0 arms it again. No inotify instance is involved.
//  - Notifications of one file are at least 10 ms apart, later ones are delayed
//    (CGROUP_FILE_NOTIFY_MIN_INTV). A wake-up for `oom` may therefore precede oom_kill, whose own
//    follows up to 10 ms later: after such a reading the file is read again on a short timer.
//  - oom_kill is raised before the SIGKILL is sent, in the victim's cgroup and all above it,
//    whichever of them was at its limit; a sibling's counter stays.
//  - When the last process is gone, `populated 0` is signalled. Nothing is signalled when the empty
//    cgroup is removed, so that the watch ends at the former.
//  - After rmdir the open files answer ENODEV; the parent's counter keeps the kills.
//
// Mounted with memory_localevents, cgroup2 counts and signals a kill in the victim's cgroup alone.
// Then memory.events.local, which does so under each mount, is read of the cgroup and of all below
// it at each reading (subtree_kills.h), as on cgroup1: a kill below by a limit there is told with
// the next reading, which comes before any exit that is published; so is one by a limit above this
// cgroup's, which is signalled where it is alone. No parent's count helps then.
//
// systemd removes a scope as soon as it is empty, perhaps before the last reading. The watch then
// takes what the parent's oom_kill has grown by since the container's own counter was last read,
// less what the siblings' have (siblings.h); where that cannot tell (a sibling also went away
// since, the parent is the root or gone as well, memory_localevents), what the kernel's log has got
// since the last reading (subtree_kills.h) of the cgroup, or of the processes that were in it
// then. What remains uncertain:
//  - The log has its own gaps, towards a missing report.
//  - A sibling that was made, killed by the OOM killer and removed between two turns of the loop,
//    while this container's cgroup went away in the same interval, would be taken for this
//    container.
// The fallback concerns only a loop that is slower than the victim's exit, systemd's wake-up and
// its rmdir together.
absl::StatusOr<std::unique_ptr<Watch>> StartCgroup2(asio::io_context& io, std::string directory,
                                                    Watch::OnKill on_kill, Beginning beginning,
                                                    Watch::OnExplained on_explained);
absl::StatusOr<uint64_t> CountKillsCgroup2(const std::string& directory);

}  // namespace feather::oom
