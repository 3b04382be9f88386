// Containers that mean harm to their shim: whatever they do with their streams, processes, cgroup
// and terminal, the shim goes on in little memory, the other container of the shim does not notice,
// and a deletion leaves nothing.

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/unique_fd.h"
#include "runtime/cgroup.h"
#include "tests/support/build.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

// Sanitizers keep what was freed.
const int kMostGrowthKib = kReleaseBuild ? 1024 : 64 * 1024;

class Hostile : public WitnessTest {
 protected:
  // The container's own descriptor, the same open file description: what is done to it here is
  // what the container could do.
  static UniqueFd DescriptorOf(Container& c, int number) {
    auto pid = static_cast<pid_t>(c.State()->pid());
    UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    return UniqueFd(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), number, 0)));
  }
  bool WaitForOutput(Container& c, const std::string& text) {
    return RunUntil([&] { return absl::StrContains(c.stdio().out->data(), text); });
  }
  int ResidentKib() const { return feather::test::FootprintOf(shim_).resident_kib; }
  // The other container answers and can be worked with.
  void ExpectServed() {
    EXPECT_EQ(witness_->State()->status(), containerd::v1::types::RUNNING);
    ASSERT_THAT(witness_->Exec("w", {"true"}), IsOk());
    ASSERT_THAT(witness_->Start("w"), IsOk());
    EXPECT_EQ(witness_->Wait("w")->exit_status(), 0u);
    EXPECT_THAT(witness_->Delete("w"), IsOk());
  }
  void End() {
    ExpectUnharmed("a hostile container");
    EXPECT_THAT(witness_->KillAndRemove(), IsOk());
  }
};

TEST_F(Hostile, AFloodOfOutputCostsNoMemoryWhetherItIsReadOrNot) {
  StartWitness();
  Remember();
  Container& c = NewMember("a", Shell("cat /dev/zero & exec cat /dev/zero >&2"));
  ASSERT_THAT(c.Create(), IsOk());
  for (FifoReader* reader : {c.stdio().out.get(), c.stdio().err.get()}) reader->Discard(true);
  ASSERT_THAT(c.Start(), IsOk());
  auto read = [&] { return c.stdio().out->size() + c.stdio().err->size(); };
  ASSERT_TRUE(RunUntil([&] { return read() > size_t{16} << 20; }));
  int before = ResidentKib();
  ASSERT_TRUE(RunUntil([&] { return read() > size_t{256} << 20; }));
  ExpectServed();
  c.stdio().out->Pause();
  c.stdio().err->Pause();
  ExpectServed();
  EXPECT_LT(ResidentKib() - before, kMostGrowthKib);
  c.stdio().out->Resume();
  c.stdio().err->Resume();
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  End();
}

TEST_F(Hostile, WhatItDoesToItsOwnPipesHarmsItselfOnly) {
  StartWitness();
  Remember();
  ContainerOptions options = Shell(
      "exec 3<>/proc/self/fd/1 4<>/proc/self/fd/2; echo up; read x; seq 1 20000; echo end >&4; "
      "read x; cat <&3 >/dev/null & cat <&4 >/dev/null & cat /dev/zero >&3");
  options.in = true;
  Container& c = NewMember("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_TRUE(WaitForOutput(c, "up\n"));
  // Smaller pipes than the shim made, with packets in them.
  for (int number : {0, 1, 2}) {
    UniqueFd fd = DescriptorOf(c, number);
    ASSERT_TRUE(fd.valid()) << strerror(errno);
    EXPECT_GT(fcntl(fd.get(), F_SETPIPE_SZ, 4096), 0) << strerror(errno);
    EXPECT_EQ(fcntl(fd.get(), F_SETFL, number == 0 ? 0 : O_DIRECT), 0) << strerror(errno);
  }
  c.stdio().in->Write("go\n");
  ASSERT_TRUE(RunUntil([&] { return c.stdio().err->data() == "end\n"; }));
  std::string expected = "up\n";
  for (int i = 1; i <= 20000; ++i) absl::StrAppend(&expected, i, "\n");
  ASSERT_TRUE(RunUntil([&] { return c.stdio().out->size() >= expected.size(); }));
  EXPECT_EQ(c.stdio().out->data(), expected);
  // Now it takes its own output back, in a race with the shim, and never waits.
  c.stdio().out->Discard(true);
  for (int number : {0, 1, 2}) {
    UniqueFd fd = DescriptorOf(c, number);
    EXPECT_EQ(fcntl(fd.get(), F_SETFL, O_NONBLOCK), 0) << strerror(errno);
  }
  c.stdio().in->Write("go\n");
  ExpectServed();
  EXPECT_THAT(c.CloseIO(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  End();
}

TEST_F(Hostile, ForkingForEverFillsItsOwnLimitOnly) {
  if (access("/sys/fs/cgroup/pids", F_OK) != 0) GTEST_SKIP() << "no pids controller of cgroup1";
  StartWitness();
  Remember();
  // As many as it can have, and, should the limit fail, no more than four hundred.
  ContainerOptions options = Shell(
      "(for i in $(seq 20); do (for j in $(seq 20); do sleep 1000 & done) & done) 2>/dev/null & "
      "exec sleep 1000");
  options.spec.patch = R"({"linux": {"resources": {"pids": {"limit": 50}}}})";
  Container& c = NewMember("a", options);
  ASSERT_THAT(c.Create(), IsOk());
  auto cgroup = FindCgroup(static_cast<pid_t>(c.State()->pid()));
  ASSERT_THAT(cgroup, IsOk());
  ASSERT_EQ(*ReadFile(cgroup->controllers["pids"] + "/pids.max"), "50\n");
  ASSERT_THAT(c.Start(), IsOk());
  // The kernel has refused it a process.
  std::string events = cgroup->controllers["pids"] + "/pids.events";
  ASSERT_TRUE(RunUntil([&] { return ReadFile(events).value_or("") > "max 0\n"; }));
  ExpectServed();
  // It may be too full for one more, but says so.
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  auto started = c.Start("x");
  EXPECT_TRUE(started.ok() || started.status().code() == kUnknown) << started.status();
  if (started.ok()) {
    // The OCI runtime in there may wait for a thread that it does not get.
    EXPECT_THAT(c.Kill(SIGKILL, "x"), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
    EXPECT_THAT(c.Wait("x"), IsOk());
  }
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  End();
}

TEST_F(Hostile, ProcessesThatMeanToOutliveTheInitAreEnded) {
  StartWitness();
  Remember();
  // In the host's pid namespace nothing but the shim ends them. They come faster than they can be
  // listed, leave their session, and ignore what can be ignored.
  ContainerOptions options = Shell(
      "i=0; while [ $i -lt 10 ]; do i=$((i+1)); setsid sh -c 'trap \"\" HUP TERM INT; "
      "while :; do sleep 0.01 & wait; done' & done; echo up; exit 7");
  options.spec.patch =
      R"({"linux": {"namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]}})";
  Container& c = NewMember("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 7u);
  ASSERT_TRUE(WaitForEof(c.stdio())) << "they still hold its output";
  EXPECT_THAT(c.Remove(), IsOk());
  End();
}

TEST_F(Hostile, ItsTerminalIsItsOwnAffair) {
  StartWitness();
  Remember();
  ContainerOptions options = Shell("stty -echo; echo up; while read x; do echo got $x; done");
  options.spec.terminal = true;
  options.in = true;
  options.err = false;
  Container& c = NewMember("a", options);
  auto request = c.CreateRequest();
  request.set_terminal(true);
  ASSERT_THAT(c.Create(request), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_TRUE(WaitForOutput(c, "up"));
  UniqueFd terminal = DescriptorOf(c, 0);
  ASSERT_TRUE(terminal.valid()) << strerror(errno);

  // What it types for itself, it reads itself.
  for (char key : std::string("pushed\n"))
    EXPECT_EQ(ioctl(terminal.get(), TIOCSTI, &key), 0) << strerror(errno);
  EXPECT_TRUE(WaitForOutput(c, "got pushed"));

  int before = ResidentKib();
  for (unsigned short i = 1; i <= 10'000; ++i) {
    winsize size = {i, i, i, i};
    ASSERT_EQ(ioctl(terminal.get(), TIOCSWINSZ, &size), 0) << strerror(errno);
    if (i % 500 == 0) {
      EXPECT_THAT(c.ResizePty(i, i), IsOk());
    }
  }
  // Stopped output, nobody else may open it, and input that is not taken.
  ASSERT_EQ(tcflow(terminal.get(), TCOOFF), 0) << strerror(errno);
  EXPECT_EQ(ioctl(terminal.get(), TIOCEXCL), 0) << strerror(errno);
  c.stdio().in->Write(std::string(100, '\n') + "stopped\n");
  EXPECT_THAT(c.ResizePty(80, 24), IsOk());
  ExpectServed();
  EXPECT_FALSE(absl::StrContains(c.stdio().out->data(), "stopped"));
  ASSERT_EQ(tcflow(terminal.get(), TCOON), 0) << strerror(errno);
  EXPECT_TRUE(WaitForOutput(c, "got stopped"));

  // Hung up: the terminal is gone for all who have it open.
  EXPECT_EQ(ioctl(terminal.get(), TIOCVHANGUP), 0) << strerror(errno);
  EXPECT_THAT(c.Wait(), IsOk());
  ExpectServed();
  EXPECT_LT(ResidentKib() - before, kMostGrowthKib);
  terminal.Reset();
  EXPECT_THAT(c.Remove(), IsOk());
  End();
}

TEST_F(Hostile, AnyNumberOfCgroupsBelowItsOwnHoldsNothingUp) {
  if (access("/sys/fs/cgroup/memory", F_OK) != 0) GTEST_SKIP() << "no cgroup1 controllers";
  StartWitness();
  Remember();
  Container& c = NewMember("a", Shell("echo up; exec sleep 1000"));
  ASSERT_THAT(c.Run(), IsOk());
  auto init = static_cast<pid_t>(c.State()->pid());
  auto cgroup = FindCgroup(init);
  ASSERT_THAT(cgroup, IsOk());
  for (const char* controller : {"memory", "devices"}) {
    const std::string& directory = cgroup->controllers[controller];
    for (int i = 0; i < 1500; ++i)
      ASSERT_EQ(mkdir(absl::StrCat(directory, "/", i).c_str(), 0755), 0) << strerror(errno);
  }
  auto pids = c.Pids();
  ASSERT_THAT(pids, IsOk());
  ASSERT_EQ(pids->processes_size(), 1);
  EXPECT_EQ(pids->processes(0).pid(), static_cast<uint32_t>(init));
  // The OOM watch looks at them with each exit.
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());
  ExpectServed();
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  End();
}

}  // namespace
}  // namespace feather::test
