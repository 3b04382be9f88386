// What hangs in the kernel, or refuses memory: it holds up whoever needs it and nobody else, and
// when it goes on, so does everything that waited.

#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/build.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

// An ext4 of its own that can be frozen: who writes to it then hangs in the kernel (state D), and
// no signal ends that.
class Volume {
 public:
  Volume() {
    std::string command = absl::StrCat("PATH=$PATH:/usr/sbin:/sbin; cd ", directory_.path(),
                                       " && mkdir volume && truncate -s 16M image && ",
                                       "mkfs.ext4 -q -F image && mount -o loop image volume");
    if (system(command.c_str()) != 0) return;
    root_ = UniqueFd(open(path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~Volume() {
    if (frozen_) Thaw();
    root_.Reset();
    umount2(path().c_str(), MNT_DETACH);
  }

  bool usable() const { return root_.valid(); }
  std::string path() const { return directory_.path() + "/volume"; }
  void Freeze() {
    ASSERT_EQ(ioctl(root_.get(), FIFREEZE, 0), 0) << strerror(errno);
    frozen_ = true;
  }
  void Thaw() {
    EXPECT_EQ(ioctl(root_.get(), FITHAW, 0), 0) << strerror(errno);
    frozen_ = false;
  }

 private:
  TestDirectory directory_;
  UniqueFd root_;
  bool frozen_ = false;
};

// A FUSE file system whose server never answers, until it is gone.
class DeadFileSystem {
 public:
  DeadFileSystem() : server_(open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
    if (!server_) return;
    std::string data =
        absl::StrCat("fd=", server_.get(), ",rootmode=40000,user_id=0,group_id=0,allow_other");
    mounted_ = mount("dead", path().c_str(), "fuse", 0, data.c_str()) == 0;
  }
  ~DeadFileSystem() {
    End();
    if (mounted_) umount2(path().c_str(), MNT_DETACH);
  }
  bool usable() const { return mounted_; }
  std::string path() const { return directory_.path(); }
  // Whoever waits gets an error now.
  void End() { server_.Reset(); }

 private:
  TestDirectory directory_;
  UniqueFd server_;
  bool mounted_ = false;
};

class Stuck : public WitnessTest {
 protected:
  // Of these processes and those below them, a thread is in state D.
  bool HangsInTheKernel(const std::vector<std::string>& pids) const {
    for (const std::string& pid : pids) {
      std::string threads = absl::StrCat("/proc/", pid, "/task");
      for (const std::string& thread : feather::test::ListDirectory(threads)) {
        std::string path = absl::StrCat(threads, "/", thread);
        std::string stat = ReadFile(path + "/stat").value_or("");
        size_t end = stat.rfind(") ");
        if (end != std::string::npos && stat[end + 2] == 'D') return true;
        std::string children = ReadFile(path + "/children").value_or("");
        if (HangsInTheKernel(absl::StrSplit(children, ' ', absl::SkipEmpty()))) return true;
      }
    }
    return false;
  }
  // For longer than a page of its program takes to be read, which looks the same.
  bool WaitUntilItHangs() {
    Clock::time_point since = Clock::now();
    return RunUntil([&] {
      if (!HangsInTheKernel(ChildrenOfTheShim())) since = Clock::now();
      return Clock::now() - since > std::chrono::seconds(1);
    });
  }
  // State and Stats of `c` answer, and the other container can be worked with; prints how fast
  // State is. Any one answer may be late on a busy machine, but not half of them.
  void ExpectServed(Container& c, const char* meanwhile) {
    std::vector<double> milliseconds;
    for (int i = 0; i < 20; ++i) {
      auto start = Clock::now();
      auto state = c.State();
      EXPECT_TRUE(state.ok() || absl::IsNotFound(state.status())) << state.status();
      milliseconds.push_back(
          std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
    std::sort(milliseconds.begin(), milliseconds.end());
    printf("State while %s: median %.2f ms, longest %.2f ms\n", meanwhile, milliseconds[10],
           milliseconds.back());
    if (!kSanitizers) {
      EXPECT_LT(milliseconds[10], 100) << "State while " << meanwhile;
    }
    task::StatsRequest stats;
    stats.set_id(c.id());
    auto metrics = c.Call<task::StatsResponse>("Stats", stats);
    EXPECT_TRUE(metrics.ok() || absl::IsNotFound(metrics.status())) << metrics.status();
    ASSERT_THAT(witness_->Exec("w", {"true"}), IsOk());
    ASSERT_THAT(witness_->Start("w"), IsOk());
    EXPECT_EQ(witness_->Wait("w")->exit_status(), 0u);
    EXPECT_THAT(witness_->Delete("w"), IsOk());
  }
  task::CreateTaskRequest CreateOn(Container& c, const std::string& directory) {
    auto request = c.CreateRequest();
    request.mutable_rootfs(0)->set_source(directory);
    return request;
  }
};

TEST_F(Stuck, AProcessThatNoSignalEndsHoldsNothingUpAndIsDeletedInTheEnd) {
  Volume volume;
  if (!volume.usable()) GTEST_SKIP() << "no loop device or no mkfs.ext4 here";
  MakeRootfs(volume.path());
  StartWitness();
  Remember();
  ContainerOptions options = Shell("echo up; read x; echo data >/file");
  options.in = true;
  Container& c = NewMember("a", options);
  ASSERT_THAT(c.Create(CreateOn(c, volume.path())), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_TRUE(RunUntil([&] { return c.stdio().out->data() == "up\n"; }));
  volume.Freeze();
  c.stdio().in->Write("go\n");
  ASSERT_TRUE(WaitUntilItHangs());
  auto wait = c.WaitAsync();
  EXPECT_THAT(c.Kill(SIGKILL), IsOk());
  ExpectServed(c, "its init hangs in the kernel");
  EXPECT_EQ(c.State()->status(), containerd::v1::types::RUNNING);
  EXPECT_THAT(c.Delete(), IsError(kUnknown, "cannot delete a running process"));
  EXPECT_FALSE(wait.done());
  volume.Thaw();
  auto exit = wait.Get();
  ASSERT_THAT(exit, IsOk());
  EXPECT_EQ(exit->exit_status(), 137u);
  EXPECT_THAT(c.Remove(), IsOk());
  ExpectUnharmed("a process that hung in the kernel");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Stuck, AnExecThatNoSignalEndsHoldsNothingUp) {
  Volume volume;
  if (!volume.usable()) GTEST_SKIP() << "no loop device or no mkfs.ext4 here";
  MakeRootfs(volume.path());
  StartWitness();
  Remember();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Create(CreateOn(c, volume.path())), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  volume.Freeze();
  ASSERT_THAT(c.Exec("x", {"touch", "/file"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_TRUE(WaitUntilItHangs());
  EXPECT_THAT(c.Kill(SIGKILL, "x"), IsOk());
  ExpectServed(c, "an exec hangs in the kernel");
  EXPECT_THAT(c.Delete("x"), IsError(kUnknown, "cannot delete a running process"));
  // The init ends; its exit waits for the exec's, which comes first.
  EXPECT_THAT(c.Kill(SIGKILL), IsOk());
  auto wait = c.WaitAsync();
  ExpectServed(c, "the exit of an exec is awaited");
  EXPECT_FALSE(wait.done());
  volume.Thaw();
  EXPECT_THAT(wait.Get(), IsOk());
  EXPECT_THAT(c.Wait("x"), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
  ExpectUnharmed("an exec that hung in the kernel");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Stuck, ARuntimeThatHangsInTheKernelHoldsItsOwnContainerUpOnly) {
  Volume volume;
  if (!volume.usable()) GTEST_SKIP() << "no loop device or no mkfs.ext4 here";
  MakeRootfs(volume.path());
  // The runtime has to make it.
  ASSERT_EQ(rmdir((volume.path() + "/sys").c_str()), 0);
  StartWitness();
  Remember();
  Container& c = NewMember("a");
  volume.Freeze();
  auto created = c.Send<task::CreateTaskResponse>("Create", CreateOn(c, volume.path()));
  ASSERT_TRUE(WaitUntilItHangs());
  ExpectServed(c, "its runtime hangs in the kernel");
  EXPECT_FALSE(created.done());
  volume.Thaw();
  EXPECT_THAT(created.Get(), IsOk());
  EXPECT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ExpectUnharmed("a runtime that hung in the kernel");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// crun's did, waiting for an init that had been killed to say that it begins.
TEST_F(Stuck, AStartThatHangsAfterItsInitHasEndedIsEndedAndTheExitIsTold) {
  settings_.runtime = WriteRuntime("hangs",
                                   "case \" $* \" in\n"
                                   "  *' start a '*) kill -9 $(cat init.pid); exec sleep 1000 ;;\n"
                                   "esac\n"
                                   "exec runc \"$@\"\n");
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  ASSERT_THAT(c.Create(), IsOk());
  auto wait = c.WaitAsync();
  EXPECT_THAT(c.Start(), IsError(kUnknown, "OCI runtime start failed"));
  EXPECT_EQ(wait.Get()->exit_status(), 128u + SIGKILL);
  EXPECT_THAT(c.Delete(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  ExpectUnharmed("a start that hung");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Stuck, ADeletionWhoseRuntimeHangsInTheKernelGoesOnAndCanBeRetried) {
  Volume volume;
  if (!volume.usable()) GTEST_SKIP() << "no loop device or no mkfs.ext4 here";
  std::string hang = absl::StrCat(volume.path(), "/hang");
  settings_.runtime = WriteRuntime(
      "runc-writes",
      absl::StrCat("case \"$*\" in *' delete a'*) echo x >", hang, ";; esac\nexec runc \"$@\"\n"));
  StartWitness();
  Remember();
  Container& c = NewMember("a", Shell("exit 3"));
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 3u);
  volume.Freeze();
  task::DeleteRequest request;
  request.set_id("a");
  auto deleted = c.Send<task::DeleteResponse>("Delete", request, std::chrono::milliseconds(200));
  ASSERT_TRUE(WaitUntilItHangs());
  EXPECT_THAT(deleted.Get(), IsError(kDeadlineExceeded, ""));
  ExpectServed(c, "its deletion hangs in the kernel");
  auto again = c.Send<task::DeleteResponse>("Delete", request);
  EXPECT_THAT(c.State(), IsOk());
  EXPECT_FALSE(again.done());
  volume.Thaw();
  auto answer = again.Get();
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->exit_status(), 3u);
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  ExpectUnharmed("a deletion that hung in the kernel");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Stuck, ARootfsOnADeadFileSystemHoldsItsOwnContainerUpOnly) {
  StartWitness();
  Container& c = NewMember("a");
  auto good = c.CreateRequest();
  Remember();
  // Found out by the child that mounts, and by the OCI runtime.
  for (auto [below, error] : {std::pair("/rootfs", "failed to mount rootfs component"),
                              std::pair("", "OCI runtime create failed")}) {
    DeadFileSystem dead;
    if (!dead.usable()) GTEST_SKIP() << "no FUSE here";
    auto request = good;
    request.mutable_rootfs(0)->set_source(dead.path() + below);
    auto created = c.Send<task::CreateTaskResponse>("Create", request);
    EXPECT_THAT(witness_->State(), IsOk());
    ASSERT_TRUE(RunUntil([&] { return ChildrenOfTheShim().size() > children_; }));
    ExpectServed(c, "its file system is dead");
    EXPECT_FALSE(created.done());
    dead.End();
    EXPECT_THAT(created.Get(), IsError(kUnknown, error)) << below;
    EXPECT_THAT(c.State(), IsError(kNotFound, ""));
    ExpectUnharmed("a dead file system");
  }
  EXPECT_THAT(c.Create(good), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// To look for a program, to open and to execute it may hang, before it does anything.
TEST_F(Stuck, AProgramOnADeadFileSystemHoldsItsOwnContainerUpOnly) {
  StartWitness();
  for (const std::string what : {"runtime", "logger"}) {
    DeadFileSystem dead;
    if (!dead.usable()) GTEST_SKIP() << "no FUSE here";
    const std::string program = dead.path() + "/program";
    Container& other = NewMember("other-" + what);
    ASSERT_THAT(other.Run(), IsOk());
    Container& c = NewMember(what);
    auto request = c.CreateRequest();
    if (what == "logger") {
      request.set_stdout("binary://" + program);
      request.set_stderr("");
    } else {
      containerd::runc::v1::Options options = ctrd().RuncOptions();
      options.set_binary_name(program);
      request.mutable_options()->set_value(options.SerializeAsString());
    }
    Remember();
    auto created = c.Send<task::CreateTaskResponse>("Create", request);
    EXPECT_THAT(witness_->State(), IsOk());
    ASSERT_TRUE(RunUntil([&] { return ChildrenOfTheShim().size() > children_; }));
    ExpectServed(c, absl::StrCat("its ", what, "'s file system is dead").c_str());
    // The child that hangs holds nothing of others.
    EXPECT_THAT(other.Kill(SIGKILL), IsOk());
    EXPECT_THAT(other.Wait(), IsOk());
    EXPECT_TRUE(RunUntil([&] { return other.stdio().out->eof(); }));
    EXPECT_FALSE(created.done());
    dead.End();
    EXPECT_THAT(created.Get(), IsError(kUnknown, "fork/exec " + program)) << what;
    EXPECT_THAT(other.Remove(), IsOk());
    --children_;
    c.Disconnect();
    EXPECT_THAT(c.RemoveBundle(), IsOk());
    ExpectUnharmed("a dead file system");
  }
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Stuck, AFileThatHangsHoldsItsOwnOutputUpOnly) {
  StartWitness();
  for (const bool terminal : {false, true}) {
    Volume volume;
    if (!volume.usable()) GTEST_SKIP() << "no loop device or no mkfs.ext4 here";
    const std::string file = volume.path() + "/log";
    ASSERT_THAT(WriteFile(file, "", 0600), IsOk());
    Remember();
    ContainerOptions options = Shell("echo up; read x; echo data; read x; exit 3");
    options.in = true;
    options.out = options.err = false;
    options.spec.terminal = terminal;
    Container& c = NewMember(terminal ? "terminal" : "pipe", options);
    auto request = c.CreateRequest();
    request.set_stdout(file);
    ASSERT_THAT(c.Create(request), IsOk());
    ASSERT_THAT(c.Start(), IsOk());
    EXPECT_TRUE(RunUntil([&] { return absl::StrContains(*ReadFile(file), "up"); }));
    volume.Freeze();
    c.stdio().in->Write("go\n");
    ASSERT_TRUE(WaitUntilItHangs());
    ExpectServed(c, terminal ? "its terminal's file hangs" : "its output's file hangs");
    volume.Thaw();
    EXPECT_TRUE(RunUntil([&] { return absl::StrContains(*ReadFile(file), "data"); }));
    c.stdio().in->Write("go\n");
    EXPECT_EQ(c.Wait()->exit_status(), 3u);
    EXPECT_THAT(c.Remove(), IsOk());
    ExpectUnharmed("a file that hung");
  }
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Stuck, AStdinThatIsNeverReadHoldsNothingUpAndCostsNoMemory) {
  StartWitness();
  Remember();
  ContainerOptions options;
  options.in = true;
  Container& c = NewMember("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  int before = feather::test::FootprintOf(shim_).resident_kib;
  // The shim ends the FIFO with the container.
  auto handler = signal(SIGPIPE, SIG_IGN);
  c.stdio().in->Write(std::string(size_t{8} << 20, 'x'));
  ExpectServed(c, "nobody reads its stdin");
  EXPECT_THAT(c.CloseIO(), IsOk());
  ExpectServed(c, "its stdin is to be closed");
  if (kReleaseBuild) {
    EXPECT_LT(feather::test::FootprintOf(shim_).resident_kib - before, 1024);
  }
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  signal(SIGPIPE, handler);
  ExpectUnharmed("a stdin that is never read");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// An address space that is full, as on a machine that does not overcommit: malloc(3) fails. (A
// cgroup's limit never makes it fail: the kernel's OOM killer comes, and containerd cleans up.)
class WithoutMemory : public Stuck {
 protected:
  void SetUp() override {
    if (!kReleaseBuild) GTEST_SKIP() << "sanitizers end a program that is refused memory";
    Stuck::SetUp();
  }
  static constexpr size_t kMuch = 1'500'000;
  // Calls `request`, a large one over the connection of `c`, with each number of MiB to spare,
  // hence without memory at each point where it wants much, until `after` finds its answer good.
  void Each(Container& c, const std::function<absl::Status()>& request,
            const std::function<bool(const absl::Status&)>& after) {
    std::string status = *ReadFile(absl::StrCat("/proc/", shim_, "/status"));
    size_t at = status.find("VmSize:");
    ASSERT_NE(at, status.npos);
    rlim_t size = std::stoull(status.substr(at + 7)) << 10;
    int refused = 0;
    for (rlim_t spare = 1; spare <= 40; ++spare) {
      struct rlimit limit = {size + (spare << 20), RLIM_INFINITY};
      ASSERT_EQ(prlimit(shim_, RLIMIT_AS, &limit, nullptr), 0) << strerror(errno);
      absl::Status answer = request();
      EXPECT_THAT(witness_->State(), IsOk());
      limit.rlim_cur = RLIM_INFINITY;
      ASSERT_EQ(prlimit(shim_, RLIMIT_AS, &limit, nullptr), 0) << strerror(errno);
      if (!c.connected()) {
        ASSERT_THAT(c.Connect(), IsOk());
      }
      bool served = after(answer);
      ExpectUnharmed(absl::StrCat("with ", spare, " MiB: ", answer.ToString()));
      if (HasFailure()) return;
      if (served) break;
      ++refused;
    }
    EXPECT_GT(refused, 2);
    EXPECT_LT(refused, 40);
  }
};

TEST_F(WithoutMemory, ACreationFailsAndCanBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  const auto good = c.CreateRequest();
  auto large = good;
  auto* mount = large.add_rootfs();
  mount->set_type("bind");
  mount->set_source(std::string(kMuch, 'x'));
  Each(
      c, [&] { return c.Create(large).status(); },
      [&](const absl::Status& status) {
        EXPECT_THAT(c.Create(good), IsOk()) << "after " << status;
        EXPECT_THAT(c.Kill(SIGKILL), IsOk());
        EXPECT_THAT(c.Wait(), IsOk());
        EXPECT_THAT(c.Delete(), IsOk());
        return absl::IsUnknown(status);  // the name is too long
      });
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(WithoutMemory, AnExecFailsAndCanBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Run(), IsOk());
  Remember();
  auto exec = c.ExecRequest("x", {"true"});
  std::string spec = exec.spec().value();
  exec.mutable_spec()->set_value(
      absl::StrCat("{\"x\":\"", std::string(3'500'000, 'x'), "\",", absl::StripPrefix(spec, "{")));
  Each(
      c, [&] { return c.Exec(exec); },
      [&](const absl::Status& added) {
        if (!added.ok()) {
          EXPECT_THAT(c.State("x"), IsError(kNotFound, "")) << added;
        }
        return added.ok();
      });
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(WithoutMemory, AStartOfAnExecFailsAndItsContainerEndsLikeAnyOther) {
  StartWitness();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Run(), IsOk());
  auto large = c.ExecRequest("x", {"true"});
  large.set_stdout(std::string(kMuch, 'x'));
  ASSERT_THAT(c.Exec(large), IsOk());
  Remember();
  Each(
      c, [&] { return c.Start("x").status(); },
      [&](const absl::Status& status) {
        EXPECT_THAT(c.Delete("x"), IsOk()) << "after " << status;
        EXPECT_THAT(c.Exec(large), IsOk()) << "after " << status;
        return absl::IsUnknown(status);  // the name is too long
      });
  // Tells of its exit when it has waited for its execs.
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
