// The event stream towards a containerd that is slow, refuses, or goes away.

#include <signal.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Events : public ShimTest {};

// Checklist: P1.
TEST_F(Events, CarryTypeNamespaceAndTimeOfWhatHappened) {
  absl::Time begin = absl::Now();
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"true"}), IsOk());
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  const std::map<std::string, std::string> types = {
      {"/tasks/create", "containerd.events.TaskCreate"},
      {"/tasks/start", "containerd.events.TaskStart"},
      {"/tasks/exec-added", "containerd.events.TaskExecAdded"},
      {"/tasks/exit", "containerd.events.TaskExit"},
      {"/tasks/delete", "containerd.events.TaskDelete"}};
  EXPECT_THAT(ctrd().events().events(), SizeIs(types.size()));
  for (const RecordedEvent& event : ctrd().events().events()) {
    ASSERT_TRUE(types.contains(event.topic)) << event.topic;
    EXPECT_EQ(event.type, types.at(event.topic));
    EXPECT_EQ(event.name_space, ctrd().name_space());
    EXPECT_GE(event.timestamp, begin) << event.topic;
    EXPECT_LE(event.timestamp, absl::Now());
  }
}

TEST_F(Events, TellOfTheCreationWhatTheRequestSaid) {
  Container& c = New("a");
  auto request = c.CreateRequest();
  auto pid = c.Create(request);
  ASSERT_THAT(pid, IsOk());
  auto created = [](const RecordedEvent& event) { return event.topic == "/tasks/create"; };
  ASSERT_TRUE(ctrd().WaitForEvent(created));
  auto event = ctrd().events().Find(created)->As<containerd::events::TaskCreate>();
  EXPECT_EQ(event.container_id(), "a");
  EXPECT_EQ(event.bundle(), c.bundle());
  EXPECT_EQ(event.pid(), *pid);
  EXPECT_EQ(event.io().stdout(), request.stdout());
  EXPECT_EQ(event.io().stderr(), request.stderr());
  EXPECT_EQ(event.io().stdin(), "");
  EXPECT_FALSE(event.io().terminal());
  EXPECT_EQ(event.checkpoint(), "");
  ASSERT_EQ(event.rootfs_size(), 1);
  EXPECT_EQ(event.rootfs(0).SerializeAsString(), request.rootfs(0).SerializeAsString());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Events, ArriveOneAfterTheOtherWhenContainerdIsSlow) {
  ctrd().events().SetDelay(std::chrono::milliseconds(30));
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  for (int i = 0; i < 5; ++i) {
    std::string exec = absl::StrCat("x", i);
    ASSERT_THAT(c.Exec(exec, {"true"}), IsOk());
    ASSERT_THAT(c.Start(exec), IsOk());
    ASSERT_THAT(c.Wait(exec), IsOk());
    ASSERT_THAT(c.Delete(exec), IsOk());
  }
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_EQ(ctrd().events().most_in_flight(), 1);
  std::vector<std::string> expected = {"/tasks/create a", "/tasks/start a"};
  for (int i = 0; i < 5; ++i) {
    expected.push_back(absl::StrCat("/tasks/exec-added a x", i));
    expected.push_back(absl::StrCat("/tasks/exec-started a x", i));
    expected.push_back(absl::StrCat("/tasks/exit a x", i, " 0"));
  }
  expected.push_back("/tasks/exit a 137");
  expected.push_back("/tasks/delete a 137");
  EXPECT_EQ(ctrd().events().Summaries(), expected);
}

// Checklist: O9.
TEST_F(Events, WaitInOrderWhileContainerdIsAwayAndNothingElseDoes) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_TRUE(ctrd().WaitForEvent([](auto& event) { return event.topic == "/tasks/start"; }));
  ctrd().events().Stop();
  for (int i = 0; i < 10; ++i) {
    std::string exec = absl::StrCat("x", i);
    ASSERT_THAT(c.Exec(exec, {"true"}), IsOk());
    ASSERT_THAT(c.Start(exec), IsOk());
    ASSERT_THAT(c.Wait(exec), IsOk());
    ASSERT_THAT(c.Delete(exec), IsOk());
  }
  EXPECT_THAT(ctrd().events().events(), SizeIs(2));
  absl::Time back = absl::Now();
  ctrd().events().Start();
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  const auto& events = ctrd().events().events();
  ASSERT_THAT(events, SizeIs(2 + 3 * 10 + 2));
  for (size_t i = 0; i < 10; ++i) {
    std::string exec = absl::StrCat("x", i);
    EXPECT_EQ(events[2 + 3 * i].Summary(), "/tasks/exec-added a " + exec);
    EXPECT_EQ(events[3 + 3 * i].Summary(), "/tasks/exec-started a " + exec);
    EXPECT_EQ(events[4 + 3 * i].Summary(), "/tasks/exit a " + exec + " 0");
    EXPECT_LT(events[4 + 3 * i].timestamp, back) << "the event's time, not the sending's";
  }
}

TEST_F(Events, ARefusedOneHoldsNothingUp) {
  ctrd().events().SetRefusal(absl::InvalidArgumentError("no such topic"));
  Container& c = New("a", Shell("exit 0"));
  ASSERT_THAT(c.Create(), IsOk());
  ASSERT_TRUE(RunUntil([&] { return ctrd().events().refused().size() == 1; }));
  ctrd().events().SetRefusal(absl::OkStatus());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(ctrd().events().Summaries(),
              ElementsAre("/tasks/start a", "/tasks/exit a 0", "/tasks/delete a 0"));
  EXPECT_THAT(ctrd().events().refused(), SizeIs(1));
}

TEST_F(Events, OneThatIsUnavailableIsSentAgain) {
  ctrd().events().SetRefusal(absl::UnavailableError("starting up"));
  Container& c = New("a", Shell("exit 0"));
  ASSERT_THAT(c.Create(), IsOk());
  ASSERT_TRUE(RunUntil([&] { return !ctrd().events().refused().empty(); }));
  ctrd().events().SetRefusal(absl::OkStatus());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(ctrd().events().Summaries(), ElementsAre("/tasks/create a", "/tasks/start a",
                                                       "/tasks/exit a 0", "/tasks/delete a 0"));
}

// Checklist: P6.
TEST_F(Events, AreAllSentBeforeAShutDownShimEnds) {
  ctrd().events().SetDelay(std::chrono::milliseconds(200));
  Container& c = New("a", Shell("exit 0"));
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  ASSERT_THAT(c.Remove(), IsOk());
  EXPECT_TRUE(ctrd().WaitForDelete("a"));
}

// Checklist: G5.
TEST_F(Events, AShimEndsEvenIfContainerdNeverComesBack) {
  ctrd().events().Stop();
  Container& c = New("a", Shell("exit 0"));
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(c.shim_pid()).has_value(); }));
}

}  // namespace
}  // namespace feather::test
