#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "oom/watch.h"

namespace feather::oom {

// Calls `visit(key, value)` for each "<key> <number>" line of a flat keyed cgroup file; other lines
// are skipped, so that keys of later kernels do no harm.
void ForEachKey(absl::string_view text,
                const std::function<void(absl::string_view, uint64_t)>& visit);

// Of memory.events or memory.oom_control.
Counters ParseCounters(absl::string_view text);

// The whole of a small cgroup file from offset 0, which also re-arms its poll. Its error has the
// errno in `error` (ENODEV after the cgroup was removed).
struct Content {
  int error = 0;
  std::string text;
};
// One that says nothing of the file: this process has no descriptor or no memory left.
bool IsShortage(int error);
Content ReadAgain(int fd);
Content ReadPath(const std::string& path);

// What the kernel calls the cgroup whose directory this is: the path below the mount point; empty
// for the hierarchy's root, or if there is no such directory.
std::string NameInHierarchy(const std::string& directory);

// The first 64 processes of a cgroup, its oldest, the container's init among them.
std::vector<pid_t> Processes(const std::string& directory);

// Names of the cgroups directly below; empty where `directory` cannot be read.
std::vector<std::string> Children(const std::string& directory);

}  // namespace feather::oom
