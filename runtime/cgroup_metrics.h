#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "proto/cgroups_v1.pb.h"
#include "proto/cgroups_v2.pb.h"
#include "runtime/cgroup.h"

namespace feather {

// Where what is not a cgroup's own comes from; tests put their own files there.
struct MetricsSources {
  std::string huge_pages = "/sys/kernel/mm/hugepages";
  std::string partitions = "/proc/partitions";
};

// What the Stats request answers, as containerd's own shim fills it (contract section 8.6). A
// missing file counts as zero, or leaves out what only it can tell: a cgroup that is gone is a
// message of zeros, not an error. Errors: a file that cannot be read for another reason than that
// it is missing, or that has another form than the kernel's.

// `path`: of the cgroup. Limits of "max" are UINT64_MAX.
absl::StatusOr<io::containerd::cgroups::v2::Metrics> ReadMetricsV2(
    const std::string& path, const MetricsSources& sources = {});

// Of the controllers that `cgroup` has. A limit of "max" is 0 here, and times are in nanoseconds.
absl::StatusOr<io::containerd::cgroups::v1::Metrics> ReadMetricsV1(
    const Cgroup& cgroup, const MetricsSources& sources = {});

}  // namespace feather
