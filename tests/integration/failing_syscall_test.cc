// System calls of the shim that strace(1) makes fail, one at a time, at each place where the shim
// makes them: the answer may be an error, but nothing is left behind, the other container of the
// shim does not notice, and the same request succeeds afterwards.

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/injected_failure.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

// One system call that fails, at each place where the shim makes it.
struct Syscall {
  const char* name;
  const char* error;
  // The call is that of a child: also those of the OCI runtime fail.
  bool childs = false;
  // Only with this path: what is left of runc's own is not ours, and the pipe that asio's handler
  // of signals writes to can always be written to.
  const char* path = "";
};
constexpr Syscall kSyscalls[] = {{"pipe2", "EMFILE"},
                                 {"memfd_create", "EMFILE"},
                                 {"clone,vfork,clone3", "EAGAIN"},
                                 {"openat", "EMFILE"},
                                 {"epoll_ctl", "ENOSPC"},
                                 {"mount", "ENOMEM", true},
                                 {"umount2", "EBUSY", true, "rootfs"},
                                 {"write", "ENOSPC", false, "/memfd:runc-process (deleted)"},
                                 {"mkdir", "ENOSPC"},
                                 {"fchown", "EPERM"},
                                 {"rename", "ENOSPC"},
                                 {"fcntl", "EMFILE"},
                                 {"statfs", "EIO"},
                                 {"capset", "EPERM"},
                                 {"prctl", "EINVAL", true},
                                 {"newfstatat", "EIO"},
                                 {"unlink", "EIO"},
                                 {"lseek", "EIO"},
                                 {"dup3", "EMFILE"},
                                 {"ioctl", "EIO"}};

bool Long() { return getenv("FEATHER_TEST_LONG") != nullptr; }

// The first of them by default.
std::vector<Syscall> Syscalls() {
  auto end = Long() ? std::end(kSyscalls) : std::begin(kSyscalls) + 8;
  return {std::begin(kSyscalls), end};
}

class FailingSyscall : public WitnessTest, public ::testing::WithParamInterface<Syscall> {
 protected:
  // Some of the places by default, all of them in the long run.
  int Last() const { return Long() ? 60 : 2; }
  // Calls `request` with the 1st, 2nd, … call failing, until it makes no more of them. `again` puts
  // things back to where they were.
  void Each(const std::string& what, const std::function<absl::Status()>& request,
            const std::function<void(const absl::Status&)>& again) {
    int places = 0;
    const absl::Cleanup print = [&] {
      printf("%s: %s failed at %d places\n", what.c_str(), GetParam().name, places);
    };
    for (int nth = 1; nth <= Last(); ++nth) {
      std::string text = absl::StrCat(what, " with failing ", GetParam().name, " number ", nth);
      InjectedFailure failure(shim_, GetParam().name,
                              absl::StrCat("error=", GetParam().error, ":when=", nth),
                              directory_.path() + "/strace",
                              GetParam().childs ? InjectedFailure::Children::kToo
                                                : InjectedFailure::Children::kLeftAlone,
                              GetParam().path);
      if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
      absl::Status status = request();
      bool happened = failure.End();
      if (happened) ++places;
      if (!happened) {
        EXPECT_THAT(status, IsOk()) << text;
      }
      again(status);
      ExpectUnharmed(absl::StrCat(text, ": ", status.ToString()));
      if (!happened || HasFailure()) return;
    }
  }

  TestDirectory directory_;
};
INSTANTIATE_TEST_SUITE_P(
    Of, FailingSyscall, ::testing::ValuesIn(Syscalls()), [](const auto& param) {
      return std::string(absl::StrContains(param.param.name, ',') ? "fork" : param.param.name);
    });

TEST_P(FailingSyscall, LeavesNothingInACreation) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  Remember();
  Each(
      "Create", [&] { return c.Create(request).status(); },
      [&](const absl::Status& status) {
        if (!status.ok()) {
          EXPECT_THAT(c.State(), IsError(kNotFound, "")) << status;
          ASSERT_THAT(c.Create(request), IsOk()) << "after " << status;
        }
        EXPECT_THAT(c.Kill(SIGKILL), IsOk());
        EXPECT_THAT(c.Wait(), IsOk());
        EXPECT_THAT(c.Delete(), IsOk());
      });
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(FailingSyscall, LetsAStartBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  ASSERT_THAT(c.Create(request), IsOk());
  Remember();
  Each(
      "Start", [&] { return c.Start().status(); },
      [&](const absl::Status& status) {
        auto state = c.State();
        ASSERT_THAT(state, IsOk()) << status;
        if (state->status() == containerd::v1::types::CREATED) {
          EXPECT_FALSE(status.ok());
          EXPECT_THAT(c.Start(), IsOk()) << "after " << status;
        }
        EXPECT_THAT(c.Kill(SIGKILL), IsOk());
        EXPECT_THAT(c.Wait(), IsOk());
        EXPECT_THAT(c.Delete(), IsOk());
        ASSERT_THAT(c.Create(request), IsOk());
      });
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(FailingSyscall, LetsARestorationBeRepeated) {
  settings_.runtime = WriteRuntime("restores", absl::StrCat(kRestores, "restore_or_run \"$@\"\n"));
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  request.set_checkpoint(directory_.path() + "/image");
  ASSERT_THAT(c.Create(request), IsOk());
  Remember();
  Each(
      "Start of a restored container", [&] { return c.Start().status(); },
      [&](const absl::Status& status) {
        auto state = c.State();
        ASSERT_THAT(state, IsOk()) << status;
        if (state->status() == containerd::v1::types::CREATED) {
          EXPECT_FALSE(status.ok());
          EXPECT_EQ(state->pid(), 0u) << status;
          EXPECT_THAT(c.Start(), IsOk()) << "after " << status;
        }
        EXPECT_THAT(c.Kill(SIGKILL), IsOk()) << status;
        EXPECT_THAT(c.Wait(), IsOk()) << status;
        EXPECT_THAT(c.Delete(), IsOk()) << status;
        ASSERT_THAT(c.Create(request), IsOk()) << status;
      });
  EXPECT_THAT(c.Delete(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(FailingSyscall, LetsRequestsToARunningContainerBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Run(), IsOk());
  Remember();
  auto requests = RequestsToRunning(c, "");
  auto all = [&] {
    absl::Status first = requests.at("Pause")();
    first.Update(c.Resume());
    for (const char* name : {"Update", "Stats", "Pids"}) first.Update(requests.at(name)());
    return first;
  };
  Each("Pause, Resume, Update, Stats and Pids", all, [&](const absl::Status& status) {
    auto state = c.State();
    ASSERT_THAT(state, IsOk()) << status;
    if (state->status() == containerd::v1::types::PAUSED) {
      EXPECT_THAT(c.Resume(), IsOk()) << "after " << status;
    }
    EXPECT_THAT(all(), IsOk()) << "after " << status;
  });
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(FailingSyscall, LetsRequestsThatChangeNoStateBeRepeated) {
  settings_.runtime = WriteRuntime(
      "checkpoints", "case \" $* \" in *' checkpoint '*) exit 0 ;; esac\nexec runc \"$@\"\n");
  StartWitness();
  ContainerOptions options;
  options.in = true;
  options.spec.terminal = true;
  Container& c = NewMember("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  Remember();
  auto requests = RequestsToRunning(c, directory_.path() + "/image");
  auto all = [&] {
    absl::Status first;
    for (const char* name : {"Checkpoint", "ResizePty", "CloseIO", "Connect", "Wait", "Shutdown"})
      first.Update(requests.at(name)());
    return first;
  };
  Each("Checkpoint, ResizePty, CloseIO, Connect, Wait and Shutdown", all,
       [&](const absl::Status& status) {
         auto state = c.State();
         ASSERT_THAT(state, IsOk()) << status;
         EXPECT_EQ(state->status(), containerd::v1::types::RUNNING) << status;
         EXPECT_THAT(all(), IsOk()) << "after " << status;
       });
  auto wait = c.WaitAsync();
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_EQ(wait.Get()->exit_status(), 128u + SIGKILL);
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// A Wait whose exit comes while the shim's calls fail.
TEST_P(FailingSyscall, LosesNoExitThatIsWaitedFor) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  pid_t pid = 0;
  auto run = [&] {
    ASSERT_THAT(c.Create(request), IsOk());
    auto started = c.Start();
    ASSERT_THAT(started, IsOk());
    pid = static_cast<pid_t>(*started);
  };
  ASSERT_NO_FATAL_FAILURE(run());
  Remember();
  Each(
      "the exit that a Wait is for",
      [&] {
        auto wait = c.WaitAsync();
        // The Wait has arrived.
        c.State().status().IgnoreError();
        kill(pid, SIGKILL);
        return wait.Get().status();
      },
      [&](const absl::Status& status) {
        EXPECT_EQ(c.Wait()->exit_status(), 128u + SIGKILL) << status;
        ExpectExitTold(pid);
        EXPECT_THAT(c.Delete(), IsOk()) << status;
        run();
      });
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(FailingSyscall, LetsTheShimEnd) {
  bool happened = true;
  for (int nth = 1; nth <= Last() && happened && !HasFailure(); ++nth) {
    std::string text = absl::StrCat("Shutdown with failing ", GetParam().name, " number ", nth);
    Container& c = New(absl::StrCat("s", nth));
    ASSERT_THAT(c.Run(), IsOk());
    EXPECT_THAT(c.Kill(SIGKILL), IsOk());
    EXPECT_THAT(c.Wait(), IsOk());
    EXPECT_THAT(c.Delete(), IsOk());
    InjectedFailure failure(
        c.shim_pid(), GetParam().name, absl::StrCat("error=", GetParam().error, ":when=", nth),
        directory_.path() + "/strace", InjectedFailure::Children::kLeftAlone, GetParam().path);
    if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
    // The caller does not ask again, whatever the answer.
    c.Shutdown().IgnoreError();
    c.Disconnect();
    EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(c.shim_pid()).has_value(); })) << text;
    happened = failure.End();
    if (happened) printf("%s\n", text.c_str());
    EXPECT_THAT(c.RemoveBundle(), IsOk()) << text;
  }
}

TEST_P(FailingSyscall, LeavesNothingInAnExecAndItsDeletion) {
  StartWitness();
  Remember();
  ContainerOptions streams;
  streams.in = true;
  auto add = witness_->ExecRequest("x", {"sleep", "1000"}, streams);
  Each(
      "Start of an exec",
      [&] {
        absl::Status added = witness_->Exec(add);
        return added.ok() ? witness_->Start("x").status() : added;
      },
      [&](const absl::Status& status) {
        // A start that failed half-way has had its process killed.
        auto state = witness_->State("x");
        if (state.ok() && state->status() == containerd::v1::types::RUNNING) {
          EXPECT_THAT(witness_->Kill(SIGKILL, "x"),
                      ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
        }
        if (state.ok() && state->pid() != 0) {
          EXPECT_THAT(witness_->Wait("x"), IsOk());
        }
        EXPECT_THAT(witness_->Delete("x"), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
        ASSERT_THAT(witness_->Exec(add), IsOk()) << "after " << status;
        ASSERT_THAT(witness_->Start("x"), IsOk()) << "after " << status;
        EXPECT_THAT(witness_->Kill(SIGKILL, "x"), IsOk()) << "after " << status;
        EXPECT_THAT(witness_->Wait("x"), IsOk()) << "after " << status;
        EXPECT_THAT(witness_->Delete("x"), IsOk()) << "after " << status;
      });
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(FailingSyscall, LeavesNothingInAKillAndADeletion) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  Remember();
  auto all = [&] {
    absl::Status status = c.Create(request).status();
    if (status.ok()) status = c.Kill(SIGKILL);
    if (status.ok()) status = c.Wait().status();
    if (status.ok()) status = c.Delete().status();
    return status;
  };
  Each("Kill and Delete", all, [&](const absl::Status& status) {
    if (c.State().ok()) {
      EXPECT_THAT(c.Kill(SIGKILL), ::testing::AnyOf(IsOk(), IsError(kNotFound, ""))) << status;
      EXPECT_THAT(c.Wait(), IsOk()) << status;
      EXPECT_THAT(c.Delete(), IsOk()) << status;
    }
    EXPECT_THAT(all(), IsOk()) << "after " << status;
  });
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

class FailingPidFile : public WitnessTest {};

// It cannot be read once, and can when the shim looks for whose the process is. An orphan of the
// container's is the shim's child as well.
TEST_F(FailingPidFile, OfAnExecLeavesNoProcessAndEndsNoOther) {
  ContainerOptions options;
  options.spec.patch =
      R"({"linux": {"namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]}})";
  StartWitness(options);
  ASSERT_THAT(witness_->Exec("orphan", {"sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 &"}),
              IsOk());
  ASSERT_THAT(witness_->Start("orphan"), IsOk());
  EXPECT_EQ(witness_->Wait("orphan")->exit_status(), 0u);
  ASSERT_THAT(witness_->Delete("orphan"), IsOk());
  ASSERT_EQ(witness_->Pids()->processes_size(), 2);
  Remember();
  TestDirectory directory;
  ASSERT_THAT(witness_->Exec("x", {"sleep", "1000"}), IsOk());
  {
    InjectedFailure failure(shim_, "openat", "error=EMFILE:when=1", directory.path() + "/strace",
                            InjectedFailure::Children::kLeftAlone, witness_->bundle() + "/x.pid");
    if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
    EXPECT_THAT(witness_->Start("x"), IsError(kUnknown, "x.pid: too many open files"));
    EXPECT_TRUE(failure.End());
  }
  EXPECT_EQ(witness_->Wait("x")->exit_status(), 128u + SIGKILL);
  EXPECT_EQ(witness_->Pids()->processes_size(), 2);
  EXPECT_THAT(witness_->Delete("x"), IsOk());
  ExpectUnharmed("an exec whose pid could not be read");
  EXPECT_THAT(witness_->Kill(SIGKILL, "", /*all=*/true), IsOk());
  EXPECT_THAT(witness_->Wait(), IsOk());
  EXPECT_THAT(witness_->Remove(), IsOk());
}

class FailingUnmount : public WitnessTest {};

// What docs/operating.md tells the operator to do is enough.
TEST_F(FailingUnmount, OfAFailedCreationIsToldAndCanBeDoneByHand) {
  StartWitness();
  Remember();
  ContainerOptions options;
  options.spec.args = {"/nothing"};
  Container& c = NewMember("a", options);
  TestDirectory directory;
  {
    InjectedFailure failure(shim_, "umount2", "error=EPERM", directory.path() + "/strace",
                            InjectedFailure::Children::kToo, "rootfs");
    if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
    EXPECT_THAT(c.Create(), IsError(kUnknown, "OCI runtime create failed"));
    EXPECT_TRUE(failure.End());
  }
  EXPECT_TRUE(RunUntil([&] {
    return absl::StrContains(ctrd().log(),
                             "cannot unmount the rootfs of a container whose creation failed");
  })) << ctrd().log();
  const std::string command = absl::StrCat("umount -R ", c.bundle(), "/rootfs");
  EXPECT_EQ(system(command.c_str()), 0) << command;  // NOLINT
  EXPECT_TRUE(std::filesystem::is_empty(c.bundle() + "/rootfs"));
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  ExpectUnharmed("a failed unmount");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
