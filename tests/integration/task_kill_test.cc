// Signals, and what dies with an init.

#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/shim_test.h"
#include "tests/support/subprocess.h"

namespace feather::test {
namespace {

// A process with the pid of one that has ended.
class Stranger {
 public:
  explicit Stranger(pid_t pid) {
    clone_args arguments = {};
    arguments.exit_signal = SIGCHLD;
    arguments.set_tid = reinterpret_cast<uintptr_t>(&pid);
    arguments.set_tid_size = 1;
    pid_ = static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof(arguments)));
    while (pid_ == 0) pause();
  }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;
  ~Stranger() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  bool there() const { return pid_ > 0; }
  bool unharmed() const { return waitpid(pid_, nullptr, WNOHANG) == 0; }

 private:
  pid_t pid_ = -1;
};

constexpr char kSharedPids[] =
    R"({"linux": {"namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]}})";

class Kill : public RuntimeTest {
 protected:
  // Until the container has written this.
  bool WaitForOutput(Container& c, const std::string& text) {
    return RunUntil([&] { return c.stdio().out->data().find(text) != std::string::npos; });
  }
};
INSTANTIATE_TEST_SUITE_P(Runtimes, Kill, kRuntimes, RuntimeName);

TEST_P(Kill, SendsTheSignalThatWasAskedFor) {
  Container& c = New("a", Shell("trap 'echo usr1' USR1; trap 'exit 42' TERM; echo ready; "
                                "while :; do sleep 0.05; done"));
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_TRUE(WaitForOutput(c, "ready"));
  ASSERT_THAT(c.Kill(SIGUSR1), IsOk());
  ASSERT_TRUE(WaitForOutput(c, "usr1"));
  ASSERT_THAT(c.Kill(SIGTERM), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 42u);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: K1.
TEST_P(Kill, OfAnExecReachesThatProcessAlone) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  ASSERT_THAT(c.Exec("y", {"sleep", "1000"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_THAT(c.Start("y"), IsOk());
  ASSERT_THAT(c.Kill(SIGHUP, "x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 128u + SIGHUP);
  EXPECT_EQ(c.State("y")->status(), containerd::v1::types::RUNNING);
  EXPECT_EQ(c.State()->status(), containerd::v1::types::RUNNING);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// A process, its child, and one that has left its session.
constexpr char kTree[] =
    "sleep 1001 & sh -c 'sleep 1002 & setsid sleep 1003 & echo $!; wait' & wait";

TEST_P(Kill, AllOfAnExecReachesWhateverItHasStarted) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sh", "-c", kTree}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 6; }));
  ASSERT_THAT(c.Kill(SIGKILL, "x", /*all=*/true), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 137u);
  EXPECT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 1; }));
  EXPECT_EQ(c.State()->status(), containerd::v1::types::RUNNING);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_P(Kill, AllOfAnExecThatHasEndedReachesWhatItHasLeft) {
  if (settings_.runtime == "crun") GTEST_SKIP() << "crun gives an exec no session of its own";
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sh", "-c", "sleep 1001 >/dev/null 2>&1 & exit 3"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 3u);
  EXPECT_THAT(c.Kill(SIGKILL, "x"), IsError(kNotFound, "process already finished"));
  ASSERT_EQ(c.Pids()->processes_size(), 2);
  EXPECT_THAT(c.Kill(SIGKILL, "x", /*all=*/true), IsOk());
  EXPECT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 1; }));
  EXPECT_THAT(c.Kill(SIGKILL, "x", /*all=*/true), IsError(kNotFound, "process already finished"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// CRI kills an exec whose time is over, and cannot say more than that.
TEST_P(Kill, OfAnExecReachesWhateverItHasStartedWhereTheNodeIsSetUpSo) {
  settings_.env.push_back("FEATHER_EXEC_KILL=tree");
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sh", "-c", kTree}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 6; }));
  ASSERT_THAT(c.Kill(SIGKILL, "x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 137u);
  EXPECT_TRUE(RunUntil([&] { return c.Pids()->processes_size() == 1; }));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_P(Kill, HarmsNoStrangerWithThePidOfAProcessThatHasEnded) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_THAT(c.Wait("x"), IsOk());
  {
    Stranger stranger(static_cast<pid_t>(c.State("x")->pid()));
    if (!stranger.there() && errno == EPERM) GTEST_SKIP() << "pids cannot be chosen here";
    ASSERT_TRUE(stranger.there()) << strerror(errno);
    for (bool all : {false, true})
      EXPECT_THAT(c.Kill(SIGKILL, "x", all), IsError(kNotFound, "process already finished"));
    EXPECT_EQ(c.Pids()->processes_size(), 1);
    EXPECT_THAT(c.Delete("x"), IsOk());
    EXPECT_TRUE(stranger.unharmed());
  }
  const auto init = static_cast<pid_t>(c.State()->pid());
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  Stranger stranger(init);
  ASSERT_TRUE(stranger.there()) << strerror(errno);
  for (bool all : {false, true}) {
    // With `all` there may be nobody to be signalled, which is no error of runc's.
    EXPECT_THAT(c.Kill(SIGKILL, "", all), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
  }
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_TRUE(stranger.unharmed());
}

TEST_P(Kill, AllReachesEveryProcessOfTheContainer) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_THAT(c.Kill(SIGKILL, "", /*all=*/true), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 137u);
  EXPECT_EQ(c.Wait()->exit_status(), 137u);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Nothing but the shim ends the other processes when the container shares the host's pid namespace.
// Checklist: X7.
TEST_P(Kill, TheInitsEndTakesTheOthersAlongInASharedPidNamespace) {
  ContainerOptions options = Shell("sleep 1000 & echo started; sleep 1000 & exit 0");
  options.spec.patch = kSharedPids;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.stdio())) << "the background processes must be gone";
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_P(Kill, ExecsOfASharedPidNamespaceEndBeforeTheInit) {
  ContainerOptions options;
  options.spec.patch = kSharedPids;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  auto exec_wait = c.WaitAsync("x");
  auto wait = c.WaitAsync();
  ASSERT_THAT(c.Kill(SIGTERM), IsOk());
  ASSERT_THAT(wait.Get(), IsOk());
  EXPECT_TRUE(exec_wait.Get().ok());
  EXPECT_EQ(c.Wait("x")->exit_status(), 137u);
  EXPECT_EQ(c.Wait()->exit_status(), 128u + SIGTERM);
  EXPECT_THAT(c.Remove(), IsOk());
}

// A double fork in the host's pid namespace makes the shim the parent of what is left.
// Checklist: X9.
TEST_P(Kill, OrphansAreReaped) {
  ContainerOptions options = Shell("(sleep 0.1 & exec true); echo forked; sleep 1000");
  options.spec.patch = kSharedPids;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_TRUE(WaitForOutput(c, "forked"));
  auto only_the_init_is_left = [&] {
    auto pids = c.Pids();
    return pids.ok() && pids->processes_size() <= 2;  // the shell and its last sleep
  };
  EXPECT_TRUE(RunUntil(only_the_init_is_left));
  std::string children = absl::StrCat("/proc/", c.shim_pid(), "/task/", c.shim_pid(), "/children");
  EXPECT_TRUE(RunUntil([&] {
    auto list = ReadFile(children);
    return list.ok() && *list == absl::StrCat(c.State()->pid(), " ");
  })) << *ReadFile(children);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: K6.
TEST_P(Kill, AndDeleteOfWhatTheRuntimeHasDeletedAlready) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  HelperCommand command;
  command.argv = {std::string("/usr/bin/") + GetParam(),
                  "--root",
                  ctrd().runtime_root() + "/" + ctrd().name_space(),
                  "delete",
                  "--force",
                  "a"};
  command.env = {"PATH=/usr/bin:/usr/sbin:/bin:/sbin"};
  HelperResult result = RunHelper(command);
  ASSERT_EQ(result.exit_code, 0) << result.out;
  EXPECT_EQ(c.Wait()->exit_status(), 137u);
  EXPECT_THAT(c.Kill(SIGKILL), IsError(kNotFound, ""));
  EXPECT_THAT(c.Remove(), IsOk());
}

class KillWithAFakeRuntime : public ShimTest {
 protected:
  // `kill` answers with this line and fails; everything else is runc's.
  absl::Status KillAnswering(const std::string& line) {
    settings_.runtime =
        WriteRuntime("runc-kill", absl::StrCat("case \"$*\" in *' kill a 10'*) echo '", line,
                                               "' >&2; exit 1;; esac\nexec runc \"$@\"\n"));
    Container& c = New("a");
    EXPECT_THAT(c.Run(), IsOk());
    absl::Status status = c.Kill(SIGUSR1);
    EXPECT_THAT(c.KillAndRemove(), IsOk());
    return status;
  }
};

TEST_F(KillWithAFakeRuntime, ProcessAlreadyFinishedIsNotFound) {
  EXPECT_THAT(KillAnswering("os: process already finished"),
              IsError(kNotFound, "process already finished"));
}

TEST_F(KillWithAFakeRuntime, ContainerNotRunningIsNotFound) {
  EXPECT_THAT(KillAnswering("container not running"),
              IsError(kNotFound, "process already finished"));
}

TEST_F(KillWithAFakeRuntime, NoSuchProcessIsNotFound) {
  EXPECT_THAT(KillAnswering("kill: No Such Process"),
              IsError(kNotFound, "process already finished"));
}

TEST_F(KillWithAFakeRuntime, DoesNotExistIsNotFound) {
  EXPECT_THAT(KillAnswering("container \"a\" does not exist"),
              IsError(kNotFound, "no such container"));
}

// The signal has arrived, and the OCI runtime takes its time to say so. Who deletes when it hears
// of the exit may close the connection then, on which somebody else waits for the answer to the
// Kill.
TEST_F(KillWithAFakeRuntime, IsAnsweredBeforeADeleteOfWhatItHasEnded) {
  TestDirectory directory;
  const std::string go_on = directory.path() + "/go-on";
  const std::string deletes = directory.path() + "/deletes";
  MakeFifo(go_on);
  settings_.runtime =
      WriteRuntime("runc-kill", absl::StrCat("case \"$*\" in *' kill a 9'*) runc \"$@\"; read x <",
                                             go_on, "; exit 0;; *' delete '*) : >", deletes,
                                             ";; esac\nexec runc \"$@\"\n"));
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  task::KillRequest kill;
  kill.set_id("a");
  kill.set_signal(SIGKILL);
  auto killed = c.Send<google::protobuf::Empty>("Kill", kill);
  ASSERT_THAT(c.Wait(), IsOk());
  task::DeleteRequest remove;
  remove.set_id("a");
  const auto begin = Clock::now();
  auto deleted = c.Send<task::DeleteResponse>("Delete", remove);
  // Long enough for a deletion to begin, and shorter than one waits for a runtime that hangs.
  for (int i = 0; i < 3; ++i) {
    (void)c.State().ok();
    RunCommand({.argv = {"runc", "--version"}});
  }
  const bool waits = access(deletes.c_str(), F_OK) != 0 && !killed.done() && !deleted.done();
  EXPECT_TRUE(waits || Clock::now() - begin > std::chrono::seconds(4));
  ASSERT_THAT(WriteFile(go_on, "\n", 0), IsOk());
  EXPECT_THAT(killed.Get(), IsOk());
  EXPECT_THAT(deleted.Get(), IsOk());
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(KillWithAFakeRuntime, AnyOtherTextIsUnknown) {
  EXPECT_THAT(KillAnswering("out of cheese"), IsError(kUnknown, "unknown error after kill: "));
}

}  // namespace
}  // namespace feather::test
