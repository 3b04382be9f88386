#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "google/protobuf/any.pb.h"
#include "proto/cri.pb.h"
#include "runtime/sandbox/pod_files.h"
#include "runtime/sandbox/pod_namespaces.h"

namespace feather {

// CreateSandbox' options: a pod as CRI describes it (runtime.v1.PodSandboxConfig), or nothing, for
// a pod without a pid namespace of its own. InvalidArgument if they are of another type, are
// broken, or have what could not be handed on whole.
absl::StatusOr<cri::v1::PodSandboxConfig> ParseSandboxOptions(const google::protobuf::Any& options);

// What of it concerns namespaces, containerd's default kernel parameters included. `netns_path`: of
// the network namespace that containerd has made; empty: the host's.
PodConfig NamespacesOf(const cri::v1::PodSandboxConfig& config, const std::string& netns_path);
// And what concerns files, kept in `bundle`.
PodFiles FilesOf(const cri::v1::PodSandboxConfig& config, const PodConfig& pod,
                 const std::string& bundle);

}  // namespace feather
