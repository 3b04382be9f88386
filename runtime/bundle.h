#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

// Ids of tasks, execs and namespaces: words of [A-Za-z0-9] with single '.', '_' or '-' between
// them, at most 76 characters. InvalidArgument, with containerd's text, otherwise.
absl::Status ValidateId(absl::string_view id);

// What the shim needs to know of an OCI runtime configuration (config.json). Everything else in it
// is between its author and the OCI runtime. Keys are matched as Go does it, without regard to
// case.
struct ContainerSpec {
  // linux.namespaces has an entry of type pid without a path: the kernel kills all other processes
  // when the init ends.
  bool has_private_pid_namespace = false;
  // Value of the first annotation present of io.containerd.runc.v2.group and
  // io.kubernetes.cri.sandbox-id: containers with the same value share a shim. Empty: none.
  std::string group;
  // linux.cgroupsPath.
  std::string cgroups_path;

  // cgroups_path is "X.slice:prefix:name": what only systemd's cgroup driver can make of it is
  // meant.
  bool in_slice() const;
};

// InvalidArgument when it is not a JSON object, or nested more than 1000 levels deep. Needs no
// memory beyond the strings above.
absl::StatusOr<ContainerSpec> ParseSpec(absl::string_view json);
// The same of a file of at most 64 MiB; NotFound when there is none.
absl::StatusOr<ContainerSpec> ReadSpec(const std::string& config_path);

// ContainerSpec::group of a config.json; empty if the file does not exist (a sandbox without a
// process has none). Any other failure is an error, which a start may tolerate: its group is its
// id.
absl::StatusOr<std::string> ReadGroupAnnotation(const std::string& config_path);

// PermissionDenied for a bundle that belongs to another user, or into which others may write: they
// could put links in the place of the files that are written there. InvalidArgument when it is no
// directory, NotFound when there is none.
absl::Status CheckBundleDirectory(const std::string& path);

// A container's bundle directory.
class Bundle {
 public:
  // InvalidArgument when `path` is not absolute, else as CheckBundleDirectory. A config.json that
  // is missing or broken is no error here: the OCI runtime says best what is wrong with it. spec()
  // then has its defaults, so that the pid namespace counts as shared.
  static absl::StatusOr<Bundle> Open(std::string path);

  const std::string& path() const { return path_; }
  // Path of a file in the bundle, "config.json", say.
  std::string File(absl::string_view name) const;
  std::string rootfs() const { return File("rootfs"); }

  const ContainerSpec& spec() const { return spec_; }
  // Why spec() has its defaults.
  const absl::Status& config_status() const { return config_status_; }

 private:
  std::string path_;
  ContainerSpec spec_;
  absl::Status config_status_;
};

// The OCI process object of an exec request as the file that the OCI runtime reads: `terminal`
// replaced by the request's flag, everything else kept as it came, and a newline at the end.
// InvalidArgument when `json` is not an object (Go's decoder would take null for an empty one).
absl::StatusOr<std::string> ProcessSpec(absl::string_view json, bool terminal);

// OCI LinuxResources of an update request, for the OCI runtime's standard input: kept whole, but
// members that are null are dropped at every depth, as Go's re-encoding does. InvalidArgument when
// `json` is not an object.
absl::StatusOr<std::string> Resources(absl::string_view json);

}  // namespace feather
