#pragma once

#include "runtime/base/unique_fd.h"

namespace feather::test {

// Puts this process (of one thread) into a private mount namespace while it lives, and then back.
// The working directory is / afterwards.
class MountNamespace {
 public:
  MountNamespace();
  MountNamespace(const MountNamespace&) = delete;
  MountNamespace& operator=(const MountNamespace&) = delete;
  ~MountNamespace();

  // False, with the reason in errno, where that is not possible.
  bool entered() const { return entered_; }
  // Makes /sys/fs/cgroup show cgroup2 alone.
  bool ShowCgroup2();
  // Makes it show the cgroup1 hierarchies alone; true also where there is no hybrid.
  bool ShowCgroup1();

 private:
  UniqueFd before_;
  bool entered_ = false;
};

}  // namespace feather::test
