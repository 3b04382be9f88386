// A memory limit of the shim's own cgroup (the option ShimCgroup, or containerd's unit). malloc(3)
// never fails for that: the kernel's OOM killer takes the largest process of the cgroup, the OCI
// runtime or the shim.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

constexpr uint64_t kMib = 1 << 20;

class OutOfMemory : public WitnessTest {
 protected:
  void SetUp() override {
    root_ = Cgroup1MemoryRoot();
    if (!root_) root_ = Cgroup2MemoryRoot();
    if (!root_) GTEST_SKIP() << "no memory controller here";
    // An OCI runtime that needs much memory, if it is told to.
    settings_.runtime = WriteRuntime(
        "runtime",
        absl::StrCat("[ -e ", hungry(), " ] && exec dd if=/dev/zero of=/dev/null bs=1G count=1\n",
                     "exec runc \"$@\"\n"));
  }
  std::string hungry() const { return directory_.path() + "/hungry"; }
  // The shim has it to itself; what it holds already is charged elsewhere.
  MemoryCgroup& MoveTheShim() {
    cgroup_ = std::make_unique<MemoryCgroup>(*root_, ctrd().name() + "-shim");
    cgroup_->Write("cgroup.procs", absl::StrCat(shim_));
    return *cgroup_;
  }
  uint64_t Kills() const {
    return cgroup_->Value("memory.oom_control", "oom_kill") +
           cgroup_->Value("memory.events", "oom_kill");
  }
  void RemoveCgroup() {
    EXPECT_TRUE(RunUntil([&] { return cgroup_->Remove(); }));
    cgroup_.reset();
  }

  TestDirectory directory_;
  std::optional<std::string> root_;
  std::unique_ptr<MemoryCgroup> cgroup_;
};

TEST_F(OutOfMemory, ARuntimeThatIsKilledForItIsAnErrorAndTheRequestCanBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  MoveTheShim().Limit(32 * kMib);
  Remember();
  uint64_t kills = 0;
  auto hunger = [&] { ASSERT_THAT(WriteFile(hungry(), "", 0644), IsOk()); };
  // Its error, and the shim has lost nothing.
  auto refused = [&](const std::string& what, const absl::Status& status) {
    EXPECT_EQ(unlink(hungry().c_str()), 0);
    EXPECT_THAT(status, IsError(kUnknown, "137")) << what;
    EXPECT_GT(Kills(), kills) << what;
    kills = Kills();
    ExpectUnharmed(what);
  };

  hunger();
  refused("create", c.Create().status());
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  ASSERT_THAT(c.Create(), IsOk());
  Remember();
  hunger();
  refused("start", c.Start().status());
  ASSERT_THAT(c.Start(), IsOk());

  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  hunger();
  refused("exec", c.Start("x").status());
  EXPECT_THAT(c.Delete("x"), IsOk());
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());

  hunger();
  refused("kill", c.Kill(SIGKILL));
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  // Not told to be OOM-killed: it was not.
  EXPECT_EQ(c.Wait()->exit_status(), 128u + SIGKILL);
  Remember();
  hunger();
  refused("delete", c.Delete().status());
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("witness"));
  for (const RecordedEvent& event : ctrd().events().events())
    EXPECT_NE(event.topic, "/tasks/oom") << "it was the OCI runtime that was killed";
  RemoveCgroup();
}

TEST_F(OutOfMemory, AShimThatIsKilledForItIsCleanedUpAfterAndTheContainersStartAnew) {
  StartWitness();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Run(), IsOk());
  Container& other = New("other");
  ASSERT_THAT(other.Run(), IsOk());
  ASSERT_NE(other.shim_pid(), shim_);
  MoveTheShim().Limit(kMib);
  // It reads the request of a peer, which may be as long as this, before it can refuse it.
  auto exec = c.ExecRequest("x", {"true"});
  std::string spec = exec.spec().value();
  exec.mutable_spec()->set_value(
      absl::StrCat("{\"x\":\"", std::string(3'500'000, 'x'), "\",", absl::StripPrefix(spec, "{")));
  EXPECT_FALSE(c.Exec(exec).ok());
  ASSERT_TRUE(RunUntil([&] { return ctrd().ExitOf(shim_).has_value(); }));
  EXPECT_TRUE(WIFSIGNALED(*ctrd().ExitOf(shim_)) && WTERMSIG(*ctrd().ExitOf(shim_)) == SIGKILL);
  ctrd().ForgiveShim(shim_);
  EXPECT_GT(Kills(), 0u);
  RemoveCgroup();
  // What containerd does then.
  for (Container* of_it : {&c, witness_}) {
    of_it->Disconnect();
    auto deleted = of_it->RunDelete();
    EXPECT_EQ(deleted.helper.exit_code, 0) << deleted.helper.err;
    EXPECT_EQ(deleted.response.exit_status(), 128u + SIGKILL);
    EXPECT_THAT(of_it->RemoveBundle(), IsOk());
  }
  EXPECT_EQ(other.State()->status(), containerd::v1::types::RUNNING);
  EXPECT_THAT(other.KillAndRemove(), IsOk());
  Container& again = New("a");
  EXPECT_THAT(again.Run(), IsOk());
  EXPECT_THAT(again.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
