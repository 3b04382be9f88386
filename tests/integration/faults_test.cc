// Every request at every point at which something can fail: the answer is an error, the shim goes
// on serving its other containers, nothing is left behind, and the same request succeeds once the
// cause is gone. The faults are real: an OCI runtime that misbehaves, no descriptors, no processes,
// a full disk. (failing_syscall_test.cc has those that cannot be had.)

#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/injected_failure.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

constexpr auto kRunning = containerd::v1::types::RUNNING;
constexpr auto kStopped = containerd::v1::types::STOPPED;

absl::Status Write(const std::string& path, const std::string& data) {
  return WriteFile(path, data, 0644);
}

class Faults : public WitnessTest {
 protected:
  // A runtime that does what the file `fault` of a command says before, or in the place of, runc.
  void SetUp() override {
    settings_.runtime = WriteRuntime(
        "runtime",
        absl::StrCat("command=none log=/dev/null pid_file=/dev/null\n"
                     "previous=\n"
                     "for a; do\n"
                     "  case $previous in --log) log=$a;; --pid-file) pid_file=$a;; esac\n"
                     "  case $a in create|start|exec|kill|delete|pause|resume|update|checkpoint)\n"
                     "    [ $command = none ] && command=$a;; esac\n"
                     "  previous=$a\n"
                     "done\n"
                     "if [ -e ",
                     faults_.path(), "/$command ]; then . ", faults_.path(),
                     "/$command; fi\n"
                     "exec runc \"$@\"\n"));
  }
  void Break(const std::string& command, const std::string& script) {
    // In one step: the witness' commands run at the same time.
    ASSERT_TRUE(WriteFileAtomically(faults_.path() + "/" + command, script + "\n", 0644).ok());
  }
  std::string hanging() const {
    return faults_.path() + "/pid";
  }  // the pid of a command that hangs
  // The command hangs, and can be awaited and killed.
  void Hang(const std::string& command) {
    Break(command, absl::StrCat("echo $$ >", hanging(), ".new; mv ", hanging(), ".new ", hanging(),
                                "; exec sleep 1000"));
  }
  bool Hangs() {
    return RunUntil([this] { return access(hanging().c_str(), F_OK) == 0; });
  }
  void KillWhatHangs() {
    ASSERT_EQ(kill(std::stoi(*ReadFile(hanging())), SIGKILL), 0);
    unlink(hanging().c_str());
  }
  static task::UpdateTaskRequest UpdateRequest() {
    task::UpdateTaskRequest request;
    request.mutable_resources()->set_type_url(
        "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources");
    request.mutable_resources()->set_value(R"({"cpu": {"shares": 512}})");
    return request;
  }
  absl::Status Update(Container& c) {
    auto request = UpdateRequest();
    request.set_id(c.id());
    return c.Call<google::protobuf::Empty>("Update", request).status();
  }
  absl::Status Checkpoint(Container& c) {
    task::CheckpointTaskRequest request;
    request.set_id(c.id());
    request.set_path(faults_.path() + "/image");
    return c.Call<google::protobuf::Empty>("Checkpoint", request).status();
  }
  // What needs no OCI runtime.
  void ExpectAnswers(Container& c) {
    EXPECT_THAT(c.State(), IsOk());
    EXPECT_THAT(c.Pids(), IsOk());
    EXPECT_THAT(c.ConnectTask(), IsOk());
    task::StatsRequest stats;
    stats.set_id(c.id());
    EXPECT_THAT(c.Call<task::StatsResponse>("Stats", stats), IsOk());
  }
  // Among its descriptors.
  static bool HasATerminal(pid_t pid) {
    const std::string directory = absl::StrCat("/proc/", pid, "/fd");
    for (const std::string& name : feather::test::ListDirectory(directory)) {
      std::error_code gone;
      auto target = std::filesystem::read_symlink(absl::StrCat(directory, "/", name), gone);
      if (absl::StrContains(target.string(), "/pts/")) return true;
    }
    return false;
  }
  void Mend(const std::string& command) { unlink((faults_.path() + "/" + command).c_str()); }

  void Limit(rlim_t descriptors) {
    struct rlimit limit = {descriptors, hard_limit_};
    ASSERT_EQ(prlimit(shim_, RLIMIT_NOFILE, &limit, nullptr), 0);
  }

  TestDirectory faults_;
  rlim_t hard_limit_ = 1024;
};

// What an OCI runtime can do instead of its work.
struct RuntimeFault {
  const char* name;
  const char* script;
  const char* text;  // in the error
};
constexpr RuntimeFault kRuntimeFaults[] = {
    {"Fails", R"(echo '{"level":"error","msg":"no luck"}' >>$log; echo "no luck" >&2; exit 1)",
     "no luck"},
    {"IsKilled", "kill -9 $$", "137"},
    {"WritesRubbishToItsLog",
     R"(head -c 3000 /dev/urandom >>$log; echo '{"level":"error","msg":5}' >>$log; exit 3)", ""},
    {"FailsWithALongLog",
     R"(i=0; while [ $i -lt 300 ]; do echo '{"level":"info","msg":"a line of some length, again and again"}'; i=$((i+1)); done >>$log; echo '{"level":"error","msg":"at last"}' >>$log; echo "at last" >&2; exit 1)",
     "at last"},
};

class RuntimeFaults : public Faults, public ::testing::WithParamInterface<RuntimeFault> {
 protected:
  auto IsTheFault() { return IsError(kUnknown, GetParam().text); }
};
INSTANTIATE_TEST_SUITE_P(Runtime, RuntimeFaults, ::testing::ValuesIn(kRuntimeFaults),
                         [](const auto& param) { return param.param.name; });

TEST_P(RuntimeFaults, EveryRequestIsAnsweredWithTheErrorAndCanBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();

  Break("create", GetParam().script);
  EXPECT_THAT(c.Create(), IsTheFault());
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  ExpectUnharmed("create");
  Mend("create");
  ASSERT_THAT(c.Create(), IsOk());

  Break("start", GetParam().script);
  EXPECT_THAT(c.Start(), IsTheFault());
  Mend("start");
  ASSERT_THAT(c.Start(), IsOk());

  Remember();
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  Break("exec", GetParam().script);
  EXPECT_THAT(c.Start("x"), IsTheFault());
  EXPECT_THAT(c.Delete("x"), IsOk());
  ExpectUnharmed("exec");
  Mend("exec");
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());

  Break("pause", GetParam().script);
  EXPECT_THAT(c.Pause(), IsTheFault());
  EXPECT_EQ(c.State()->status(), kRunning);
  Mend("pause");
  ASSERT_THAT(c.Pause(), IsOk());
  Break("resume", GetParam().script);
  EXPECT_THAT(c.Resume(), IsTheFault());
  Mend("resume");
  ASSERT_THAT(c.Resume(), IsOk());

  Break("update", GetParam().script);
  EXPECT_THAT(Update(c), IsTheFault());
  Mend("update");
  EXPECT_THAT(Update(c), IsOk());
  Break("checkpoint", GetParam().script);
  EXPECT_THAT(Checkpoint(c), IsTheFault());
  EXPECT_EQ(c.State()->status(), kRunning);
  Mend("checkpoint");

  Break("kill", GetParam().script);
  EXPECT_FALSE(c.Kill(SIGKILL).ok());
  ExpectUnharmed("kill");
  Mend("kill");
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 128u + SIGKILL);

  Break("delete", GetParam().script);
  EXPECT_THAT(c.Delete(), IsTheFault());
  EXPECT_EQ(c.State()->status(), kStopped);
  Mend("delete");
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, ARuntimeThatSucceedsWithoutAPidFileIsAnError) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  for (const char* script : {"exit 0", "echo rubbish >$pid_file; exit 0",
                             "echo -5 >$pid_file; exit 0", "echo 99999999999 >$pid_file; exit 0",
                             "echo 1 >$pid_file; exit 0", "mkdir $pid_file; exit 0"}) {
    Break("create", script);
    EXPECT_THAT(c.Create(), IsError(kUnknown, "init.pid")) << script;
    ExpectUnharmed(script);
    rmdir((c.bundle() + "/init.pid").c_str());
  }
  // An earlier process' file is not taken for that of a runtime that writes none.
  ASSERT_TRUE(
      WriteFile(c.bundle() + "/init.pid", absl::StrCat(witness_->State()->pid()), 0644).ok());
  Break("create", "exit 0");
  EXPECT_THAT(c.Create(), IsError(kUnknown, "init.pid: no such file"));
  ExpectUnharmed("a pid file of somebody else");
  Mend("create");
  EXPECT_THAT(c.Run(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, OthersAreServedWhileARuntimeHangsAndAKillOfItIsAnError) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  Hang("create");
  auto created = c.Send<task::CreateTaskResponse>("Create", c.CreateRequest());
  ASSERT_TRUE(Hangs());
  EXPECT_THAT(witness_->State(), IsOk());
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  ASSERT_THAT(witness_->Exec("x", {"true"}), IsOk());
  ASSERT_THAT(witness_->Start("x"), IsOk());
  EXPECT_EQ(witness_->Wait("x")->exit_status(), 0u);
  EXPECT_THAT(witness_->Delete("x"), IsOk());
  EXPECT_FALSE(created.done());
  KillWhatHangs();
  EXPECT_THAT(created.Get(), IsError(kUnknown, "137"));
  ExpectUnharmed("a killed runtime");
  Mend("create");
  EXPECT_THAT(c.Run(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, WithoutARuntimeEveryRequestThatNeedsItIsAnErrorAndCanBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  const std::string& runtime = settings_.runtime;
  const std::string away = runtime + ".away";
  auto remove = [&] { ASSERT_EQ(rename(runtime.c_str(), away.c_str()), 0); };
  auto bring_back = [&] { ASSERT_EQ(rename(away.c_str(), runtime.c_str()), 0); };

  remove();
  EXPECT_THAT(c.Create(), IsError(kUnknown, "no such file or directory"));
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  ExpectUnharmed("create");
  bring_back();
  ASSERT_THAT(c.Create(), IsOk());
  remove();
  EXPECT_FALSE(c.Start().ok());
  bring_back();
  ASSERT_THAT(c.Start(), IsOk());
  Remember();

  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  remove();
  ExpectAnswers(c);
  EXPECT_FALSE(c.Start("x").ok());
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_FALSE(c.Pause().ok());
  EXPECT_FALSE(Update(c).ok());
  EXPECT_FALSE(Checkpoint(c).ok());
  EXPECT_FALSE(c.Kill(SIGKILL).ok());
  EXPECT_EQ(c.State()->status(), kRunning);
  ExpectUnharmed("requests to a running container");
  bring_back();
  EXPECT_THAT(Update(c), IsOk());
  ASSERT_THAT(c.Pause(), IsOk());
  remove();
  EXPECT_FALSE(c.Resume().ok());
  bring_back();
  ASSERT_THAT(c.Resume(), IsOk());
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 128u + SIGKILL);
  remove();
  EXPECT_FALSE(c.Delete().ok());
  bring_back();
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// A command of the runtime that hangs, until it is killed from outside.
TEST_F(Faults, EveryRequestWhoseRuntimeHangsHoldsNobodyElseUp) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  auto hang = [&](const std::string& command, const char* method, const auto& request) {
    Hang(command);
    auto answer = c.Send<google::protobuf::Empty>(method, request);
    ASSERT_TRUE(Hangs()) << method;
    EXPECT_THAT(witness_->State(), IsOk());
    ExpectAnswers(c);
    EXPECT_FALSE(answer.done()) << method;
    KillWhatHangs();
    EXPECT_FALSE(answer.Get().ok()) << method;
    Mend(command);
    ExpectUnharmed(method);
  };
  auto of = [&](auto request) {
    request.set_id(c.id());
    return request;
  };
  ASSERT_THAT(c.Create(), IsOk());
  Remember();
  hang("start", "Start", of(task::StartRequest()));
  ASSERT_THAT(c.Start(), IsOk());
  Remember();
  hang("pause", "Pause", of(task::PauseRequest()));
  ASSERT_THAT(c.Pause(), IsOk());
  hang("resume", "Resume", of(task::ResumeRequest()));
  ASSERT_THAT(c.Resume(), IsOk());
  hang("update", "Update", of(UpdateRequest()));
  hang("checkpoint", "Checkpoint", of(task::CheckpointTaskRequest()));
  auto kill_request = of(task::KillRequest());
  kill_request.set_signal(SIGTERM);
  hang("kill", "Kill", kill_request);
  EXPECT_EQ(c.State()->status(), kRunning);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// 30 seconds, in which everything else is answered.
TEST_F(Faults, ALoggerThatNeverGetsReadyIsGivenUpAndHoldsNobodyElseUp) {
  StartWitness();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Run(), IsOk());
  Remember();
  auto exec = c.ExecRequest("x", {"true"});
  exec.set_stdout("binary://" + WriteRuntime("logger", "exec sleep 1000\n"));
  exec.clear_stderr();
  ASSERT_THAT(c.Exec(exec), IsOk());
  task::StartRequest start;
  start.set_id(c.id());
  start.set_exec_id("x");
  auto started = c.Send<task::StartResponse>("Start", start);
  ASSERT_TRUE(RunUntil([&] { return ChildrenOfTheShim().size() > children_; }));
  EXPECT_THAT(witness_->State(), IsOk());
  ExpectAnswers(c);
  EXPECT_THAT(started.Get(), IsError(kUnknown, "logging binary does not get ready"));
  EXPECT_THAT(c.Delete("x"), IsOk());
  ExpectUnharmed("a logger that never gets ready");
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, WithoutDescriptorsRequestsAreRefusedAndServedAgainLater) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  int refused = 0;
  // Further in with each descriptor more.
  for (size_t spare = 0; spare < 40; ++spare) {
    Limit(descriptors_ + spare);
    auto created = c.Create();
    Limit(hard_limit_);
    if (created.ok()) break;
    ++refused;
    EXPECT_THAT(c.State(), IsError(kNotFound, "")) << created.status();
    ExpectUnharmed(absl::StrCat("create with ", spare, " descriptors"));
  }
  EXPECT_GT(refused, 3);
  ASSERT_THAT(c.Start(), IsOk());
  Remember();
  for (size_t spare = 0; spare < 40; ++spare) {
    ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
    Limit(descriptors_ + spare);
    auto started = c.Start("x");
    Limit(hard_limit_);
    if (started.ok()) {
      EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
    }
    EXPECT_THAT(c.Delete("x"), IsOk());
    ExpectUnharmed(absl::StrCat("exec with ", spare, " descriptors"));
    if (started.ok()) break;
  }
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, WithoutProcessesRequestsAreRefusedAndServedAgainLater) {
  std::string cgroup = "/sys/fs/cgroup/pids/" + ctrd().name() + "-few";
  if (mkdir(cgroup.c_str(), 0755) < 0) GTEST_SKIP() << cgroup << ": " << strerror(errno);
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  ASSERT_TRUE(Write(cgroup + "/cgroup.procs", absl::StrCat(shim_)).ok());
  ASSERT_TRUE(Write(cgroup + "/pids.max", "1").ok());
  EXPECT_THAT(c.Create(), IsError(kUnknown, "resource temporarily unavailable"));
  ExpectUnharmed("create");
  ASSERT_TRUE(Write(cgroup + "/pids.max", "max").ok());
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  ASSERT_TRUE(Write(cgroup + "/pids.max", "1").ok());
  EXPECT_FALSE(c.Start("x").ok());
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_FALSE(c.Kill(SIGTERM).ok());
  ASSERT_TRUE(Write(cgroup + "/pids.max", "max").ok());
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  ASSERT_TRUE(Write(cgroup + "/pids.max", "1").ok());
  EXPECT_FALSE(c.Delete().ok());
  ASSERT_TRUE(Write(cgroup + "/pids.max", "max").ok());
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
  EXPECT_TRUE(RunUntil([&] { return rmdir(cgroup.c_str()) == 0; })) << strerror(errno);
}

TEST_F(Faults, OnAFullDiskRequestsAreRefusedAndServedAgainLater) {
  StartWitness();
  // The bundle alone lies on the full disk.
  Container& c = NewMember("a");
  Remember();
  std::string config = *ReadFile(c.bundle() + "/config.json");
  ASSERT_EQ(mount("tmpfs", c.bundle().c_str(), "tmpfs", 0, "size=64k,mode=711"), 0)
      << strerror(errno);
  ASSERT_TRUE(Write(c.bundle() + "/config.json", config).ok());
  ASSERT_EQ(mkdir((c.bundle() + "/rootfs").c_str(), 0711), 0);
  std::string filler = c.bundle() + "/filler";
  EXPECT_FALSE(Write(filler, std::string(100'000, 'x')).ok());
  EXPECT_THAT(c.Create(), IsError(kUnknown, "no space left"));
  ExpectUnharmed("create");
  unlink(filler.c_str());
  EXPECT_THAT(c.Run(), IsOk());
  Remember();
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  EXPECT_FALSE(Write(filler, std::string(100'000, 'x')).ok());
  // Neither the pid nor the reason can be written down.
  EXPECT_THAT(c.Start("x"), IsError(kUnknown, "OCI runtime exec failed"));
  EXPECT_EQ(c.Pids()->processes_size(), 1);
  EXPECT_THAT(c.Delete("x"), IsOk());
  ExpectUnharmed("exec");
  unlink(filler.c_str());
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  EXPECT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());
  // Less is needed for an end.
  EXPECT_FALSE(Write(filler, std::string(100'000, 'x')).ok());
  EXPECT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Delete(), IsOk());
  EXPECT_EQ(umount2(c.bundle().c_str(), 0), 0) << strerror(errno);
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, AFileOnAFullDiskBreaksTheProcessPipeAndIsWrittenAgainLater) {
  const std::string disk = faults_.path() + "/disk";
  const std::string log = disk + "/log";
  ASSERT_EQ(mkdir(disk.c_str(), 0700), 0);
  ASSERT_EQ(mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k"), 0) << strerror(errno);
  StartWitness();
  ContainerOptions options = Shell("yes; exec sleep 1000");
  options.out = options.err = false;
  Container& c = NewMember("a", options);
  Remember();
  auto request = c.CreateRequest();
  request.set_stdout("file://" + log);
  auto pid = c.Create(request);
  ASSERT_THAT(pid, IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_TRUE(RunUntil([&] { return CommandLine(*pid) == "sleep 1000"; })) << CommandLine(*pid);
  EXPECT_TRUE(RunUntil([&] { return absl::StrContains(ctrd().log(), "no space left"); }));
  EXPECT_EQ(c.State()->status(), kRunning);
  auto exec = [&](const std::string& script) {
    auto execution = c.ExecRequest("x", {"sh", "-c", script}, options);
    execution.set_stdout("file://" + log);
    EXPECT_THAT(c.Exec(execution), IsOk());
    EXPECT_THAT(c.Start("x"), IsOk());
    auto exit = c.Wait("x");
    EXPECT_THAT(exit, IsOk());
    EXPECT_THAT(c.Delete("x"), IsOk());
    return exit.ok() ? exit->exit_status() : 0;
  };
  EXPECT_EQ(exec("exec yes"), 128u + SIGPIPE);
  EXPECT_EQ(truncate(log.c_str(), 0), 0) << strerror(errno);
  EXPECT_EQ(exec("echo again"), 0u);
  EXPECT_EQ(ReadFile(log).value_or("none"), "again\n");
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ExpectUnharmed("output into a full disk");
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
  EXPECT_EQ(umount2(disk.c_str(), 0), 0) << strerror(errno);
}

TEST_F(Faults, ALoggerThatEndsAtOnceIsAnErrorAndAnotherWorks) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  std::string logger = WriteRuntime("logger", "exit 1\n");
  auto request = c.CreateRequest();
  request.clear_stderr();
  for (std::string uri : {absl::StrCat("binary-v2://", logger), std::string("binary:///no/such"),
                          absl::StrCat("binary://", c.bundle(), "/config.json")}) {
    request.set_stdout(uri);
    EXPECT_THAT(c.Create(request), IsError(kUnknown, "")) << uri;
    ExpectUnharmed(uri);
  }
  request.set_stdout("binary-v2://" + WriteRuntime("good", "printf x >&5; exec 5>&-; cat <&3\n"));
  EXPECT_THAT(c.Create(request), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, ATerminalWhosePeerVanishesEndsWithItsProcess) {
  StartWitness();
  ContainerOptions options = Shell(
      "trap '' HUP; trap 'echo back >/dev/console' USR1; exec 0<&- 1>&- 2>&-\n"
      "sleep 1000 & while true; do wait; done");
  options.spec.terminal = true;
  options.err = false;
  Container& c = NewMember("a", options);
  Remember();
  auto request = c.CreateRequest();
  request.set_terminal(true);
  auto pid = c.Create(request);
  ASSERT_THAT(pid, IsOk());
  EXPECT_TRUE(HasATerminal(*pid));
  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_TRUE(RunUntil([&] { return !HasATerminal(*pid); }));
  // The shim has seen it by the time of the answer.
  EXPECT_THAT(c.ResizePty(80, 24), IsOk());
  EXPECT_EQ(c.State()->status(), kRunning);
  EXPECT_FALSE(c.stdio().out->eof());
  ASSERT_THAT(c.Kill(SIGUSR1), IsOk());
  EXPECT_TRUE(RunUntil([&] { return c.stdio().out->data() == "back\r\n"; }));
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Delete(), IsOk());
  ASSERT_TRUE(WaitForEof(c.stdio()));
  ExpectUnharmed("a terminal without a peer");
  EXPECT_THAT(c.Remove(), IsError(kNotFound, "")) << "it has been deleted";
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// By the OOM killer, say.
TEST_F(Faults, AMountingChildThatIsKilledHalfWayLeavesNoMount) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  auto request = c.CreateRequest();
  *request.add_rootfs() = request.rootfs(0);
  {
    InjectedFailure failure(shim_, "mount", "signal=KILL:when=2", faults_.path() + "/strace",
                            InjectedFailure::Children::kToo);
    if (!failure.attached()) GTEST_SKIP() << "strace cannot attach";
    EXPECT_THAT(c.Create(request), IsError(kUnknown, "child process ended with status 137"));
  }
  EXPECT_FALSE(absl::StrContains(*ReadFile("/proc/self/mountinfo"), c.bundle()));
  ExpectUnharmed("a mount half-way");
  EXPECT_THAT(c.Create(request), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, AFifoThatIsMissingIsAnErrorAndAnotherIsTaken) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  auto good = c.CreateRequest();
  for (int stream = 0; stream < 3; ++stream) {
    auto request = good;
    std::string missing = c.bundle() + "/no-such-fifo";
    if (stream == 0) request.set_stdin(missing);
    if (stream == 1) request.set_stdout(missing);
    if (stream == 2) request.set_stderr(missing);
    EXPECT_THAT(c.Create(request), IsError(kUnknown, "no such file or directory")) << stream;
    ExpectUnharmed(absl::StrCat("stream ", stream));
  }
  EXPECT_THAT(c.Create(good), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
