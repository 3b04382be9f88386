#include "runtime/base/user_namespace.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "runtime/base/file.h"

namespace feather {
namespace {

// In a child that has been through `before`: 1 or 0; or 2 if that failed.
int InUserNamespaceAfter(const std::function<bool()>& before) {
  pid_t pid = fork();
  if (pid == 0) _exit(!before() ? 2 : InUserNamespace() ? 1 : 0);
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(UserNamespace, IsNotTheMachinesFirst) {
  if (InUserNamespace()) GTEST_SKIP() << "this is one";
  EXPECT_EQ(InUserNamespaceAfter([] {
              return unshare(CLONE_NEWUSER) == 0 &&
                     WriteFile("/proc/self/uid_map", "0 0 1", 0).ok();
            }),
            1);
}

// It has no uids yet.
TEST(UserNamespace, IsOneWithoutAMap) {
  EXPECT_EQ(InUserNamespaceAfter([] { return unshare(CLONE_NEWUSER) == 0; }), 1);
}

TEST(UserNamespace, IsAssumedWhenItCannotBeKnown) {
  EXPECT_EQ(InUserNamespaceAfter([] {
              return unshare(CLONE_NEWNS) == 0 &&
                     mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                     mount("none", "/proc", "tmpfs", 0, nullptr) == 0;
            }),
            1);
}

}  // namespace
}  // namespace feather
