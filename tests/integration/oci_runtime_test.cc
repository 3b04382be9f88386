// The OCI runtime's driver with shell scripts in the runtime's place.
#include "runtime/oci_runtime.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tests/support/runtime_fixture.h"

namespace feather {
namespace {

using test::Pipe;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

class OciRuntimeTest : public test::RuntimeFixture {
 protected:
  // The arguments of the last command after those that are common to all.
  std::string Line(const absl::Status& status) const {
    EXPECT_TRUE(status.ok()) << status;
    std::string common = absl::StrCat("--root ", Path("root/ns"), " --log ", Path("log.json"),
                                      " --log-format json ");
    std::string text = Read("argv");
    EXPECT_THAT(text, StartsWith(common));
    return absl::StrReplaceAll(text.substr(std::min(text.size(), common.size())),
                               {{directory_.path(), "D"}, {config_.id, "ID"}});
  }
};

// Checklist: C4, C6.
TEST_F(OciRuntimeTest, GivesTheCommandsOfAContainersLifeContainerdsArguments) {
  Fake(R"(printf '%s ' "$@" > $D/argv)");
  OciRuntime runtime(reaper_, config_);
  OciRuntime::CreateArgs create;
  create.pid_file = Path("init.pid");
  EXPECT_EQ(Line(Await(runtime.Create(create))), "create --bundle D --pid-file D/init.pid ID ");
  create.console_socket = "/c";
  create.no_pivot_root = true;
  create.no_new_keyring = true;
  EXPECT_EQ(Line(Await(runtime.Create(create))),
            "create --bundle D --pid-file D/init.pid --console-socket /c --no-pivot "
            "--no-new-keyring ID ");
  EXPECT_EQ(Line(Await(runtime.Start())), "start ID ");

  OciRuntime::ExecArgs exec;
  exec.process_file = "/p";
  exec.pid_file = Path("e.pid");
  EXPECT_EQ(Line(Await(runtime.Exec(exec))), "exec --process /p --detach --pid-file D/e.pid ID ");
  exec.console_socket = "/c";
  EXPECT_EQ(Line(Await(runtime.Exec(exec))),
            "exec --process /p --console-socket /c --detach --pid-file D/e.pid ID ");

  EXPECT_EQ(Line(Await(runtime.Kill(9, false))), "kill ID 9 ");
  EXPECT_EQ(Line(Await(runtime.Kill(15, true))), "kill --all ID 15 ");
  EXPECT_EQ(Line(Await(runtime.Delete(false))), "delete ID ");
  EXPECT_EQ(Line(Await(runtime.Delete(true))), "delete --force ID ");
  EXPECT_EQ(Line(Await(runtime.Pause())), "pause ID ");
  EXPECT_EQ(Line(Await(runtime.Resume())), "resume ID ");
  EXPECT_EQ(Line(Await(runtime.Update("{}"))), "update --resources=- ID ");
}

// Checklist: C4.
TEST_F(OciRuntimeTest, GivesCheckpointAndRestoreContainerdsArguments) {
  Fake(R"(printf '%s ' "$@" > $D/argv)");
  OciRuntime runtime(reaper_, config_);
  OciRuntime::RestoreArgs restore;
  restore.image_path = "/i";
  restore.work_path = "/w";
  restore.create.pid_file = Path("init.pid");
  EXPECT_EQ(Line(Await(runtime.Restore(restore))),
            "restore --image-path /i --work-path /w --detach --pid-file D/init.pid -no-subreaper "
            "--bundle D ID ");
  restore.parent_path = "/pp";
  restore.create.no_pivot_root = true;
  restore.create.console_socket = "/c";
  EXPECT_EQ(Line(Await(runtime.Restore(restore))),
            "restore --image-path /i --work-path /w --parent-path /pp --detach --pid-file "
            "D/init.pid --console-socket /c --no-pivot -no-subreaper --bundle D ID ");

  OciRuntime::CheckpointArgs checkpoint;
  checkpoint.image_path = "/i";
  checkpoint.leave_running = false;
  EXPECT_EQ(Line(Await(runtime.Checkpoint(checkpoint))), "checkpoint --image-path /i ID ");
  checkpoint = {"/i", "/w", "/pp", true, true, true, true, true, {"network", "ipc"}};
  EXPECT_EQ(Line(Await(runtime.Checkpoint(checkpoint))),
            "checkpoint --image-path /i --work-path /w --parent-path /pp --tcp-established "
            "--ext-unix-sk --shell-job --file-locks --empty-ns network --empty-ns ipc "
            "--leave-running ID ");
}

// A wrapper may look for config.json there (containerd's own for its tests does).
TEST_F(OciRuntimeTest, RunsInTheBundleWhileThatExists) {
  Fake("pwd > $D/cwd");
  OciRuntime runtime(reaper_, config_);
  ASSERT_TRUE(Await(runtime.Start()).ok());
  EXPECT_EQ(Read("cwd"), config_.bundle + "\n");
  config_.bundle = Path("gone");
  OciRuntime homeless(reaper_, config_);
  ASSERT_TRUE(Await(homeless.Delete(true)).ok());
  EXPECT_EQ(Read("cwd"), std::filesystem::current_path().string() + "\n");
}

// Checklist: C5.
TEST_F(OciRuntimeTest, PassesCriuAndTheSystemdDriverBeforeTheCommand) {
  Fake(R"(printf '%s ' "$@" > $D/argv)");
  config_.criu_path = "/opt/criu";
  config_.systemd_cgroup = true;
  OciRuntime runtime(reaper_, config_);
  EXPECT_EQ(Line(Await(runtime.Start())), "--criu /opt/criu --systemd-cgroup start ID ");
}

// What /proc says of a fake runtime that has stopped itself.
struct Seen {
  std::vector<std::string> fds;  // "number path"
  std::string status;
  std::string cwd;
  std::vector<std::string> env;
};

class StoppedRuntimeTest : public OciRuntimeTest {
 protected:
  Seen Look(const OciRuntime::CreateArgs& args) {
    Fake("echo $$ > $D/pid.new; mv $D/pid.new $D/pid; kill -STOP $$");
    OciRuntime runtime(reaper_, config_);
    std::optional<absl::Status> result;
    asio::co_spawn(loop_.io(), runtime.Create(args),
                   [&](std::exception_ptr, absl::Status status) { result = status; });
    pid_t pid = 0;
    EXPECT_TRUE(loop_.RunUntil([&] {
      if (absl::SimpleAtoi(Read("pid"), &pid)) return true;
      loop_.RunFor(std::chrono::milliseconds(5));
      return false;
    }));
    int wait_status = 0;
    EXPECT_EQ(waitpid(pid, &wait_status, WUNTRACED), pid);
    EXPECT_TRUE(WIFSTOPPED(wait_status));
    Seen seen;
    std::string proc = absl::StrCat("/proc/", pid);
    for (const auto& entry : std::filesystem::directory_iterator(proc + "/fd")) {
      std::string target = std::filesystem::read_symlink(entry.path()).string();
      // The shell reads its script.
      if (target != config_.binary)
        seen.fds.push_back(absl::StrCat(entry.path().filename().string(), " ", target));
    }
    seen.status = *ReadFile(proc + "/status");
    seen.cwd = std::filesystem::read_symlink(proc + "/cwd").string();
    seen.env = absl::StrSplit(*ReadFile(proc + "/environ"), '\0');
    kill(pid, SIGCONT);
    EXPECT_TRUE(loop_.RunUntil([&] { return result.has_value(); }));
    EXPECT_TRUE(result->ok()) << *result;
    return seen;
  }
};

// Checklist: C9, I14, I17.
TEST_F(StoppedRuntimeTest, SeesNoneOfTheShimsSignalsEnvironmentOrDescriptors) {
  ASSERT_NE(signal(SIGPIPE, SIG_IGN), SIG_ERR);
  ASSERT_EQ(setenv("NOTIFY_SOCKET", "/run/notify", 1), 0);
  ASSERT_EQ(setenv("FEATHER_KEPT", "yes", 1), 0);
  UniqueFd stray(open("/dev/zero", O_RDONLY));
  Seen seen = Look({});
  EXPECT_THAT(seen.fds, UnorderedElementsAre("0 /dev/null", "1 /dev/null", "2 /dev/null"));
  EXPECT_THAT(seen.status, HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_THAT(seen.status, HasSubstr("SigIgn:\t0000000000000000"));
  EXPECT_EQ(seen.cwd, config_.bundle);
  EXPECT_THAT(seen.env, Contains("FEATHER_KEPT=yes"));
  EXPECT_THAT(seen.env, Not(Contains(StartsWith("NOTIFY_SOCKET="))));
}

TEST_F(StoppedRuntimeTest, HasTheContainersStreams) {
  UniqueFd zero(open("/dev/zero", O_RDWR | O_CLOEXEC));
  UniqueFd full(open("/dev/full", O_RDWR | O_CLOEXEC));
  OciRuntime::CreateArgs args;
  bool started = false;
  args.started = [&] { started = true; };
  args.stdio = {zero.get(), full.get(), -1};
  EXPECT_THAT(Look(args).fds, UnorderedElementsAre("0 /dev/zero", "1 /dev/full", "2 /dev/null"));
  EXPECT_TRUE(started);
}

TEST_F(StoppedRuntimeTest, IsCapturedWhenTheContainerHasATerminal) {
  OciRuntime::CreateArgs args;
  args.console_socket = "/c";
  EXPECT_THAT(Look(args).fds,
              UnorderedElementsAre("0 /dev/null", StartsWith("1 pipe:"), StartsWith("2 pipe:")));
}

// Checklist: C10.
TEST_F(OciRuntimeTest, KillsTheRuntimeWhenTheShimEnds) {
  Fake("echo $$; exec sleep 1000");
  Pipe out;
  pid_t shim = fork();
  ASSERT_GE(shim, 0);
  if (shim == 0) {
    asio::io_context io{1};
    Reaper reaper(io);
    OciRuntime runtime(reaper, config_);
    OciRuntime::CreateArgs args;
    args.stdio = {-1, out.writer.get(), -1};
    args.started = [&] { out.writer.Reset(); };
    asio::co_spawn(io, runtime.Create(args), [](std::exception_ptr, const absl::Status&) {});
    io.run();
    _exit(1);
  }
  out.writer.Reset();
  char buffer[32];
  ASSERT_GT(read(out.reader.get(), buffer, sizeof(buffer)), 0);
  kill(shim, SIGKILL);
  // EOF: the last that held the pipe is gone.
  EXPECT_EQ(*ReadToEof(out.reader.get(), 1000), "");
}

TEST_F(OciRuntimeTest, NamesABinaryThatDoesNotExist) {
  config_.binary = "no-runc";
  OciRuntime runtime(reaper_, config_);
  absl::Status status = Await(runtime.Create({}));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(Text(status),
            "OCI runtime create failed: unable to retrieve OCI runtime error (open D/log.json: no "
            "such file or directory): exec: \"no-runc\": executable file not found in $PATH");
  config_.binary = "/no/runc";
  OciRuntime other(reaper_, config_);
  EXPECT_EQ(Text(Await(other.Create({}))),
            "OCI runtime create failed: unable to retrieve OCI runtime error (open D/log.json: no "
            "such file or directory): fork/exec /no/runc: no such file or directory");
}

// Checklist: C8.
TEST_F(OciRuntimeTest, ReportsTheLastErrorThatThisCommandHasLogged) {
  Fake(R"x(
log() { printf '%s\n' "$1" >> $D/log.json; }
log '{"level":"error","msg":"first","time":"2026-01-01T00:00:00Z"}'
log 'no JSON'
log '[1,2]'
log '{"level":"error"}'
log '{"level":"error","msg":7}'
log '{"level":"error","msg":"  exec \"x\" \u003c failed\n","time":"2026-01-01T00:00:00Z"}'
log '{"level":"warning","msg":"not this","time":"2026-01-01T00:00:00Z"}'
printf '{"level":"error","msg":"cut of' >> $D/log.json
echo output
exit 1)x");
  std::filesystem::create_directories(absl::StrCat(config_.root, "/", config_.id));
  OciRuntime runtime(reaper_, config_);
  EXPECT_EQ(Text(Await(runtime.Create({}))), "OCI runtime create failed: exec \"x\" < failed");
  EXPECT_EQ(Text(Await(runtime.Start())), "OCI runtime start failed: exec \"x\" < failed");
  EXPECT_EQ(Text(Await(runtime.Exec({}))), "OCI runtime exec failed: exec \"x\" < failed");
  EXPECT_EQ(Text(Await(runtime.Restore({}))), "OCI runtime restore failed: exec \"x\" < failed");
  EXPECT_EQ(Text(Await(runtime.Pause())), "OCI runtime pause failed: exec \"x\" < failed");
  EXPECT_EQ(Text(Await(runtime.Resume())), "OCI runtime resume failed: exec \"x\" < failed");
  EXPECT_EQ(Text(Await(runtime.Delete(false))), "failed to delete task: exec \"x\" < failed");
}

TEST_F(OciRuntimeTest, DoesNotReportTheErrorOfAnEarlierCommand) {
  Write("log.json", "{\"level\":\"error\",\"msg\":\"of an earlier command\"}\n");
  Fake("echo to stdout; echo to stderr >&2; exit 3");
  OciRuntime runtime(reaper_, config_);
  EXPECT_EQ(Text(Await(runtime.Start())),
            "OCI runtime start failed: D/fake did not terminate successfully: exit status 3: to "
            "stdout\nto stderr\n");
  // The streams are the container's here, not part of an error.
  EXPECT_EQ(Text(Await(runtime.Create({}))),
            "OCI runtime create failed: D/fake did not terminate successfully: exit status 3");
  EXPECT_EQ(Text(Await(runtime.Update("{}"))),
            "D/fake did not terminate successfully: exit status 3: to stdout\nto stderr\n");
}

TEST_F(OciRuntimeTest, ReportsARuntimeThatWasKilled) {
  Write("log.json", "");
  Fake("kill -KILL $$");
  OciRuntime runtime(reaper_, config_);
  EXPECT_EQ(Text(Await(runtime.Pause())),
            "OCI runtime pause failed: D/fake did not terminate successfully: exit status 137: ");
}

TEST_F(OciRuntimeTest, KeepsABoundedPartOfALongOutput) {
  Write("log.json", "");
  Fake("head -c 3000000 /dev/zero | tr '\\0' X; exit 1");
  OciRuntime runtime(reaper_, config_);
  std::string text = Text(Await(runtime.Start()));
  EXPECT_THAT(text, StartsWith("OCI runtime start failed: D/fake did not terminate successfully: "
                               "exit status 1: XXX"));
  EXPECT_EQ(std::count(text.begin(), text.end(), 'X'), 64 << 10);
}

TEST_F(OciRuntimeTest, DoesNotWaitForAProcessThatKeepsTheOutputOpen) {
  Write("log.json", "");
  Fake("echo before; sleep 1000 & echo $! > $D/left; exit 1");
  OciRuntime runtime(reaper_, config_);
  EXPECT_THAT(Text(Await(runtime.Start())), EndsWith("exit status 1: before\n"));
  pid_t left = 0;
  ASSERT_TRUE(absl::SimpleAtoi(Read("left"), &left));
  // It was still alive.
  EXPECT_EQ(kill(left, SIGKILL), 0);
  EXPECT_EQ(Await(reaper_.WaitFor(left)).status, 128u + SIGKILL);
}

TEST_F(OciRuntimeTest, WaitsForARuntimeThatClosesItsOutputFirst) {
  Fake("exec >&- 2>&-; touch $D/closed; until [ -e $D/go ]; do sleep 0.01; done; touch $D/done");
  OciRuntime runtime(reaper_, config_);
  std::optional<absl::Status> result;
  asio::co_spawn(loop_.io(), runtime.Start(),
                 [&](std::exception_ptr, absl::Status status) { result = status; });
  ASSERT_TRUE(loop_.RunUntil([&] {
    loop_.RunFor(std::chrono::milliseconds(5));
    return std::filesystem::exists(Path("closed"));
  }));
  EXPECT_FALSE(result.has_value());
  Write("go", "");
  ASSERT_TRUE(loop_.RunUntil([&] { return result.has_value(); }));
  EXPECT_TRUE(result->ok()) << *result;
  EXPECT_TRUE(std::filesystem::exists(Path("done")));
}

// Checklist: K2.
TEST_F(OciRuntimeTest, MapsTheTextsOfAFailedKill) {
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  const std::vector<std::tuple<std::string, absl::StatusCode, std::string>> cases = {
      {"os: process already finished", kNotFound, "process already finished: not found"},
      {"container not running", kNotFound, "process already finished: not found"},
      {"kill process: No such process", kNotFound, "process already finished: not found"},
      {"the container `x` is not running", kNotFound, "process already finished: not found"},
      {"container does not exist", kNotFound, "no such container: not found"},
      {"no such thing", absl::StatusCode::kUnknown,
       "unknown error after kill: D/fake did not terminate successfully: exit status 1: no such "
       "thing\n"}};
  OciRuntime runtime(reaper_, config_);
  std::filesystem::create_directories(absl::StrCat(config_.root, "/", config_.id));
  for (const auto& [output, code, text] : cases) {
    Fake(absl::StrCat("echo '", output, "' >&2; exit 1"));
    absl::Status status = Await(runtime.Kill(9, false));
    EXPECT_EQ(status.code(), code) << output;
    EXPECT_EQ(Text(status), text);
  }
}

TEST_F(OciRuntimeTest, TakesAContainerThatTheRuntimeDoesNotKnowForDeleted) {
  OciRuntime runtime(reaper_, config_);
  std::string state = absl::StrCat(config_.root, "/", config_.id);
  std::filesystem::create_directories(state);
  Write("log.json", "");
  Fake("echo 'container does not exist' >&2; exit 1");
  EXPECT_TRUE(Await(runtime.Delete(false)).ok());
  // As crun says it.
  Fake("echo 'No such file or directory' >&2; exit 1");
  EXPECT_FALSE(Await(runtime.Delete(false)).ok());
  std::filesystem::remove(state);
  EXPECT_TRUE(Await(runtime.Delete(false)).ok());
  EXPECT_EQ(Await(runtime.Kill(9, false)).message(), "no such container: not found");
}

TEST_F(OciRuntimeTest, DoesNotTakeAMissingRuntimeForAMissingContainer) {
  config_.binary = "no-runc";
  OciRuntime runtime(reaper_, config_);
  EXPECT_THAT(Text(Await(runtime.Delete(false))),
              StartsWith("failed to delete task: unable to retrieve OCI runtime error ("));
  EXPECT_THAT(Text(Await(runtime.Kill(9, false))),
              StartsWith("unknown error after kill: exec: \"no-runc\""));
}

// Checklist: R3.
TEST_F(OciRuntimeTest, HandsResourcesOverOnStdin) {
  Fake("cat > $D/input");
  OciRuntime runtime(reaper_, config_);
  // More than a pipe holds.
  std::string resources = absl::StrCat(R"({"x":")", std::string(200000, 'y'), R"("})");
  EXPECT_TRUE(Await(runtime.Update(resources)).ok());
  EXPECT_EQ(Read("input"), absl::StrCat(resources, "\n"));
}

TEST_F(OciRuntimeTest, RunsCommandsAtTheSameTime) {
  // The first ends only once the second has run.
  Fake(
      R"(case "$*" in *pause*) until [ -e $D/resumed ]; do sleep 0.01; done;; *) touch $D/resumed;; esac)");
  OciRuntime runtime(reaper_, config_);
  int ended = 0;
  auto end = [&](std::exception_ptr, const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    ++ended;
  };
  asio::co_spawn(loop_.io(), runtime.Pause(), end);
  asio::co_spawn(loop_.io(), runtime.Resume(), end);
  EXPECT_TRUE(loop_.RunUntil([&] { return ended == 2; }));
}

TEST_F(OciRuntimeTest, LeavesNoDescriptorsAndNoProcesses) {
  auto open_descriptors = [] {
    auto entries = std::filesystem::directory_iterator("/proc/self/fd");
    return std::distance(begin(entries), end(entries));
  };
  Write("log.json", "");
  Fake("echo x; exit 1");
  OciRuntime runtime(reaper_, config_);
  Await(runtime.Start()).IgnoreError();
  auto before = open_descriptors();
  for (int i = 0; i < 20; ++i) {
    Await(runtime.Start()).IgnoreError();
    Await(runtime.Create({})).IgnoreError();
    Await(runtime.Update("{}")).IgnoreError();
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_THAT(test::Children(), ElementsAre());
}

}  // namespace
}  // namespace feather
