// What an idle shim with one container costs, beside the stock shim of the same containerd.

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>

#include "tests/support/build.h"
#include "tests/support/daemon_test.h"
#include "tests/support/proc.h"

namespace feather::test {
namespace {

class DaemonFootprint : public DaemonTest {
 protected:
  // Of the shim of a new container, once it has done what the start left it to do.
  Footprint IdleShim(const std::string& id, const std::string& runtime) {
    const CommandResult run =
        daemon_->Ctr(daemon_->Run(id, {"--detach"}, {"sleep", "1000"}, runtime));
    EXPECT_EQ(run.code, 0) << run.err;
    EXPECT_TRUE(daemon_->WaitEvent("/tasks/start " + id));
    const pid_t shim = daemon_->ShimPid(id);
    Footprint last = FootprintOf(shim);
    int same = 0;
    Eventually([&] {
      const Footprint now = FootprintOf(shim);
      same = now.private_dirty_kib == last.private_dirty_kib ? same + 1 : 0;
      last = now;
      return same == 10;
    });
    return last;
  }
};
FEATHER_EVERY_DAEMON(DaemonFootprint);

TEST_P(DaemonFootprint, IsOneThreadWithoutInotifyInLittleMemory) {
  const Footprint ours = IdleShim("a", Daemon::Runtime());
  const Footprint stock = IdleShim("b", "io.containerd.runc.v2");
  printf("containerd %-12s %21s %9s %8s %12s %8s\n", daemon_->version().c_str(),
         "private dirty, KiB", "resident", "threads", "descriptors", "inotify");
  for (const auto& [name, f] : {std::pair("under test", ours), std::pair("stock shim", stock)}) {
    printf("  %-21s %21d %9d %8d %12d %8d\n", name, f.private_dirty_kib, f.resident_kib, f.threads,
           f.descriptors, f.inotify_descriptors);
  }
  if (Daemon::TestsFeather()) {
    EXPECT_EQ(ours.threads, 1);
    EXPECT_EQ(ours.inotify_descriptors, 0);
    // Other builds carry debugging aids and shared libraries; so may a shim named from outside.
    if (kReleaseBuild && getenv("FEATHER_SHIM") == nullptr) {
      EXPECT_LE(ours.private_dirty_kib, 256);
    }
  }
  daemon_->Remove("a");
  daemon_->Remove("b");
}

}  // namespace
}  // namespace feather::test
