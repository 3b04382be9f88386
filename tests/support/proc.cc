#include "tests/support/proc.h"

#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"

namespace feather::test {
namespace {

std::string ReadLink(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t n = readlink(path.c_str(), target, sizeof target);
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

std::string ProcFile(pid_t pid, absl::string_view name) {
  return ReadFile(absl::StrCat("/proc/", pid, "/", name)).value_or("");
}

// State and what follows it in /proc/PID/stat; the program's name before it may contain anything.
std::vector<std::string> StatFields(pid_t pid) {
  const std::string stat = ProcFile(pid, "stat");
  const size_t end = stat.rfind(')');
  if (end == std::string::npos) return {};
  return absl::StrSplit(absl::string_view(stat).substr(end + 1), ' ', absl::SkipEmpty());
}

int KibibytesOf(const std::string& text, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StartsWith(line, name)) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int value = -1;
    if (words.size() > 1 && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return -1;
}

// The cgroups named `containerd_namespace`, in every hierarchy.
std::vector<std::string> NamespaceCgroups(const std::string& containerd_namespace) {
  std::vector<std::string> found;
  std::vector<std::string> hierarchies = {"/sys/fs/cgroup"};
  for (const std::string& name : ListDirectory("/sys/fs/cgroup"))
    hierarchies.push_back("/sys/fs/cgroup/" + name);
  for (const std::string& hierarchy : hierarchies) {
    const std::string path = absl::StrCat(hierarchy, "/", containerd_namespace);
    if (access(path.c_str(), F_OK) == 0) found.push_back(path);
  }
  return found;
}

void AppendDirectoriesBelow(const std::string& path, std::vector<std::string>& found) {
  for (const std::string& name : ListDirectory(path)) {
    const std::string child = absl::StrCat(path, "/", name);
    struct stat info {};
    if (lstat(child.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) continue;
    found.push_back(child);
    AppendDirectoriesBelow(child, found);
  }
}

}  // namespace

std::vector<std::string> ListDirectory(const std::string& path) {
  std::vector<std::string> names;
  DIR* dir = opendir(path.c_str());
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir)) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> pids;
  for (const std::string& name : ListDirectory("/proc")) {
    int pid = 0;
    if (absl::SimpleAtoi(name, &pid)) pids.push_back(pid);
  }
  return pids;
}

pid_t ParentOf(pid_t pid) {
  const std::vector<std::string> fields = StatFields(pid);
  int parent = 0;
  return fields.size() > 1 && absl::SimpleAtoi(fields[1], &parent) ? parent : 0;
}

std::string CommandLine(pid_t pid) {
  std::string line = ProcFile(pid, "cmdline");
  if (line.empty())
    return absl::StrCat("[", absl::StripAsciiWhitespace(ProcFile(pid, "comm")), "]");
  line = absl::StrReplaceAll(line, {{absl::string_view("\0", 1), " "}});
  return std::string(absl::StripTrailingAsciiWhitespace(line));
}

std::vector<pid_t> DaemonProcesses(const std::string& containerd_namespace) {
  const std::string ours = ReadLink("/proc/self/ns/mnt");
  const std::string cgroup = absl::StrCat("/", containerd_namespace, "/");
  std::vector<pid_t> found;
  for (pid_t pid : AllProcesses()) {
    if (pid == getpid()) continue;
    if (ReadLink(absl::StrCat("/proc/", pid, "/ns/mnt")) != ours &&
        !absl::StrContains(ProcFile(pid, "cgroup"), cgroup))
      continue;
    const std::vector<std::string> fields = StatFields(pid);
    if (!fields.empty() && fields[0] != "Z" && fields[0] != "X") found.push_back(pid);
  }
  return found;
}

std::vector<std::string> ChildCgroups(const std::string& containerd_namespace) {
  std::vector<std::string> found;
  for (const std::string& path : NamespaceCgroups(containerd_namespace))
    AppendDirectoriesBelow(path, found);
  return found;
}

void RemoveCgroups(const std::string& containerd_namespace) {
  std::vector<std::string> paths = ChildCgroups(containerd_namespace);
  std::reverse(paths.begin(), paths.end());
  for (const std::string& path : paths) rmdir(path.c_str());
  for (const std::string& path : NamespaceCgroups(containerd_namespace)) rmdir(path.c_str());
}

Footprint FootprintOf(pid_t pid) {
  Footprint footprint;
  const std::string memory = ProcFile(pid, "smaps_rollup");
  footprint.private_dirty_kib = KibibytesOf(memory, "Private_Dirty:");
  footprint.resident_kib = KibibytesOf(memory, "Rss:");
  const std::string directory = absl::StrCat("/proc/", pid);
  footprint.threads = static_cast<int>(ListDirectory(directory + "/task").size());
  const std::vector<std::string> fds = ListDirectory(directory + "/fd");
  footprint.descriptors = static_cast<int>(fds.size());
  footprint.inotify_descriptors =
      static_cast<int>(std::count_if(fds.begin(), fds.end(), [&](const std::string& fd) {
        return absl::StrContains(ReadLink(absl::StrCat(directory, "/fd/", fd)), "inotify");
      }));
  return footprint;
}

}  // namespace feather::test
