#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

// The namespaces that a pod has of its own.
struct OwnNamespaces {
  bool net = false;
  bool ipc = false;
  bool uts = false;
  bool pid = false;
};

// The file below /proc/sys of a kernel parameter ("net.ipv4.ip_forward"; where the first separator
// is a slash, dots are parts of names, as in sysctl.d(5)). InvalidArgument for what is not limited
// to one of the pod's own namespaces: it would change the host. The rule is runc's.
absl::StatusOr<std::string> SysctlPath(absl::string_view name, const OwnNamespaces& own);

}  // namespace feather
