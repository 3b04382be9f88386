#pragma once

#include <sys/capability.h>

#include <cstdint>
#include <initializer_list>

#include "absl/status/status.h"

namespace feather {

// What this process may do, capabilities(7). The serving shim gives up all of its effective
// capabilities when it begins, and raises those that an operation needs around it: whoever makes it
// act on a file, a process or a namespace of somebody else's by another way is refused by the
// kernel.
//
// Never from the permitted set, in which they stay: the exec of the OCI runtime would otherwise be
// a gain of privilege, upon which the kernel clears the child's PDEATHSIG, and the runtime would
// outlive a killed shim. The bounding, inheritable and ambient sets, securebits, no_new_privs and
// seccomp filters reach every container and stay as they are.
//
// Children (runtime/spawn.h, runtime/child.h) begin with everything that is permitted.

// Once, in the thread that will raise them. A process that has not called this keeps what it has,
// and raising does nothing.
absl::Status DropCapabilities();

// Raises capabilities (CAP_KILL, …) while it lives; without any named, all. Those that are not
// permitted stay away, and the operation fails as it does for everybody. Within one function, and
// with nothing awaited in between; errno stays. May be nested.
class RaisedCapabilities {
 public:
  RaisedCapabilities();
  explicit RaisedCapabilities(std::initializer_list<cap_value_t> capabilities);
  RaisedCapabilities(const RaisedCapabilities&) = delete;
  RaisedCapabilities& operator=(const RaisedCapabilities&) = delete;
  ~RaisedCapabilities();

  // In a forked child: they stay raised.
  void Keep() { raised_ = 0; }

 private:
  void Add(cap_value_t capability);
  void Apply();

  uint64_t raised_ = 0;  // by this object
};

}  // namespace feather
