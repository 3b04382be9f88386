#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace feather::test {

// What /proc and /sys/fs/cgroup say.

std::vector<pid_t> AllProcesses();
// 0 if there is no such process.
pid_t ParentOf(pid_t pid);
// Arguments with spaces between them; the name in brackets if there are none.
std::string CommandLine(pid_t pid);

// Processes of a test's daemon: all but this one that share this mount namespace, and those of
// containers, whose cgroup lies below `containerd_namespace`. Zombies are not counted: they have
// released everything but their number, and may await a parent outside the test.
std::vector<pid_t> DaemonProcesses(const std::string& containerd_namespace);

// Directories below the cgroups of that name, in every hierarchy.
std::vector<std::string> ChildCgroups(const std::string& containerd_namespace);
// Removes the (empty) cgroups of that name and what is below them.
void RemoveCgroups(const std::string& containerd_namespace);

struct Footprint {
  // -1: unknown.
  int private_dirty_kib = -1;
  int resident_kib = -1;
  int threads = -1;
  int descriptors = -1;
  int inotify_descriptors = -1;
};
Footprint FootprintOf(pid_t pid);

// Names in a directory but "." and "..", sorted.
std::vector<std::string> ListDirectory(const std::string& path);

}  // namespace feather::test
