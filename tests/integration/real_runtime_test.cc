// The OCI runtime's driver, the reaper and the cgroups of real containers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/numbers.h"
#include "runtime/cgroup.h"
#include "runtime/oci_runtime.h"
#include "tests/support/runtime_fixture.h"

namespace feather {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

class RealRuntimeTest : public test::RuntimeFixture,
                        public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    config_.binary = GetParam();
    if (config_.binary == "crun" && !test::HideUnifiedCgroup())
      GTEST_SKIP() << "no private mount namespace for crun, which refuses hybrid cgroups";
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
    Write("config.json", test::MakeSpec(options).dump());
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
    Write("process.json", test::MakeProcess(args).dump());
    OciRuntime::ExecArgs exec;
    exec.process_file = Path("process.json");
    exec.pid_file = Path("exec.pid");
    exec.stdio = {-1, out_.writer.get(), out_.writer.get()};
    Reaper::Expectation expectation(reaper_);
    absl::Status status = Await(runtime_->Exec(exec));
    EXPECT_TRUE(status.ok()) << status;
    return Watch("exec.pid");
  }

  bool AwaitExits(size_t count) {
    return loop_.RunUntil([&] { return exits_.size() >= count; });
  }

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
  absl::Status updated = Await(runtime_->Update(R"({"memory":{"limit":67108864}})"));
  EXPECT_TRUE(updated.ok()) << updated;
  if (!cgroup->unified) {
    EXPECT_EQ(*ReadFile(cgroup->controllers["memory"] + "/memory.limit_in_bytes"), "67108864\n");
  }

  kill(exec, SIGKILL);
  ASSERT_TRUE(AwaitExits(1));
  EXPECT_EQ(exits_[0].pid, exec);
  EXPECT_TRUE(Await(runtime_->Kill(SIGKILL, false)).ok());
  ASSERT_TRUE(AwaitExits(2));
  EXPECT_EQ(exits_[1].pid, init);
  EXPECT_EQ(exits_[1].status, 128u + SIGKILL);
  EXPECT_TRUE(absl::IsNotFound(FindCgroup(init).status()));

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

INSTANTIATE_TEST_SUITE_P(Runtimes, RealRuntimeTest, ::testing::Values("runc", "crun"),
                         [](const auto& parameter) { return std::string(parameter.param); });

}  // namespace
}  // namespace feather
