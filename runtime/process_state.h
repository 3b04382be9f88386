#pragma once

#include "absl/status/status.h"

namespace feather {

// The life of a container's process. An exec uses kCreated, kRunning, kStopped and kDeleted only.
enum class ProcessState {
  kCreated,
  kCreatedCheckpoint,  // Start restores it from a checkpoint
  kRunning,
  kPausing,  // running, while the OCI runtime freezes it
  kPaused,
  kStopped,
  kDeleted,
};

enum class Operation {
  kStart,
  kPause,
  kResume,
  kUpdate,
  kCheckpoint,
  kExec,
  kKill,
  kDelete,
  kResize
};

// Whether `operation` may begin in `state`; otherwise the status that containerd's own shim
// answers.
absl::Status AllowedForInit(ProcessState state, Operation operation);
absl::Status AllowedForExec(ProcessState state, Operation operation);

}  // namespace feather
