#include "runtime/sandbox/pod_cgroup.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/cgroup.h"
#include "runtime/cgroup_metrics.h"

namespace feather {
namespace {

template <typename Metrics>
google::protobuf::Any Pack(const Metrics& metrics) {
  google::protobuf::Any any;
  any.set_type_url(metrics.GetTypeName());
  any.set_value(metrics.SerializeAsString());
  return any;
}

// The same cgroup in every hierarchy, in the form of /proc/<pid>/cgroup.
std::string ProcCgroup(absl::string_view own, const std::string& path) {
  std::string text;
  for (absl::string_view line : absl::StrSplit(own, '\n', absl::SkipEmpty())) {
    std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() == 3) absl::StrAppend(&text, fields[0], ":", fields[1], ":", path, "\n");
  }
  return text;
}

}  // namespace

std::string PodCgroupPath(absl::string_view parent) {
  if (!absl::EndsWith(parent, ".slice")) {
    while (absl::ConsumePrefix(&parent, "/")) continue;
    return absl::StrCat("/", parent);
  }
  absl::string_view name = parent.substr(parent.rfind('/') + 1);
  absl::ConsumeSuffix(&name, ".slice");
  std::string path;
  for (size_t dash = name.find('-'); dash != name.npos; dash = name.find('-', dash + 1))
    absl::StrAppend(&path, "/", name.substr(0, dash), ".slice");
  return absl::StrCat(path, "/", name, ".slice");
}

absl::StatusOr<google::protobuf::Any> ReadPodMetrics(const std::string& parent) {
  if (parent.empty()) return absl::NotFoundError("the sandbox has no cgroup: not found");
  struct statfs info;
  if (statfs("/sys/fs/cgroup", &info) < 0) return ErrnoError(errno, "/sys/fs/cgroup");
  bool unified = info.f_type == CGROUP2_SUPER_MAGIC;
  ASSIGN_OR_RETURN(std::string mountinfo, ReadFile("/proc/self/mountinfo"));
  ASSIGN_OR_RETURN(std::string own, ReadFile("/proc/self/cgroup"));
  ASSIGN_OR_RETURN(Cgroup cgroup,
                   ParseCgroup(unified, ProcCgroup(own, PodCgroupPath(parent)), mountinfo));
  if (unified) {
    ASSIGN_OR_RETURN(auto metrics, ReadMetricsV2(cgroup.path));
    return Pack(metrics);
  }
  ASSIGN_OR_RETURN(auto metrics, ReadMetricsV1(cgroup));
  return Pack(metrics);
}

}  // namespace feather
