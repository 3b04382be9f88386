#pragma once

#include <array>

#include "absl/status/status.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// The network, IPC and UTS namespaces in which this process began, while it is in others: a shim
// that holds a pod's (runtime/sandbox/pod_namespaces.h). What it does for the host meanwhile
// happens at home: its children go back before they execute anything (runtime/spawn.h,
// runtime/mount/child.h), and its sockets are made there (AtHome). A process that has never left
// pays nothing.
//
// A matter of the process, not of an object. setns(2): the process has one thread.

// Namespaces to enter; those without a descriptor stay.
struct Namespaces {
  UniqueFd net;
  UniqueFd ipc;
  UniqueFd uts;
};

// All of them or none. Once, until ReturnHome.
absl::Status LeaveHome(Namespaces to);
// Back, and nothing of the others is held any more. Nothing to do at home.
absl::Status ReturnHome();

// Descriptors of the namespaces to go back to with setns(2), -1 where there is nothing to do; null
// at home. Async-signal-safe, for a child that shares this memory.
const std::array<int, 3>* HomeNamespaces();

// For a forked child with memory of its own, before it closes descriptors: goes back for good.
absl::Status ReturnHomeInChild();

// Puts this process into its home's network namespace while it lives, for a socket to be made: a
// socket holds the namespace in which it was made. No waiting in between.
class AtHome {
 public:
  AtHome();
  AtHome(const AtHome&) = delete;
  AtHome& operator=(const AtHome&) = delete;
  ~AtHome();
};

}  // namespace feather
