// A pod without a pause container, at every point at which its start, its stop and its shutdown can
// fail: the answer is an error, nothing is left of a start that failed, and the same request
// succeeds afterwards.

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/injected_failure.h"
#include "tests/support/sandbox_fixture.h"
#include "tests/support/subprocess.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

bool Long() { return getenv("FEATHER_TEST_LONG") != nullptr; }

class SandboxFaults : public SandboxTest {
 protected:
  using Mode = cri::v1::NamespaceMode;

  // A shim without a pod.
  void NewShim() {
    shim_ = nullptr;
    // What it has opened by its first answer stays.
    EXPECT_THAT(Status(), IsError(kNotFound, ""));
    descriptors_ = Descriptors();
  }
  // POD: its containers share a pid namespace, so that it has a process 1.
  absl::Status CreatePod(Mode pids) {
    cri::v1::PodSandboxConfig config = Config();
    Options(config).set_pid(pids);
    return Create(config, Network().path());
  }
  // Created only, in a shim of its own.
  void NewPod(Mode pids = cri::v1::CONTAINER) {
    NewShim();
    ASSERT_THAT(CreatePod(pids), IsOk());
  }
  pid_t pid() { return Shim().shim_pid(); }
  size_t Descriptors() { return ListDirectory(absl::StrCat("/proc/", pid(), "/fd")).size(); }
  // Of the shim: the child that makes the namespaces, one that mounts, the pod's process 1.
  std::vector<std::string> ChildrenOfTheShim() {
    std::string path = absl::StrCat("/proc/", pid(), "/task/", pid(), "/children");
    return absl::StrSplit(ReadFile(path).value_or(""), ' ', absl::SkipEmpty());
  }
  // The one that is in this system call.
  pid_t WaitForAChildIn(long call) {
    pid_t found = 0;
    EXPECT_TRUE(RunUntil([&] {
      for (const std::string& child : ChildrenOfTheShim())
        if (absl::StartsWith(ReadFile(absl::StrCat("/proc/", child, "/syscall")).value_or(""),
                             absl::StrCat(call, " ")))
          found = std::stoi(child);
      return found != 0;
    }));
    return found;
  }
  bool IsHome() {
    for (const char* type : {"net", "ipc", "uts"})
      if (NamespaceOf(pid(), type) != NamespaceOf(getpid(), type)) return false;
    return true;
  }
  std::string PodDirectory() { return Shim().bundle() + "/pod"; }
  bool HasFiles() { return std::filesystem::exists(PodDirectory()); }
  bool HasMounts() {
    return absl::StrContains(*ReadFile("/proc/self/mountinfo"), Shim().bundle() + "/");
  }
  // It answers, and has nothing of the pod.
  void ExpectNothingLeft(const std::string& what) {
    EXPECT_THAT((Call<api::PingResponse>("PingSandbox", api::PingRequest())), IsOk()) << what;
    EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY") << what;
    EXPECT_TRUE(IsHome()) << what;
    EXPECT_FALSE(HasFiles()) << what;
    EXPECT_FALSE(HasMounts()) << what;
    // Whoever has been killed may take a moment.
    EXPECT_TRUE(RunUntil([&] { return ChildrenOfTheShim().empty(); })) << what;
    EXPECT_TRUE(RunUntil([&] { return Descriptors() <= descriptors_; }))
        << what << ": " << descriptors_ << " descriptors before, " << Descriptors() << " after";
    EXPECT_TRUE(RunUntil([&] { return HoldersOf(pid(), Network().name()).empty(); })) << what;
  }
  // What must be possible whatever has failed before.
  void ExpectItStartsAndStops(const std::string& what) {
    ASSERT_THAT(Start(), IsOk()) << what;
    EXPECT_EQ(Status()->state(), "SANDBOX_READY") << what;
    ASSERT_THAT(Stop(), IsOk()) << what;
    ExpectNothingLeft(what);
    EXPECT_THAT(Shutdown(), IsOk()) << what;
  }
  // After a Create with that answer; what must be possible whatever has failed in it.
  void ExpectItCanBeCreated(const absl::Status& created, Mode pids, const std::string& what) {
    if (!created.ok()) {
      EXPECT_THAT(Status(), IsError(kNotFound, "")) << what;
      EXPECT_TRUE(RunUntil([&] { return Descriptors() <= descriptors_; })) << what;
      ASSERT_THAT(CreatePod(pids), IsOk()) << what;
    }
    ExpectItStartsAndStops(what);
  }
  // What a start could not undo is undone by the next one, or by a stop.
  void ExpectItIsUndone(bool by_the_next, const std::string& what) {
    if (by_the_next) return ExpectItStartsAndStops(what);
    EXPECT_THAT(Stop(), IsOk()) << what;
    ExpectNothingLeft(what);
    EXPECT_THAT(Shutdown(), IsOk()) << what;
  }
  // The answer is on its way meanwhile.
  Pending<api::StartSandboxResponse> SendStart() {
    api::StartSandboxRequest request;
    request.set_sandbox_id(kId);
    return Pending<api::StartSandboxResponse>(
        ctrd().loop(), Shim().SendBytes("containerd.runtime.sandbox.v1.Sandbox", "StartSandbox",
                                        request.SerializeAsString()));
  }
  std::string strace_output() const { return directory_.path() + "/strace"; }

  size_t descriptors_ = 0;
  TestDirectory directory_;
};

TEST_F(SandboxFaults, WithoutDescriptorsACreationIsRefusedOrWhole) {
  struct rlimit before;
  for (size_t spare = 0; spare < 3; ++spare) {
    NewShim();
    ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, nullptr, &before), 0);
    struct rlimit few = {descriptors_ + spare, before.rlim_max};
    ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, &few, nullptr), 0);
    absl::Status created = CreatePod(cri::v1::CONTAINER);
    ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, &before, nullptr), 0);
    ExpectItCanBeCreated(created, cri::v1::CONTAINER, absl::StrCat(spare, " descriptors"));
  }
}

TEST_F(SandboxFaults, AStartWithWhatIsNoNetworkNamespaceIsAnErrorAndCanBeRepeated) {
  NewPod();
  const std::string path = Network().path();
  // containerd's file is covered by something else, or by nothing.
  auto cover = [&](const std::string& with) {
    return mount(with.c_str(), path.c_str(), nullptr, MS_BIND, nullptr);
  };
  for (const char* other : {"/proc/self/ns/ipc", "/etc/hostname", "/dev/null"}) {
    ASSERT_EQ(cover(other), 0) << other << ": " << strerror(errno);
    EXPECT_THAT(Start(), IsError(kInvalidArgument, "is no network namespace")) << other;
    ExpectNothingLeft(other);
    ASSERT_EQ(umount2(path.c_str(), MNT_DETACH), 0);
  }
  ExpectItStartsAndStops("after what was no network namespace");
}

TEST_F(SandboxFaults, AStartWhoseFilesCannotBeMadeIsAnErrorAndCanBeRepeated) {
  NewPod();
  const std::string bundle = Shim().bundle();
  // A file where the directory is to be.
  ASSERT_THAT(WriteFile(PodDirectory(), "x", 0644), IsOk());
  EXPECT_THAT(Start(), IsError(kUnknown, "not a directory"));
  ExpectNothingLeft("a file in the way");
  // A full disk.
  ASSERT_EQ(mount("tmpfs", bundle.c_str(), "tmpfs", 0, "size=16k,mode=700"), 0) << strerror(errno);
  EXPECT_FALSE(WriteFile(bundle + "/filler", std::string(100'000, 'x'), 0644).ok());
  EXPECT_THAT(Start(), IsError(kUnknown, "no space left"));
  EXPECT_FALSE(HasFiles());
  EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
  ASSERT_EQ(umount2(bundle.c_str(), MNT_DETACH), 0);
  ExpectItStartsAndStops("after a full disk");
}

TEST_F(SandboxFaults, WithoutDescriptorsAStartIsRefusedAndServedLater) {
  struct rlimit before;
  for (Mode pids : {cri::v1::CONTAINER, cri::v1::POD}) {
    NewPod(pids);
    ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, nullptr, &before), 0);
    int refused = 0;
    // Further in with each descriptor more.
    for (size_t spare = 0; spare < 40; ++spare) {
      struct rlimit few = {descriptors_ + spare, before.rlim_max};
      ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, &few, nullptr), 0);
      auto started = Start();
      ASSERT_EQ(prlimit(pid(), RLIMIT_NOFILE, &before, nullptr), 0);
      if (started.ok()) break;
      ++refused;
      ExpectNothingLeft(
          absl::StrCat("start with ", spare, " descriptors: ", started.status().ToString()));
      if (HasFailure()) return;
    }
    EXPECT_GT(refused, 3);
    ExpectItStartsAndStops("after a want of descriptors");
  }
}

TEST_F(SandboxFaults, WithoutProcessesAStartIsRefusedAndServedLater) {
  const std::string cgroup = absl::StrCat("/sys/fs/cgroup/pids/", ctrd().name(), "-few");
  if (mkdir(cgroup.c_str(), 0755) < 0) GTEST_SKIP() << cgroup << ": " << strerror(errno);
  for (Mode pids : {cri::v1::CONTAINER, cri::v1::POD}) {
    NewPod(pids);
    ASSERT_THAT(WriteFile(cgroup + "/cgroup.procs", absl::StrCat(pid()), 0), IsOk());
    size_t threads = ListDirectory(absl::StrCat("/proc/", pid(), "/task")).size();
    // The last is enough for the child that makes the namespaces, but not for its process 1.
    for (size_t more = 0; more < (pids == cri::v1::POD ? 2 : 1); ++more) {
      ASSERT_THAT(WriteFile(cgroup + "/pids.max", absl::StrCat(threads + more), 0), IsOk());
      EXPECT_THAT(Start(), IsError(kUnknown, "resource temporarily unavailable"));
      ASSERT_THAT(WriteFile(cgroup + "/pids.max", "max", 0), IsOk());
      ExpectNothingLeft(absl::StrCat("start with ", more, " processes"));
    }
    ExpectItStartsAndStops("after a want of processes");
  }
  EXPECT_TRUE(RunUntil([&] { return rmdir(cgroup.c_str()) == 0; })) << strerror(errno);
}

// What a child hangs in: making the pod's namespaces, or mounting its /dev/shm.
TEST_F(SandboxFaults, AStartThatHangsHoldsNothingUpAndOneWhoseChildIsKilledCanBeRepeated) {
  for (bool mounts : {true, false}) {
    const char* call = mounts ? "mount" : "unshare";
    NewPod();
    InjectedFailure hang(pid(), call, "delay_enter=1000s", strace_output(),
                         InjectedFailure::Children::kToo);
    if (!hang.attached()) GTEST_SKIP() << "strace cannot attach";
    auto started = SendStart();
    pid_t child = WaitForAChildIn(mounts ? SYS_mount : SYS_unshare);
    ASSERT_NE(child, 0);
    EXPECT_THAT((Call<api::PingResponse>("PingSandbox", api::PingRequest())), IsOk());
    EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
    EXPECT_FALSE(started.done());
    ASSERT_EQ(kill(child, SIGKILL), 0);
    // Its end is delayed, too.
    hang.End();
    EXPECT_THAT(started.Get(), IsError(kUnknown, "ended")) << call;
    ExpectNothingLeft(call);
    ExpectItStartsAndStops(call);
  }
}

TEST_F(SandboxFaults, WhatAFailedStartCouldNotUndoIsUndoneByTheNextOrByAStop) {
  for (bool by_the_next : {true, false}) {
    NewPod();
    {
      // Neither the namespaces nor the end of its files: for as long as it lasts.
      InjectedFailure failure(pid(), "unshare,umount2", "error=EPERM", strace_output(),
                              InjectedFailure::Children::kToo);
      if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
      EXPECT_THAT(Start(), IsError(kUnknown, "operation not permitted"));
      EXPECT_TRUE(HasMounts()) << "there is nothing to be undone";
      EXPECT_FALSE(Start().ok());
      EXPECT_FALSE(Stop().ok());
      EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
    }
    ExpectItIsUndone(by_the_next, "after a start that could not be undone");
  }
}

TEST_F(SandboxFaults, AShimThatCannotGoHomeDoesSoLater) {
  for (bool by_the_next : {true, false}) {
    NewPod();
    {
      // The first three of a start are the try whether there is a way back.
      InjectedFailure failure(pid(), "setns", "error=ENOMEM:when=5+", strace_output());
      if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
      EXPECT_THAT(Start(), IsError(kUnknown, "cannot allocate memory"));
      EXPECT_FALSE(IsHome());
      EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY");
    }
    ExpectItIsUndone(by_the_next, "after a start from which there was no way home");
  }
}

// It goes there to connect to containerd, for a socket belongs to the network in which it was made.
TEST_F(SandboxFaults, AShimThatStaysInTheHostsNetworkDoesNotTakeItsContainersThere) {
  NewPod();
  ASSERT_THAT(Start(), IsOk());
  // As docs/operating.md has it.
  auto entered = [&] {
    return RunCommand({.argv = {"nsenter", "-t", absl::StrCat(pid()), "-n", "readlink",
                                "/proc/self/ns/net"}})
        .out;
  };
  EXPECT_EQ(entered(), Network().name() + "\n");
  Container& a = New("a", InPod(pid(), "exec sleep 1000"));
  {
    InjectedFailure failure(pid(), "setns", "error=ENOMEM:when=2", strace_output());
    if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
    // Its first event makes the shim connect.
    ASSERT_THAT(a.Create(), IsOk());
    EXPECT_TRUE(RunUntil([&] {
      return absl::StrContains(
          ctrd().log(), "level=warning msg=\"cannot go back to the pod's network namespace\"");
    })) << ctrd().log();
  }
  EXPECT_EQ(entered(), NamespaceOf(getpid(), "net") + "\n");
  Container& b = New("b", InPod(pid(), "exec sleep 1000"));
  for (Container* c : {&a, &b}) {
    auto started = c == &a ? a.Start().status() : b.Run();
    ASSERT_THAT(started, IsOk()) << c->id();
    EXPECT_EQ(NamespaceOf(static_cast<pid_t>(c->State()->pid()), "net"), Network().name())
        << c->id();
    EXPECT_THAT(c->KillAndRemove(), IsOk()) << c->id();
  }
  EXPECT_THAT(Stop(), IsOk());
  EXPECT_TRUE(IsHome());
  EXPECT_THAT(Shutdown(), IsOk());
}

// As containerd does it with the /dev/shm of a pod with a pause container.
TEST_F(SandboxFaults, AStopIsNotHeldUpByAFileThatSomebodyHasOpenInItsShm) {
  NewPod();
  ASSERT_THAT(Start(), IsOk());
  ASSERT_THAT(WriteFile(PodDirectory() + "/shm/file", "x", 0644), IsOk());
  auto file = OpenFile(PodDirectory() + "/shm/file", O_RDONLY);
  ASSERT_THAT(file, IsOk());
  EXPECT_THAT(Stop(), IsOk());
  ExpectNothingLeft("a stop while somebody has a file open");
  EXPECT_EQ(*ReadToEof(file->get(), 100), "x");
  EXPECT_THAT(Shutdown(), IsOk());
}

// One system call that fails, at each place where the shim makes it.
struct Syscall {
  const char* name;
  const char* error;
  bool childs = false;  // or its children
};
constexpr Syscall kSyscalls[] = {{"pipe2", "EMFILE"},
                                 {"clone,vfork,clone3,fork", "EAGAIN", true},
                                 {"mount", "ENOMEM", true},
                                 {"umount2", "EPERM", true},
                                 {"unshare", "ENOSPC", true},
                                 {"setns", "ENOMEM"},
                                 {"setns", "ENOMEM", true},
                                 {"openat", "EMFILE"},
                                 {"openat", "EMFILE", true},
                                 {"epoll_ctl", "ENOSPC"},
                                 {"memfd_create", "EMFILE"},
                                 {"mkdir", "ENOSPC"},
                                 {"execve", "ENOMEM", true},
                                 {"execveat", "ENOMEM", true},
                                 {"sethostname", "EPERM", true},
                                 {"pivot_root", "EINVAL", true},
                                 {"open_tree", "EPERM", true},
                                 {"mount_setattr", "EINVAL", true},
                                 {"capset", "EPERM", true},
                                 {"signalfd4", "EMFILE", true},
                                 {"prctl", "EINVAL", true},
                                 {"fcntl", "EMFILE"},
                                 {"newfstatat", "EIO"},
                                 {"unlinkat,rmdir,unlink", "EIO"}};

// The first of them by default.
std::vector<Syscall> Syscalls() {
  auto end = Long() ? std::end(kSyscalls) : std::begin(kSyscalls) + 8;
  return {std::begin(kSyscalls), end};
}

class FailingSandboxSyscall : public SandboxFaults, public ::testing::WithParamInterface<Syscall> {
 protected:
  // Some of the places by default, all of them in the long run.
  int Last() const { return Long() ? 40 : 3; }
  std::string Injection(int nth) const {
    return absl::StrCat("error=", GetParam().error, ":when=", nth);
  }
  void NewRunningPod(Mode pids) {
    NewPod(pids);
    ASSERT_THAT(Start(), IsOk());
  }
  InjectedFailure::Children children() const {
    return GetParam().childs ? InjectedFailure::Children::kToo
                             : InjectedFailure::Children::kLeftAlone;
  }
  // Does `request` with the 1st, 2nd, … call failing, until there are no more of them.
  void Each(const char* what, const std::function<void(Mode)>& prepare,
            const std::function<absl::Status(Mode)>& request,
            const std::function<void(const absl::Status&, Mode, const std::string&)>& after) {
    for (Mode pids : {cri::v1::CONTAINER, cri::v1::POD}) {
      for (int nth = 1; nth <= Last(); ++nth) {
        prepare(pids);
        InjectedFailure failure(pid(), GetParam().name, Injection(nth), strace_output(),
                                children());
        if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
        absl::Status status = request(pids);
        bool happened = failure.End();
        after(status, pids,
              absl::StrCat(what, " with failing ", GetParam().name, " number ", nth, ": ",
                           status.ToString()));
        if (HasFailure()) return;
        if (!happened) break;
      }
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Of, FailingSandboxSyscall, ::testing::ValuesIn(Syscalls()),
                         [](const auto& param) {
                           std::string name = param.param.name;
                           return absl::StrCat(name.substr(0, name.find(',')),
                                               param.param.childs ? "OfChildrenToo" : "");
                         });

TEST_P(FailingSandboxSyscall, LetsACreationBeRepeated) {
  Each(
      "Create", [&](Mode) { NewShim(); }, [&](Mode pids) { return CreatePod(pids); },
      [&](const absl::Status& status, Mode pids, const std::string& what) {
        ExpectItCanBeCreated(status, pids, what);
      });
}

TEST_P(FailingSandboxSyscall, LeavesNothingOfAStart) {
  Each(
      "Start", [&](Mode pids) { NewPod(pids); }, [&](Mode) { return Start().status(); },
      [&](const absl::Status& status, Mode, const std::string& what) {
        if (!status.ok() && std::string(GetParam().name) != "umount2") ExpectNothingLeft(what);
        ExpectItStartsAndStops(what);
      });
}

TEST_P(FailingSandboxSyscall, LetsAStopBeRepeated) {
  Each(
      "Stop", [&](Mode pids) { NewRunningPod(pids); }, [&](Mode) { return Stop(); },
      [&](const absl::Status& status, Mode, const std::string& what) {
        EXPECT_EQ(Status()->state(), "SANDBOX_NOTREADY") << what;
        if (!status.ok()) {
          EXPECT_THAT(Stop(), IsOk()) << what;
        }
        ExpectNothingLeft(what);
        EXPECT_THAT(Shutdown(), IsOk()) << what;
      });
}

TEST_P(FailingSandboxSyscall, LetsTheShimEnd) {
  if (std::string(GetParam().name) == "umount2") GTEST_SKIP() << "what cannot be unmounted stays";
  Each(
      "Shutdown", [&](Mode pids) { NewRunningPod(pids); }, [&](Mode) { return Shutdown(); },
      [&](const absl::Status& status, Mode, const std::string& what) {
        EXPECT_THAT(status, IsOk()) << what;
      });
}

}  // namespace
}  // namespace feather::test
