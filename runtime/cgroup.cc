#include "runtime/cgroup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/directory_tree.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/mount/mountinfo.h"

namespace feather {
namespace {

constexpr char kRoot[] = "/sys/fs/cgroup";

using Fields = std::vector<absl::string_view>;

// A host has thousands of mounts, and few of cgroups.
std::vector<MountInfo> ParseMounts(absl::string_view mountinfo) {
  std::vector<MountInfo> mounts;
  for (absl::string_view line : absl::StrSplit(mountinfo, '\n'))
    if (absl::StrContains(line, " - cgroup"))
      for (MountInfo& mount : ParseMountInfo(line)) mounts.push_back(std::move(mount));
  return mounts;
}

bool HasOption(const MountInfo& mount, absl::string_view option) {
  for (absl::string_view name : absl::StrSplit(mount.super_options, ','))
    if (name == option) return true;
  return false;
}

// Where `path`, from the root of the hierarchy, is in `mount`.
std::optional<std::string> Locate(const MountInfo& mount, absl::string_view path) {
  // A cgroup outside of this process' cgroup namespace is shown as "/../x".
  for (absl::string_view component : absl::StrSplit(path, '/'))
    if (component == "..") return std::nullopt;
  absl::string_view root = absl::StripSuffix(mount.root, "/");
  if (!absl::ConsumePrefix(&path, root)) return std::nullopt;
  if (!path.empty() && path[0] != '/') return std::nullopt;
  return absl::StrCat(mount.mount_point, absl::StripSuffix(path, "/"));
}

// The place of a cgroup1 controller's hierarchy; the standard one if it is mounted repeatedly.
std::optional<std::string> LocateController(const std::vector<MountInfo>& mounts,
                                            absl::string_view controller, absl::string_view path) {
  std::optional<std::string> found;
  for (const MountInfo& mount : mounts) {
    if (mount.type != "cgroup" || !HasOption(mount, controller)) continue;
    std::optional<std::string> place = Locate(mount, path);
    if (!place) continue;
    if (absl::StartsWith(mount.mount_point, kRoot)) return place;
    if (!found) found = std::move(place);
  }
  return found;
}

void AddPids(const std::string& directory, std::vector<pid_t>& pids) {
  auto procs = ReadFile(absl::StrCat(directory, "/cgroup.procs"));
  // A threaded cgroup2 answers EOPNOTSUPP: its processes are listed in the domain above it.
  if (!procs.ok()) return;
  for (absl::string_view line : absl::StrSplit(*procs, '\n', absl::SkipEmpty())) {
    pid_t pid = 0;
    // 0: a process of a pid namespace that cannot be seen from here.
    if (absl::SimpleAtoi(line, &pid) && pid > 0) pids.push_back(pid);
  }
}

// Any hierarchy knows all processes; runc's own list is that of `devices`.
absl::StatusOr<std::string> Directory(const Cgroup& cgroup) {
  if (cgroup.unified) return cgroup.path;
  for (const char* name : {"devices", "pids", "memory", "freezer"})
    if (auto it = cgroup.controllers.find(name); it != cgroup.controllers.end()) return it->second;
  if (cgroup.controllers.empty()) return absl::NotFoundError("no cgroup");
  return cgroup.controllers.begin()->second;
}

absl::Status EnableIn(const std::string& directory,
                      const std::vector<absl::string_view>& controllers) {
  std::string file = absl::StrCat(directory, "/cgroup.subtree_control");
  auto text = ReadFile(file);
  if (!text.ok()) return text.status();
  std::set<absl::string_view> enabled =
      absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  std::string wanted;
  for (absl::string_view controller : controllers)
    if (!enabled.contains(controller))
      absl::StrAppend(&wanted, wanted.empty() ? "+" : " +", controller);
  if (wanted.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(file, O_WRONLY));
  return Annotate(WriteAll(fd.get(), wanted), absl::StrCat("write \"", wanted, "\" to ", file));
}

}  // namespace

absl::StatusOr<Cgroup> ParseCgroup(bool unified, absl::string_view proc_cgroup,
                                   absl::string_view mountinfo) {
  std::vector<MountInfo> mounts = ParseMounts(mountinfo);
  Cgroup cgroup;
  cgroup.unified = unified;
  for (absl::string_view line : absl::StrSplit(proc_cgroup, '\n')) {
    // id:controllers:path, and 0::path for cgroup2
    Fields fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    absl::string_view path = absl::StripSuffix(fields[2], " (deleted)");
    if (!absl::StartsWith(path, "/")) continue;
    if (unified && fields[0] == "0") {
      for (const MountInfo& mount : mounts) {
        if (mount.type != "cgroup2" || mount.mount_point != kRoot) continue;
        std::optional<std::string> place = Locate(mount, path);
        if (!place) continue;
        cgroup.path = *std::move(place);
        cgroup.local_events = HasOption(mount, "memory_localevents");
      }
    } else if (!unified && !fields[1].empty()) {
      for (absl::string_view controller : absl::StrSplit(fields[1], ','))
        if (auto place = LocateController(mounts, controller, path))
          cgroup.controllers[std::string(controller)] = *place;
    }
  }
  if (cgroup.path.empty() && cgroup.controllers.empty())
    return absl::NotFoundError("no mounted cgroup of the process");
  return cgroup;
}

absl::StatusOr<bool> IsUnified() {
  struct statfs info;
  if (statfs(kRoot, &info) < 0) return ErrnoError(errno, kRoot);
  return info.f_type == CGROUP2_SUPER_MAGIC;
}

std::string ExpectedMemoryCgroup(bool unified, absl::string_view cgroups_path) {
  std::string path;
  if (absl::StartsWith(cgroups_path, "/")) {
    path = std::string(absl::StripSuffix(cgroups_path, "/"));
  } else {
    const std::vector<absl::string_view> parts = absl::StrSplit(cgroups_path, ':');
    if (parts.size() != 3 || parts[2].empty()) return "";
    const absl::string_view slice = parts[0].empty() ? "system.slice" : parts[0];
    if (!absl::EndsWith(slice, ".slice")) return "";
    // "a-b.slice" lies in "a.slice"; "-.slice" is the root.
    for (size_t i = 1; slice != "-.slice" && i < slice.size(); ++i)
      if (slice[i] == '-') absl::StrAppend(&path, "/", slice.substr(0, i), ".slice");
    if (slice != "-.slice") absl::StrAppend(&path, "/", slice);
    absl::StrAppend(&path, "/", parts[1], parts[1].empty() ? "" : "-", parts[2], ".scope");
  }
  if (path.empty() || absl::StrContains(absl::StrCat(path, "/"), "/../")) return "";
  return absl::StrCat(kRoot, unified ? "" : "/memory", path);
}

std::vector<std::string> PossibleMemoryCgroups(bool unified, const std::string& cgroups_path,
                                               const std::string& id) {
  if (std::string expected = ExpectedMemoryCgroup(unified, cgroups_path); !expected.empty())
    return {expected};
  const std::string& relative = cgroups_path.empty() ? id : cgroups_path;
  if (absl::StartsWith(relative, "/") || absl::StrContains(relative, ":") ||
      absl::StrContains(absl::StrCat("/", relative, "/"), "/../"))
    return {};
  const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
  std::vector<std::string> possible = {absl::StrCat(root, "/", relative)};
  const auto own = FindCgroup(getpid());
  if (!own.ok()) return possible;
  const auto memory = own->controllers.find("memory");
  if (!unified && memory == own->controllers.end()) return possible;
  const std::string& here = unified ? own->path : memory->second;
  if (!absl::StartsWith(here, root + "/")) return possible;
  possible.push_back(absl::StrCat(here, "/", relative));
  possible.push_back(absl::StrCat(here.substr(0, here.rfind('/')), "/", relative));
  return possible;
}

absl::StatusOr<Cgroup> FindCgroup(pid_t pid) {
  // proc(5): hidepid hides it from others.
  RaisedCapabilities raised({CAP_SYS_PTRACE});
  ASSIGN_OR_RETURN(bool unified, IsUnified());
  ASSIGN_OR_RETURN(std::string mountinfo, ReadFile("/proc/self/mountinfo"));
  ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat("/proc/", pid, "/cgroup")));
  if (!unified) {
    ASSIGN_OR_RETURN(std::string stat, ReadFile(absl::StrCat("/proc/", pid, "/stat")));
    // pid (comm) state …, where comm may hold anything
    size_t end = stat.rfind(") ");
    char state = end == std::string::npos ? 'X' : stat[end + 2];
    if (state == 'Z' || state == 'X')
      return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  }
  return ParseCgroup(unified, text, mountinfo);
}

absl::StatusOr<std::vector<pid_t>> CgroupPids(const Cgroup& cgroup) {
  ASSIGN_OR_RETURN(std::string top, Directory(cgroup));
  if (access(top.c_str(), F_OK) < 0) return ErrnoError(errno, top);
  std::vector<pid_t> pids;
  for (const std::string& directory : DirectoryTree(top, kMostCgroups)) AddPids(directory, pids);
  // A process that forks or moves meanwhile may be seen twice.
  std::sort(pids.begin(), pids.end());
  pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
  return pids;
}

absl::StatusOr<bool> IsFrozen(const Cgroup& cgroup) {
  if (cgroup.unified) {
    ASSIGN_OR_RETURN(std::string asked, ReadFile(cgroup.path + "/cgroup.freeze"));
    return absl::StartsWith(asked, "1");
  }
  const auto freezer = cgroup.controllers.find("freezer");
  if (freezer == cgroup.controllers.end()) return absl::NotFoundError("no freezer");
  ASSIGN_OR_RETURN(std::string state, ReadFile(freezer->second + "/freezer.state"));
  return !absl::StartsWith(state, "THAWED");
}

absl::Status EnableControllers(const std::string& mount_point, const std::string& path) {
  // A delegated one is another user's.
  RaisedCapabilities raised({CAP_DAC_OVERRIDE});
  absl::string_view relative = path;
  if (!absl::ConsumePrefix(&relative, absl::StrCat(mount_point, "/"))) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::string text, ReadFile(absl::StrCat(mount_point, "/cgroup.controllers")));
  std::vector<absl::string_view> controllers =
      absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  std::vector<absl::string_view> components = absl::StrSplit(relative, '/', absl::SkipEmpty());
  if (components.empty()) return absl::OkStatus();
  components.pop_back();
  std::string directory = mount_point;
  absl::Status last = EnableIn(directory, controllers);
  for (absl::string_view component : components) {
    absl::StrAppend(&directory, "/", component);
    last = EnableIn(directory, controllers);
  }
  return last;
}

absl::Status EnableControllers(const Cgroup& cgroup) {
  if (!cgroup.unified) return absl::OkStatus();
  return EnableControllers(kRoot, cgroup.path);
}

}  // namespace feather
