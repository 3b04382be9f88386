#include "tests/support/mount_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace feather::test {

MountNamespace::MountNamespace() : before_(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC)) {
  entered_ = before_ && unshare(CLONE_NEWNS) == 0 &&
             mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

MountNamespace::~MountNamespace() {
  if (before_ && setns(before_.get(), CLONE_NEWNS) < 0) {
    perror("cannot return to the mount namespace");
    abort();
  }
}

bool MountNamespace::ShowCgroup2() {
  return entered_ && mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, nullptr) == 0;
}

bool MountNamespace::ShowCgroup1() {
  return entered_ &&
         (umount2("/sys/fs/cgroup/unified", MNT_DETACH) == 0 || errno == ENOENT || errno == EINVAL);
}

}  // namespace feather::test
