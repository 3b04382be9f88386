// System calls of the shim that strace(1) makes fail, one at a time, at each place where the shim
// makes them: the answer may be an error, but nothing is left behind, the other container of the
// shim does not notice, and the same request succeeds afterwards.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/spawn.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

// Makes the N-th of one system call of a process fail, and only that.
class InjectedFailure {
 public:
  InjectedFailure(pid_t pid, const std::string& syscall, const std::string& error, int nth,
                  std::string output)
      : pid_(pid), output_(std::move(output)) {
    Command command;
    command.argv = {"strace",
                    "-qq",
                    "-o",
                    output_,
                    "-p",
                    std::to_string(pid),
                    absl::StrCat("--trace=", syscall),
                    absl::StrCat("--inject=", syscall, ":error=", error, ":when=", nth)};
    command.env = {"PATH=/usr/bin:/bin"};
    auto spawned = SpawnProcess(command);
    if (!spawned.ok()) return;
    strace_ = *spawned;
    std::string traced = absl::StrCat("TracerPid:\t", strace_, "\n");
    for (int i = 0; i < 3000 && !attached_; ++i) {
      attached_ =
          absl::StrContains(ReadFile(absl::StrCat("/proc/", pid, "/status")).value_or(""), traced);
      if (!attached_) usleep(10'000);
    }
  }
  ~InjectedFailure() { End(); }

  bool attached() const { return attached_; }
  // Detaches; whether the failure has happened.
  bool End() {
    if (strace_ <= 0) return false;
    kill(strace_, SIGTERM);
    waitpid(strace_, nullptr, 0);
    strace_ = 0;
    // strace detaches without handing on a signal that it has just intercepted (PTRACE_DETACH with
    // signal 0): a SIGCHLD that the shim would wait for in vain. One too many is harmless.
    kill(pid_, SIGCHLD);
    return absl::StrContains(ReadFile(output_).value_or(""), "(INJECTED)");
  }

 private:
  pid_t pid_;
  std::string output_;
  pid_t strace_ = 0;
  bool attached_ = false;
};

// One system call that fails, at each place where the shim makes it.
struct Syscall {
  const char* name;
  const char* error;
};
constexpr Syscall kSyscalls[] = {
    {"pipe2", "EMFILE"},  {"memfd_create", "EMFILE"}, {"clone,vfork,clone3", "EAGAIN"},
    {"openat", "EMFILE"}, {"epoll_ctl", "ENOSPC"},    {"mkdir", "ENOSPC"},
    {"fchown", "EPERM"},  {"rename", "ENOSPC"},       {"fcntl", "EMFILE"},
    {"statfs", "EIO"},    {"capset", "EPERM"},        {"newfstatat", "EIO"},
    {"unlink", "EIO"},    {"lseek", "EIO"},           {"dup3", "EMFILE"}};

bool Long() { return getenv("FEATHER_TEST_LONG") != nullptr; }

// The first of them by default.
std::vector<Syscall> Syscalls() {
  auto end = Long() ? std::end(kSyscalls) : std::begin(kSyscalls) + 5;
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
    for (int nth = 1; nth <= Last(); ++nth) {
      std::string text = absl::StrCat(what, " with failing ", GetParam().name, " number ", nth);
      InjectedFailure failure(shim_, GetParam().name, GetParam().error, nth,
                              directory_.path() + "/strace");
      if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
      absl::Status status = request();
      bool happened = failure.End();
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
      [&](const absl::Status&) {
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
      });
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(FailingSyscall, LeavesNothingInAKillAndADeletion) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  Remember();
  Each(
      "Kill and Delete",
      [&] {
        absl::Status status = c.Create(request).status();
        if (status.ok()) status = c.Kill(SIGKILL);
        if (status.ok()) status = c.Wait().status();
        if (status.ok()) status = c.Delete().status();
        return status;
      },
      [&](const absl::Status& status) {
        if (c.State().ok()) {
          EXPECT_THAT(c.Kill(SIGKILL), ::testing::AnyOf(IsOk(), IsError(kNotFound, ""))) << status;
          EXPECT_THAT(c.Wait(), IsOk()) << status;
          EXPECT_THAT(c.Delete(), IsOk()) << status;
        }
      });
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
