#pragma once

#include "oom/watch.h"

namespace feather::oom {

// The back end for cgroup1 (Documentation/admin-guide/cgroup-v1/memory.rst, section 10): an eventfd
// registered for memory.oom_control through cgroup.event_control, and that file's oom_kill counter,
// which alone decides. What it relies on (tests/unit/oom_cgroup1_test.cc):
//  - The eventfd is signalled when the cgroup or one above it is out of memory, *before* a victim
//    is chosen, which may be elsewhere; and once more when the cgroup is removed, which is no OOM.
//    So a signal means: read the counter now, and again on a timer for a second, or for as long as
//    the kernel says under_oom. An increase does not end that: it may be of an earlier signal.
//    A kernel that refuses the registration (PREEMPT_RT does) is followed by its log, /dev/kmsg,
//    whose line of a kill comes after the count; where that cannot be had either, a kill is told
//    with the next reading.
//  - oom_kill is raised, in the victim's cgroup only, before the SIGKILL is sent.
//  - After rmdir the open file answers ENODEV.
// Since a cgroup1 counter leaves out the cgroups below, these are read as well, and their sum is
// reported; but a kill by a limit there signals nothing here, so that it is told with the next
// reading (which comes before any exit that is published).
//
// A cgroup that is removed before the reading takes its counter along, and no ancestor keeps it.
// For the container's own and those below it, seen before or not, the kernel's log is asked
// (subtree_kills.h): each reading looks whether it has anything new.
//
// Errs towards a missing report: the log may have lost a line, or not name the victim's cgroup, of
// more than ten kills in five seconds on the machine, when the process was not there at the last
// reading; or its names and pids mean nothing here. A kill that is counted more than a second after
// its signal (the kernel writes its report to a slow console in between) is told late, with the
// next reading.
absl::StatusOr<std::unique_ptr<Watch>> StartCgroup1(asio::io_context& io, std::string directory,
                                                    Watch::OnKill on_kill, Beginning beginning,
                                                    Watch::OnExplained on_explained);
absl::StatusOr<uint64_t> CountKillsCgroup1(const std::string& directory);

}  // namespace feather::oom
