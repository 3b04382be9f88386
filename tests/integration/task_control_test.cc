// Pause, Resume, Update and Stats with the OCI runtimes of this machine.
#include <signal.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/cgroups_v1.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/cgroup.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using containerd::v1::types::PAUSED;
using containerd::v1::types::RUNNING;
using Metrics = io::containerd::cgroups::v1::Metrics;

class Control : public RuntimeTest {
 protected:
  absl::Status Update(Container& c, const std::string& resources) {
    task::UpdateTaskRequest request;
    request.set_id(c.id());
    request.mutable_resources()->set_value(resources);
    return c.Call<google::protobuf::Empty>("Update", request).status();
  }
  absl::StatusOr<Metrics> Stats(Container& c) {
    task::StatsRequest request;
    request.set_id(c.id());
    ASSIGN_OR_RETURN(auto response, c.Call<task::StatsResponse>("Stats", request));
    Metrics metrics;
    if (response.stats().type_url() != metrics.GetTypeName() ||
        !metrics.ParseFromString(response.stats().value()))
      return absl::UnknownError(response.stats().type_url());
    return metrics;
  }
  // Of the container's freezer.
  std::string FreezerFile(Container& c) {
    auto cgroup = FindCgroup(static_cast<pid_t>(c.State()->pid()));
    if (!cgroup.ok()) return cgroup.status().ToString();
    return cgroup->unified ? cgroup->path + "/cgroup.freeze"
                           : cgroup->controllers["freezer"] + "/freezer.state";
  }
  std::string Freezer(Container& c) { return ReadFile(FreezerFile(c)).value_or(""); }
};
INSTANTIATE_TEST_SUITE_P(Runtimes, Control, kRuntimes, RuntimeName);

// Checklist: R1.
TEST_P(Control, PauseFreezesTheContainerAndResumeThawsIt) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Pause(), IsOk());
  EXPECT_EQ(c.State()->status(), PAUSED);
  // crun does not wait for cgroup1, which says FREEZING meanwhile.
  EXPECT_TRUE(RunUntil([&] { return Freezer(c) == "FROZEN\n" || Freezer(c) == "1\n"; }))
      << Freezer(c);
  ASSERT_THAT(c.Resume(), IsOk());
  EXPECT_EQ(c.State()->status(), RUNNING);
  EXPECT_THAT(Freezer(c), ::testing::AnyOf("THAWED\n", "0\n"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(ctrd().events().Summaries("a"),
              ::testing::IsSupersetOf({"/tasks/paused a", "/tasks/resumed a"}));
}

// A process that has not the processor does not stand still at once: nobody may take the container
// for one that runs, or it could not be resumed any more.
TEST_P(Control, APauseThatIsKilledWhileTheProcessesFreezeIsOne) {
  settings_.runtime = WriteRuntime("killed-while-freezing", absl::StrCat(R"sh(
case " $* " in *' pause '*)
  [ -e "$0.seen" ] || { touch "$0.seen"; cat "$0.what" > "$(cat "$0.freezer")"; kill -KILL $$; };;
esac
exec )sh",
                                                                         GetParam(), " \"$@\"\n"));
  Container& c = New("a", Shell("for i in 1 2 3 4 5 6 7 8; do while :; do :; done & done; wait"));
  ASSERT_THAT(c.Run(), IsOk());
  const std::string file = FreezerFile(c);
  const bool unified = absl::EndsWith(file, "cgroup.freeze");
  ASSERT_THAT(WriteFile(settings_.runtime + ".freezer", file, 0600), IsOk());
  ASSERT_THAT(WriteFile(settings_.runtime + ".what", unified ? "1" : "FROZEN", 0600), IsOk());
  EXPECT_THAT(c.Pause(), IsError(kUnknown, "exit status 137"));
  EXPECT_EQ(c.State()->status(), PAUSED);
  EXPECT_THAT(c.Resume(), IsOk());
  EXPECT_EQ(c.State()->status(), RUNNING);
  EXPECT_THAT(Freezer(c), ::testing::AnyOf("THAWED\n", "0\n"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: R3, R5.
TEST_P(Control, UpdateChangesTheLimitsThatStatsTells) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  auto before = Stats(c);
  if (!before.ok()) {
    EXPECT_THAT(c.KillAndRemove(), IsOk());
    GTEST_SKIP() << "no cgroup1 here: " << before.status();
  }
  EXPECT_GT(before->memory().usage().usage(), 0u);
  // Threads count, and until it has executed the init is the OCI runtime.
  EXPECT_TRUE(RunUntil([&] { return Stats(c)->pids().current() == 1; }));
  ASSERT_THAT(Update(c, R"({"memory": {"limit": 67108864, "swap": null},
                            "pids": {"limit": 77}, "cpu": {"shares": 512}})"),
              IsOk());
  auto after = Stats(c);
  ASSERT_THAT(after, IsOk());
  EXPECT_EQ(after->memory().usage().limit(), 67108864u);
  EXPECT_EQ(after->pids().limit(), 77u);
  EXPECT_THAT(Update(c, "[]"), IsError(kInvalidArgument, "resources"));
  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  ASSERT_THAT(c.Delete(), IsOk());
  EXPECT_THAT(Stats(c), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

}  // namespace
}  // namespace feather::test
