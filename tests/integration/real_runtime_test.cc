// The OCI runtime's driver, the reaper and the cgroups of real containers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstring>

#include "absl/strings/numbers.h"
#include "runtime/cgroup.h"
#include "runtime/cgroup_metrics.h"
#include "runtime/oci_runtime.h"
#include "tests/support/mount_namespace.h"
#include "tests/support/runtime_fixture.h"

namespace feather {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

// crun refuses hybrid cgroups, and its 1.8 fails on device rules where cgroup2 is not the machine's
// own.
struct Setting {
  const char* name;
  const char* binary;
  bool (test::MountNamespace::*cgroups)();  // null: the machine's

  friend void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.name; }
};

class RealRuntimeTest : public test::RuntimeFixture, public ::testing::WithParamInterface<Setting> {
 protected:
  void SetUp() override {
    config_.binary = GetParam().binary;
    if (GetParam().cgroups != nullptr) {
      mounts_.emplace();
      if (!(*mounts_.*GetParam().cgroups)())
        GTEST_SKIP() << "no private mount namespace: " << strerror(errno);
    }
    test::MakeRootfs(Path("rootfs"));
    runtime_.emplace(reaper_, config_);
  }

  void TearDown() override {
    if (!runtime_) return;
    absl::Status status = Await(runtime_->Delete(true));
    EXPECT_TRUE(status.ok()) << status;
  }

  void WriteSpec(std::vector<std::string> args) {
    test::SpecOptions options;
    options.args = std::move(args);
    options.root = Path("rootfs");
    options.cgroups_path = absl::StrCat("/", config_.id);
    Write("config.json", test::MakeSpec(options));
  }

  OciRuntime::CreateArgs CreateArgs() const {
    OciRuntime::CreateArgs args;
    args.pid_file = Path("init.pid");
    args.stdio = {-1, out_.writer.get(), out_.writer.get()};
    return args;
  }

  // The process whose pid is in `file`; its exit is in exits_ when it has ended.
  pid_t Watch(const std::string& file) {
    pid_t pid = 0;
    EXPECT_TRUE(absl::SimpleAtoi(Read(file), &pid));
    reaper_.Watch(pid, [this](const Exit& exit) { exits_.push_back(exit); });
    return pid;
  }

  pid_t Create() {
    Reaper::Expectation expectation(reaper_);
    absl::Status status = Await(runtime_->Create(CreateArgs()));
    EXPECT_TRUE(status.ok()) << status;
    return Watch("init.pid");
  }

  pid_t Exec(const std::vector<std::string>& args) {
    Write("process.json", test::MakeProcess(args));
    OciRuntime::ExecArgs exec;
    exec.process_file = Path("process.json");
    exec.pid_file = Path("exec.pid");
    exec.stdio = {-1, out_.writer.get(), out_.writer.get()};
    Reaper::Expectation expectation(reaper_);
    absl::Status status = Await(runtime_->Exec(exec));
    EXPECT_TRUE(status.ok()) << status;
    return Watch("exec.pid");
  }

  // Init has run, and so has used some processor time.
  static void ExpectMetrics(const Cgroup& cgroup) {
    if (cgroup.unified) {
      auto metrics = ReadMetricsV2(cgroup.path);
      ASSERT_TRUE(metrics.ok()) << metrics.status();
      EXPECT_GT(metrics->cpu().usage_usec(), 0u);
    } else {
      auto metrics = ReadMetricsV1(cgroup);
      ASSERT_TRUE(metrics.ok()) << metrics.status();
      EXPECT_GT(metrics->cpu().usage().total(), 0u);
      EXPECT_EQ(metrics->pids().current(), 2u);
      EXPECT_GT(metrics->memory().usage().usage(), 0u);
    }
  }

  bool AwaitExits(size_t count) {
    return loop_.RunUntil([&] { return exits_.size() >= count; });
  }

  std::optional<test::MountNamespace> mounts_;
  test::Pipe out_;
  std::optional<OciRuntime> runtime_;
  std::vector<Exit> exits_;
};

TEST_P(RealRuntimeTest, RunsAContainerFromCreateToDelete) {
  WriteSpec({"sh", "-c", "echo hello; exec sleep 1000"});
  pid_t init = Create();
  absl::Status started = Await(runtime_->Start());
  ASSERT_TRUE(started.ok()) << started;
  char buffer[6] = {};
  ASSERT_EQ(read(out_.reader.get(), buffer, sizeof(buffer)), 6);
  EXPECT_EQ(absl::string_view(buffer, 6), "hello\n");

  auto cgroup = FindCgroup(init);
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_THAT(*CgroupPids(*cgroup), ElementsAre(init));
  pid_t exec = Exec({"sleep", "1000"});
  EXPECT_THAT(*CgroupPids(*cgroup), UnorderedElementsAre(init, exec));

  EXPECT_TRUE(Await(runtime_->Pause()).ok());
  EXPECT_TRUE(Await(runtime_->Resume()).ok());
  ExpectMetrics(*cgroup);
  // The private view of cgroup2 has no controllers.
  if (!cgroup->unified) {
    absl::Status updated = Await(runtime_->Update(R"({"memory":{"limit":67108864}})"));
    EXPECT_TRUE(updated.ok()) << updated;
    EXPECT_EQ(*ReadFile(cgroup->controllers["memory"] + "/memory.limit_in_bytes"), "67108864\n");
  }

  kill(exec, SIGKILL);
  ASSERT_TRUE(AwaitExits(1));
  EXPECT_EQ(exits_[0].pid, exec);
  EXPECT_TRUE(Await(runtime_->Kill(SIGKILL, false)).ok());
  ASSERT_TRUE(AwaitExits(2));
  EXPECT_EQ(exits_[1].pid, init);
  EXPECT_EQ(exits_[1].status, 128u + SIGKILL);
  EXPECT_FALSE(FindCgroup(init).ok());

  absl::Status deleted = Await(runtime_->Delete(false));
  EXPECT_TRUE(deleted.ok()) << deleted;
  deleted = Await(runtime_->Delete(false));
  EXPECT_TRUE(deleted.ok()) << deleted;
  EXPECT_TRUE(absl::IsNotFound(CgroupPids(*cgroup).status()));
  EXPECT_THAT(test::Children(), ElementsAre());
}

TEST_P(RealRuntimeTest, AnswersNotFoundToAKillOfWhatHasEnded) {
  WriteSpec({"true"});
  Create();
  ASSERT_TRUE(Await(runtime_->Start()).ok());
  ASSERT_TRUE(AwaitExits(1));
  EXPECT_EQ(exits_[0].status, 0u);
  absl::Status stopped = Await(runtime_->Kill(SIGKILL, false));
  EXPECT_EQ(stopped.message(), "process already finished: not found");
  EXPECT_TRUE(absl::IsNotFound(stopped));
  absl::Status all = Await(runtime_->Kill(SIGKILL, true));
  EXPECT_TRUE(all.ok() || absl::IsNotFound(all)) << all;
  EXPECT_TRUE(Await(runtime_->Delete(false)).ok());
  absl::Status deleted = Await(runtime_->Kill(SIGKILL, true));
  EXPECT_EQ(deleted.message(), "no such container: not found");
  EXPECT_TRUE(absl::IsNotFound(deleted));
}

TEST_P(RealRuntimeTest, SeesTheExitOfAProcessThatEndsBeforeItsRuntimeReturns) {
  WriteSpec({"sleep", "1000"});
  Create();
  ASSERT_TRUE(Await(runtime_->Start()).ok());
  for (size_t i = 1; i <= 10; ++i) {
    pid_t pid = Exec({"sh", "-c", "exit 7"});
    ASSERT_TRUE(AwaitExits(i));
    EXPECT_EQ(exits_.back().pid, pid);
    EXPECT_EQ(exits_.back().status, 7u);
  }
}

TEST_P(RealRuntimeTest, ExplainsACommandThatIsNotInTheContainer) {
  WriteSpec({"/no/such/program"});
  absl::Status status = Await(runtime_->Create(CreateArgs()));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_THAT(Text(status), StartsWith("OCI runtime create failed: "));
  EXPECT_THAT(Text(status), HasSubstr("/no/such/program"));
  EXPECT_THAT(Text(status), Not(HasSubstr("exit status")));
}

TEST_P(RealRuntimeTest, ExplainsABrokenSpec) {
  Write("config.json", "{\"ociVersion\": nonsense");
  absl::Status status = Await(runtime_->Create(CreateArgs()));
  EXPECT_THAT(Text(status), StartsWith("OCI runtime create failed: "));
  EXPECT_THAT(Text(status), Not(HasSubstr("exit status")));
}

TEST_P(RealRuntimeTest, ExplainsAMissingContainer) {
  absl::Status status = Await(runtime_->Start());
  EXPECT_THAT(Text(status), StartsWith("OCI runtime start failed: "));
  EXPECT_THAT(Text(status), Not(HasSubstr("exit status")));
}

INSTANTIATE_TEST_SUITE_P(
    Runtimes, RealRuntimeTest,
    ::testing::Values(Setting{"runc", "runc", nullptr},
                      Setting{"runc_cgroup2", "runc", &test::MountNamespace::ShowCgroup2},
                      Setting{"crun_cgroup1", "crun", &test::MountNamespace::ShowCgroup1}),
    [](const auto& parameter) { return std::string(parameter.param.name); });

}  // namespace
}  // namespace feather
