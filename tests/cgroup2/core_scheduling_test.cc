// Core scheduling, beside the stock shims. None of Debian's kernels has it: tests/cgroup2/run
// builds one that does, and boots it in QEMU.
#include <linux/prctl.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstring>

#include "tests/support/oracle.h"

namespace feather::test {
namespace {

// What tells the cookie of a process from others (prctl(2), PR_SCHED_CORE_GET); 0 means none.
unsigned long CookieOf(pid_t pid) {
  unsigned long cookie = 0;
  EXPECT_EQ(prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, pid, 0, &cookie), 0)
      << "of " << pid << ": " << strerror(errno);
  return cookie;
}

class CoreScheduling : public Oracle {
 protected:
  void SetUp() override {
    unsigned long own;
    if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, 0, &own) < 0)
      GTEST_SKIP() << "this kernel has no core scheduling (" << strerror(errno)
                   << "): FEATHER_GUEST=core-scheduling tests/cgroup2/run";
    Oracle::SetUp();
  }
  // Started, and no longer the OCI runtime.
  static Container& Run(FakeContainerd& ctrd, const std::string& id) {
    ContainerOptions options;
    options.spec.args = {"sh", "-c", "echo here; exec sleep 1000"};
    Container& c = ctrd.New(id, options);
    EXPECT_THAT(c.Run(), IsOk());
    EXPECT_TRUE(ctrd.loop().RunUntil([&] { return c.stdio().out->data() == "here\n"; }));
    return c;
  }
};
INSTANTIATE_TEST_SUITE_P(Debian, CoreScheduling, kSuites, SuiteName);

// Checklist: L24.
TEST_P(CoreScheduling, AShimSharesACookieOfItsOwnWithItsContainersIfAskedTo) {
  const unsigned long own = CookieOf(0);
  for (const std::string& shim : {stock(), ShimUnderTest()}) {
    SCOPED_TRACE(shim);
    Settings settings = SettingsFor(shim);
    settings.env = {"SCHED_CORE=1"};
    FakeContainerd ctrd(settings);
    Container& a = Run(ctrd, "a");
    const unsigned long cookie = CookieOf(a.shim_pid());
    EXPECT_NE(cookie, 0u);
    EXPECT_NE(cookie, own);
    auto state = a.State();
    ASSERT_THAT(state, IsOk());
    EXPECT_EQ(CookieOf(static_cast<pid_t>(state->pid())), cookie);
    ASSERT_THAT(a.Exec("x", {"sleep", "1000"}), IsOk());
    auto exec = a.Start("x");
    ASSERT_THAT(exec, IsOk());
    EXPECT_EQ(CookieOf(static_cast<pid_t>(*exec)), cookie);

    Container& b = Run(ctrd, "b");
    EXPECT_NE(CookieOf(b.shim_pid()), 0u);
    EXPECT_NE(CookieOf(b.shim_pid()), cookie) << "each shim has its own";
    EXPECT_EQ(CookieOf(0), own) << "and containerd has what it had";
    EXPECT_THAT(b.KillAndRemove(), IsOk());
    EXPECT_THAT(a.KillAndRemove(), IsOk());
  }
}

// Checklist: L24.
TEST_P(CoreScheduling, AShimThatIsNotAskedToHasNoneOfItsOwn) {
  for (const std::string& shim : {stock(), ShimUnderTest()}) {
    SCOPED_TRACE(shim);
    FakeContainerd ctrd(SettingsFor(shim));
    Container& a = Run(ctrd, "a");
    EXPECT_EQ(CookieOf(a.shim_pid()), CookieOf(0));
    EXPECT_THAT(a.KillAndRemove(), IsOk());
  }
}

}  // namespace
}  // namespace feather::test
