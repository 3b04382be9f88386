#pragma once

#include <array>

#include "absl/status/status.h"

namespace feather {

// The network, IPC and UTS namespaces in which this process began, while it is in others: a shim
// that holds a pod's (runtime/sandbox/pod_namespaces.h). What it does for the host meanwhile
// happens at home: its children go back before they execute anything (runtime/spawn.h,
// runtime/child.h), and its sockets are made there (AtHome). A process that has never left
// pays nothing.
//
// A matter of the process, not of an object. setns(2) moves the calling thread: the process' first,
// whose namespaces are those of /proc/<pid>/ns. Where there are others (gRPC's) they stay at home.

// Descriptors of namespaces to enter; -1: stay. The caller's, to be open until ReturnHome.
struct Namespaces {
  int net = -1;
  int ipc = -1;
  int uts = -1;
};

// All of them or none, and none if there is no way back: that takes CAP_SYS_ADMIN at home, which
// root of a user namespace has only in what was made there. Once, until ReturnHome.
absl::Status LeaveHome(Namespaces to);
// Back. Nothing to do at home.
absl::Status ReturnHome();

// Descriptors of the namespaces to go back to with setns(2), -1 where there is nothing to do; null
// at home. Async-signal-safe, for a child that shares this memory.
const std::array<int, 3>* HomeNamespaces();

// For a forked child with memory of its own, before it closes descriptors: goes back for good.
absl::Status ReturnHomeInChild();

// Puts this thread into its home's network namespace while it lives, for a socket or a thread to be
// made: these hold the namespace in which they were made. No waiting in between. Meanwhile
// /proc/<pid>/ns/net is the host's, so that no container may be told to join the pod by that.
class AtHome {
 public:
  AtHome();
  AtHome(const AtHome&) = delete;
  AtHome& operator=(const AtHome&) = delete;
  ~AtHome();
};

}  // namespace feather
