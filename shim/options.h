#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/any.pb.h"
#include "runtime/oci_runtime.h"
#include "runtime/runtime_options.h"

namespace feather {

// The options that containerd sends with `start`, `-info` and Create. Understood are
// - containerd.runc.v1.Options, what CRI sends for the runtime type io.containerd.runc.v2;
// - runtimeoptions.v1.Options, what it sends for every other type: TOML, in the message or in the
//   file that it names. Keys are those of the first kind's fields, written as CRI's configuration
//   does (SystemdCgroup) or with underscores; an unknown one is an error that names it, since what
//   an administrator mistypes must not be skipped silently.
// - containerd.linux.runc.CreateOptions, what the client of 1.6 and 1.7 makes of its own options
//   (WithShimCgroup, WithUIDOwner …) for every runtime type but io.containerd.runc.*.
// Type URLs may carry a prefix up to a '/'. A message without a type is one with the defaults.
// Everything else is InvalidArgument. Never blocks on what a path names.
absl::StatusOr<RuntimeOptions> DecodeOptions(const google::protobuf::Any& options);

// Those of a Checkpoint request: containerd.runc.v1.CheckpointOptions, or
// containerd.linux.runc.CheckpointOptions as above. The image's path is not theirs. InvalidArgument
// for anything else.
absl::StatusOr<OciRuntime::CheckpointArgs> DecodeCheckpointOptions(
    const google::protobuf::Any& options);

// Whether they say nothing: there are none, as from nerdctl for a runtime that is not runc's by its
// name, or they are of the second kind with neither a text nor a file, as from CRI of containerd
// 1.6 whatever its configuration says, unless that is the path of a file.
bool SayNothing(const google::protobuf::Any& options);

// Whether DecodeOptions understands this type.
bool IsOptionsType(const google::protobuf::Any& options);

// `options.json` (as the Go shim writes it: zero values omitted) and `runtime` (the binary's name
// alone) in the bundle, both 0600. The delete command reads them, possibly that of another shim's
// version.
absl::Status WriteOptions(const std::string& bundle, const RuntimeOptions& options);

// Those files read back. Missing ones leave the defaults; `runtime` has precedence for the binary.
absl::StatusOr<RuntimeOptions> ReadOptions(const std::string& bundle);

}  // namespace feather
