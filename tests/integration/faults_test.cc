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
#include <functional>
#include <map>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/injected_failure.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

constexpr auto kRunning = containerd::v1::types::RUNNING;
constexpr auto kCreated = containerd::v1::types::CREATED;
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
        absl::StrCat(kRestores,
                     "command=none log=/dev/null pid_file=/dev/null\n"
                     "previous=\n"
                     "for a; do\n"
                     "  case $previous in --log) log=$a;; --pid-file) pid_file=$a;; esac\n"
                     "  case $a in\n"
                     "  create|start|exec|kill|delete|pause|resume|update|checkpoint|restore)\n"
                     "    [ $command = none ] && command=$a;; esac\n"
                     "  previous=$a\n"
                     "done\n"
                     "if [ -e ",
                     faults_.path(), "/$command ]; then . ", faults_.path(),
                     "/$command; fi\n"
                     "restore_or_run \"$@\"\n"));
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
  // What failed, and why; between them stands why a log cannot be read, if it cannot.
  static auto IsFailure(const std::string& what, const std::string& why) {
    return ::testing::AllOf(IsError(kUnknown, what), IsError(kUnknown, why));
  }
  // It is made by its Start, from a checkpoint.
  task::CreateTaskRequest RestoreRequest(Container& c) {
    auto request = c.CreateRequest();
    request.set_checkpoint(faults_.path() + "/image");
    return request;
  }
  // As before its Start: nothing runs.
  void ExpectNotRestored(Container& c) {
    auto state = c.State();
    ASSERT_THAT(state, IsOk());
    EXPECT_EQ(state->status(), kCreated);
    EXPECT_EQ(state->pid(), 0u);
    ExpectUnharmed("restore");
  }
  // Now it is, and ends like any other.
  void ExpectRestored(Container& c) {
    ASSERT_THAT(c.Start(), IsOk());
    EXPECT_EQ(c.State()->status(), kRunning);
    EXPECT_EQ(c.Pids()->processes_size(), 1);
    EXPECT_THAT(c.KillAndRemove(), IsOk());
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
  int status;          // with which it ends
  const char* said;    // on its stderr
  const char* logged;  // in its log, as an error; empty: none
};
constexpr RuntimeFault kRuntimeFaults[] = {
    {"Fails", R"(echo '{"level":"error","msg":"no luck"}' >>$log; echo "bad luck" >&2; exit 1)", 1,
     "bad luck", "no luck"},
    {"IsKilled", "kill -9 $$", 137, "", ""},
    {"WritesRubbishToItsLog",
     R"(head -c 3000 /dev/urandom >>$log; echo '{"level":"error","msg":5}' >>$log; exit 3)", 3, "",
     ""},
    {"FailsWithALongLog",
     R"(i=0; while [ $i -lt 300 ]; do echo '{"level":"info","msg":"a line of some length, again and again"}'; i=$((i+1)); done >>$log; echo '{"level":"error","msg":"at last"}' >>$log; echo "the end" >&2; exit 1)",
     1, "the end", "at last"},
};

// Has the runtime make the process before what comes behind it.
constexpr char kHalfRestored[] = "(restore \"$@\") || exit 99; ";

class RuntimeFaults : public Faults, public ::testing::WithParamInterface<RuntimeFault> {
 protected:
  std::string Ended() const {
    return absl::StrCat(settings_.runtime, " did not terminate successfully: exit status ",
                        GetParam().status);
  }
  // The error of a request which the runtime's log explains.
  auto IsTheFault(const std::string& failed) const {
    const std::string logged = GetParam().logged;
    return IsFailure(absl::StrCat(failed, ": "), logged.empty() ? Ended() : logged);
  }
  // … and of one of which only what the runtime has said is known.
  auto IsWhatItSaid(const std::string& before = "", const std::string& behind = "") const {
    return IsError(kUnknown, absl::StrCat(before, Ended(), ": ", GetParam().said, behind));
  }
};
INSTANTIATE_TEST_SUITE_P(Runtime, RuntimeFaults, ::testing::ValuesIn(kRuntimeFaults),
                         [](const auto& param) { return param.param.name; });

TEST_P(RuntimeFaults, EveryRequestIsAnsweredWithTheErrorAndCanBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();

  Break("create", GetParam().script);
  EXPECT_THAT(c.Create(), IsTheFault("OCI runtime create failed"));
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  ExpectUnharmed("create");
  Mend("create");
  ASSERT_THAT(c.Create(), IsOk());

  Break("start", GetParam().script);
  EXPECT_THAT(c.Start(), IsTheFault("OCI runtime start failed"));
  Mend("start");
  ASSERT_THAT(c.Start(), IsOk());

  Remember();
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  Break("exec", GetParam().script);
  EXPECT_THAT(c.Start("x"), IsTheFault("OCI runtime exec failed"));
  EXPECT_THAT(c.Delete("x"), IsOk());
  ExpectUnharmed("exec");
  Mend("exec");
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());

  Break("pause", GetParam().script);
  EXPECT_THAT(c.Pause(), IsTheFault("OCI runtime pause failed"));
  EXPECT_EQ(c.State()->status(), kRunning);
  Mend("pause");
  ASSERT_THAT(c.Pause(), IsOk());
  Break("resume", GetParam().script);
  EXPECT_THAT(c.Resume(), IsTheFault("OCI runtime resume failed"));
  Mend("resume");
  ASSERT_THAT(c.Resume(), IsOk());

  Break("update", GetParam().script);
  EXPECT_THAT(Update(c), IsWhatItSaid());
  Mend("update");
  EXPECT_THAT(Update(c), IsOk());
  Break("checkpoint", GetParam().script);
  EXPECT_THAT(Checkpoint(c),
              IsWhatItSaid("", absl::StrCat(" path= ", c.bundle(), "/criu-dump.log")));
  EXPECT_EQ(c.State()->status(), kRunning);
  Mend("checkpoint");

  Break("kill", GetParam().script);
  EXPECT_THAT(c.Kill(SIGKILL), IsWhatItSaid("unknown error after kill: "));
  ExpectUnharmed("kill");
  Mend("kill");
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 128u + SIGKILL);

  Break("delete", GetParam().script);
  EXPECT_THAT(c.Delete(), IsTheFault("failed to delete task"));
  EXPECT_EQ(c.State()->status(), kStopped);
  Mend("delete");
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(RuntimeFaults, ARestorationIsAnsweredWithTheErrorAndCanBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  ASSERT_THAT(c.Create(RestoreRequest(c)), IsOk());
  // Before there is a process, and beside one that is left.
  for (const char* half : {"", kHalfRestored}) {
    Break("restore", absl::StrCat(half, GetParam().script));
    EXPECT_THAT(c.Start(), IsTheFault("OCI runtime restore failed"));
    ExpectNotRestored(c);
  }
  Mend("restore");
  ExpectRestored(c);
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
  ASSERT_THAT(c.Create(RestoreRequest(c)), IsOk());
  for (const char* script : {"exit 0", "echo rubbish >$pid_file; exit 0"}) {
    Break("restore", script);
    EXPECT_THAT(c.Start(), IsError(kUnknown, "init.pid")) << script;
    ExpectNotRestored(c);
  }
  Mend("restore");
  ExpectRestored(c);
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Faults, OthersAreServedWhileARuntimeHangsAndAKillOfItIsAnError) {
  StartWitness();
  Container& c = NewMember("a");
  Remember();
  auto expect_others_served = [&] {
    EXPECT_THAT(witness_->State(), IsOk());
    ASSERT_THAT(witness_->Exec("x", {"true"}), IsOk());
    ASSERT_THAT(witness_->Start("x"), IsOk());
    EXPECT_EQ(witness_->Wait("x")->exit_status(), 0u);
    EXPECT_THAT(witness_->Delete("x"), IsOk());
  };
  Hang("create");
  auto created = c.Send<task::CreateTaskResponse>("Create", c.CreateRequest());
  ASSERT_TRUE(Hangs());
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  expect_others_served();
  EXPECT_FALSE(created.done());
  KillWhatHangs();
  EXPECT_THAT(created.Get(), IsFailure("OCI runtime create failed: ", "exit status 137"));
  ExpectUnharmed("a killed runtime");
  Mend("create");
  ASSERT_THAT(c.Create(RestoreRequest(c)), IsOk());
  Hang("restore");
  task::StartRequest start;
  start.set_id(c.id());
  auto started = c.Send<task::StartResponse>("Start", start);
  ASSERT_TRUE(Hangs());
  EXPECT_EQ(c.State()->status(), kCreated);
  expect_others_served();
  EXPECT_FALSE(started.done());
  KillWhatHangs();
  EXPECT_THAT(started.Get(), IsFailure("OCI runtime restore failed: ", "exit status 137"));
  ExpectNotRestored(c);
  Mend("restore");
  ExpectRestored(c);
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
  auto is_missing = [&](const std::string& before) {
    return IsFailure(before, absl::StrCat("fork/exec ", runtime, ": no such file or directory"));
  };

  remove();
  EXPECT_THAT(c.Create(), is_missing("OCI runtime create failed: "));
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  ExpectUnharmed("create");
  bring_back();
  ASSERT_THAT(c.Create(RestoreRequest(c)), IsOk());
  remove();
  EXPECT_THAT(c.Start(), is_missing("OCI runtime restore failed: "));
  ExpectNotRestored(c);
  EXPECT_THAT(c.Delete(), IsOk());
  bring_back();
  ASSERT_THAT(c.Create(), IsOk());
  remove();
  EXPECT_THAT(c.Start(), is_missing("OCI runtime start failed: "));
  EXPECT_EQ(c.State()->status(), kCreated);
  bring_back();
  ASSERT_THAT(c.Start(), IsOk());
  Remember();

  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  remove();
  ExpectAnswers(c);
  EXPECT_THAT(c.Start("x"), is_missing("OCI runtime exec failed: "));
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.Pause(), is_missing("OCI runtime pause failed: "));
  EXPECT_THAT(Update(c), is_missing(""));
  EXPECT_THAT(Checkpoint(c), is_missing(""));
  EXPECT_THAT(c.Kill(SIGKILL), is_missing("unknown error after kill: "));
  EXPECT_EQ(c.State()->status(), kRunning);
  ExpectUnharmed("requests to a running container");
  bring_back();
  EXPECT_THAT(Update(c), IsOk());
  ASSERT_THAT(c.Pause(), IsOk());
  remove();
  EXPECT_THAT(c.Resume(), is_missing("OCI runtime resume failed: "));
  EXPECT_EQ(c.State()->status(), containerd::v1::types::PAUSED);
  bring_back();
  ASSERT_THAT(c.Resume(), IsOk());
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 128u + SIGKILL);
  remove();
  EXPECT_THAT(c.Delete(), is_missing("failed to delete task: "));
  EXPECT_EQ(c.State()->status(), kStopped);
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
    EXPECT_THAT(answer.Get(), IsError(kUnknown, "exit status 137")) << method;
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
  // Further in with each descriptor more, until there are enough.
  auto each = [&](const std::string& what, const std::function<absl::Status()>& request,
                  const std::function<void()>& refused) {
    int times = 0;
    for (size_t spare = 0; spare < 40; ++spare) {
      Limit(descriptors_ + spare);
      absl::Status status = request();
      Limit(hard_limit_);
      if (status.ok()) break;
      ++times;
      EXPECT_THAT(status, IsError(kUnknown, "too many open files")) << what << " with " << spare;
      refused();
      ExpectUnharmed(absl::StrCat(what, " with ", spare, " descriptors"));
    }
    EXPECT_GT(times, 3) << what;
    EXPECT_LT(times, 40) << what;
  };
  ASSERT_THAT(c.Create(RestoreRequest(c)), IsOk());
  each(
      "restore", [&] { return c.Start().status(); }, [&] { ExpectNotRestored(c); });
  EXPECT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Delete(), IsOk());
  each(
      "create", [&] { return c.Create().status(); },
      [&] { EXPECT_THAT(c.State(), IsError(kNotFound, "")); });
  ASSERT_THAT(c.Start(), IsOk());
  Remember();
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  each(
      "exec", [&] { return c.Start("x").status(); },
      [&] {
        EXPECT_THAT(c.Delete("x"), IsOk());
        ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
      });
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());
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
  auto limit = [&](const char* processes) {
    ASSERT_TRUE(Write(cgroup + "/pids.max", processes).ok());
  };
  auto is_refused = [&](const std::string& before) {
    return IsFailure(before, absl::StrCat("fork/exec ", settings_.runtime,
                                          ": resource temporarily unavailable"));
  };
  limit("1");
  // The first that needs a process is the mount.
  EXPECT_THAT(c.Create(), IsError(kUnknown, "resource temporarily unavailable"));
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  ExpectUnharmed("create");
  limit("max");
  ASSERT_THAT(c.Create(RestoreRequest(c)), IsOk());
  limit("1");
  EXPECT_THAT(c.Start(), is_refused("OCI runtime restore failed: "));
  ExpectNotRestored(c);
  limit("max");
  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  limit("1");
  EXPECT_THAT(c.Start("x"), is_refused("OCI runtime exec failed: "));
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.Kill(SIGTERM), is_refused("unknown error after kill: "));
  EXPECT_EQ(c.State()->status(), kRunning);
  limit("max");
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  limit("1");
  EXPECT_THAT(c.Delete(), is_refused("failed to delete task: "));
  EXPECT_EQ(c.State()->status(), kStopped);
  limit("max");
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
  ASSERT_THAT(c.Create(RestoreRequest(c)), IsOk());
  EXPECT_FALSE(Write(filler, std::string(100'000, 'x')).ok());
  EXPECT_THAT(c.Start(), IsError(kUnknown, "OCI runtime restore failed"));
  ExpectNotRestored(c);
  unlink(filler.c_str());
  EXPECT_THAT(c.Start(), IsOk());
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
  const std::string no_program = c.bundle() + "/config.json";
  const std::map<std::string, std::string> errors = {
      {"binary-v2://" + logger, "logging binary did not call ready"},
      {"binary:///no/such", "no such file or directory"},
      {"binary://" + no_program, "permission denied"}};
  for (const auto& [uri, error] : errors) {
    request.set_stdout(uri);
    EXPECT_THAT(c.Create(request), IsError(kUnknown, error)) << uri;
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
