// Records as Linux 6.1 writes them.
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "oom/kernel_log.h"

namespace feather::oom {
namespace {

constexpr char kLater[] = "9000000000000000";

std::string Killed(int pid, const std::string& at = kLater, int priority = 3) {
  return absl::StrCat(priority, ",700,", at, ",-;Memory cgroup out of memory: Killed process ", pid,
                      " (dd) total-vm:206680kB, anon-rss:48000kB, file-rss:8kB\n SUBSYSTEM=x\n");
}
TEST(OomKernelLog, CountsAKilledProcessOfTheContainerOnce) {
  KernelLog log({41, 42});
  log.Add(Killed(42));
  log.Add(Killed(42));
  log.Add(Killed(4));
  log.Add(Killed(421));
  EXPECT_EQ(log.kills(), 1u);
}

TEST(OomKernelLog, LeavesOutWhatIsOlderThanTheContainer) {
  KernelLog log({42});
  log.Add(Killed(42, "1"));
  EXPECT_EQ(log.kills(), 0u);
}

TEST(OomKernelLog, LeavesOutWhatTheKernelHasNotWritten) {
  KernelLog log({42});
  log.Add(Killed(42, kLater, 11));
  EXPECT_EQ(log.kills(), 0u);
}

TEST(OomKernelLog, TakesRubbishForNothing) {
  KernelLog log({42});
  const std::string whole = Killed(42);
  for (size_t size = 0; size < whole.find("42") + 2; ++size) log.Add(whole.substr(0, size));
  for (const char* record : {"", ",", ";", ",,,;", "3,1,x,-;Killed process 42 ", "\n", "3"})
    log.Add(record);
  log.Add(absl::StrCat("3,1,", kLater, ",-;Killed process x"));
  EXPECT_EQ(log.kills(), 0u);
}

TEST(OomKernelLog, ReadsTheLogOfThisMachineAndOnesThatAreNotThere) {
  KernelLog log({1});
  log.Read();
  log.Read("/no/such/log");
  EXPECT_EQ(log.kills(), 0u);
}

}  // namespace
}  // namespace feather::oom
