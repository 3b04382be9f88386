#include "shim/commands/placement.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/prctl.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/base/user_namespace.h"
#include "shim/commands/socket_name.h"

namespace feather {
namespace {

constexpr char kCgroups[] = "/sys/fs/cgroup";
constexpr int kMaxOomScore = 1000;

absl::Status Join(const std::string& directory) {
  std::string file = absl::StrCat(directory, "/cgroup.procs");
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(file, O_WRONLY));
  return Annotate(WriteAll(fd.get(), "0"), file);
}

bool IsDirectory(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  return fd.valid();
}

// Hierarchies that are mounted together have one directory and several links to it.
absl::Status JoinEveryHierarchy(const std::string& path) {
  DIR* directory = opendir(kCgroups);
  if (directory == nullptr) return ErrnoError(errno, absl::StrCat("open ", kCgroups));
  bool found = false;
  absl::Status status;
  while (dirent* entry = readdir(directory)) {
    absl::string_view name = entry->d_name;
    if (entry->d_type != DT_DIR || name == "." || name == ".." || name == "unified") continue;
    std::string cgroup = absl::StrCat(kCgroups, "/", name, path);
    if (!IsDirectory(cgroup)) continue;
    found = true;
    if (status = Join(cgroup); !status.ok()) break;
  }
  closedir(directory);
  if (status.ok() && !found) return absl::NotFoundError("no such cgroup");
  return status;
}

}  // namespace

absl::Status RaiseOomScore() {
  ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat("/proc/", getppid(), "/oom_score_adj")));
  int score = 0;
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &score))
    return absl::InternalError(absl::StrCat("odd oom_score_adj \"", text, "\""));
  score = std::min(score + 1, kMaxOomScore);
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile("/proc/self/oom_score_adj", O_WRONLY));
  absl::Status status = WriteAll(fd.get(), absl::StrCat(score));
  if (absl::IsPermissionDenied(status) && (geteuid() != 0 || InUserNamespace()))
    return absl::OkStatus();
  return Annotate(status, absl::StrCat("set OOM score to ", score));
}

absl::Status StartCoreScheduling() {
  constexpr unsigned long kProcessGroup = 2;  // enum pid_type, PIDTYPE_PGID
  if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, kProcessGroup, 0) < 0)
    return ErrnoError(errno, "enable sched core support");
  return absl::OkStatus();
}

absl::Status JoinCgroup(const std::string& path) {
  if (!absl::StartsWith(path, "/") || path.size() < 2 || CleanPath(path) != path ||
      absl::StartsWith(path, kCgroups))
    return absl::InvalidArgumentError(absl::StrCat("invalid shim cgroup \"", path, "\""));
  struct statfs fs;
  if (statfs(kCgroups, &fs) < 0) return ErrnoError(errno, absl::StrCat("statfs ", kCgroups));
  absl::Status status = fs.f_type == CGROUP2_SUPER_MAGIC ? Join(absl::StrCat(kCgroups, path))
                                                         : JoinEveryHierarchy(path);
  return Annotate(status, absl::StrCat("failed to join cgroup ", path));
}

}  // namespace feather
