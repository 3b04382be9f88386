#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/any.pb.h"

namespace feather {

// The path of a pod's cgroup below the root of the hierarchy: CRI's `cgroup_parent` as it is, or
// for a systemd slice ("kubepods-burstable-podX.slice") with the slices that it lies in,
// systemd.slice(5).
std::string PodCgroupPath(absl::string_view parent);

// What Stats answers for a container (runtime/cgroup_metrics.h), for a pod's cgroup. NotFound if
// `parent` is empty.
absl::StatusOr<google::protobuf::Any> ReadPodMetrics(const std::string& parent);

}  // namespace feather
