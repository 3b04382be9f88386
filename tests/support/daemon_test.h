#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/daemon.h"

namespace feather::test {

// A test with each of the daemons. Nothing may be left behind at its end.
class DaemonTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string reason = Daemon::Unavailable(GetParam());
    if (!reason.empty()) GTEST_SKIP() << reason;
    daemon_ = std::make_unique<Daemon>(GetParam());
    ASSERT_TRUE(daemon_->Start()) << daemon_->Log();
    daemon_->FollowEvents();
  }

  void TearDown() override {
    if (daemon_ == nullptr) return;
    EXPECT_THAT(daemon_->Leftovers(), ::testing::IsEmpty());
    EXPECT_TRUE(daemon_->Stop());
    EXPECT_THAT(daemon_->Leftovers(), ::testing::IsEmpty());
    if (HasFailure()) daemon_->PrintLog();
  }

  // The events of one container, topics with ids, are these in this order, now or soon. The stock
  // shim of containerd 2.x may end before it has sent its last one, so there a /tasks/delete at the
  // end may be missing; feather's must not.
  void ExpectEvents(const std::string& id, std::vector<std::string> expected) {
    const auto events_now = [&] {
      std::vector<std::string> found;
      for (const DaemonEvent& event : daemon_->TaskEvents(id)) found.push_back(event.Summary());
      return found;
    };
    if (!Daemon::TestsFeather() && expected.back() == "/tasks/delete " + id) {
      EXPECT_TRUE(daemon_->WaitEvent(expected[expected.size() - 2]));
      if (events_now().size() < expected.size()) expected.pop_back();
    }
    daemon_->WaitEvents([&](const auto&) { return events_now().size() >= expected.size(); });
    EXPECT_EQ(events_now(), expected);
  }

  // The exit status in the last event of that topic.
  std::string ExitStatus(const std::string& id, const std::string& topic = "/tasks/exit") const {
    std::string status = "none";
    for (const DaemonEvent& event : daemon_->TaskEvents(id)) {
      if (event.topic != topic) continue;
      status = event.Field("exit_status");
      if (status.empty()) status = "0";
    }
    return status;
  }

  // A container has ended while containerd was away: what it ended with can be had, and is taken
  // here. (From 1.7 on containerd deletes, when it starts, a task without processes, which is what
  // a stopped one is with the stock shim.)
  void ExpectExited(const std::string& id, const std::string& status) const {
    const bool kept = Daemon::TestsFeather() || daemon_->suite() == "bookworm";
    std::string state;
    EXPECT_TRUE(Eventually([&] {
      state = daemon_->TaskStatus(id);
      return state == "STOPPED" || (state.empty() && !kept);
    })) << id
        << " is " << state;
    if (!state.empty()) {
      EXPECT_THAT(daemon_->Ctr({"task", "delete", id}).err,
                  ::testing::HasSubstr("exit code " + status));
    }
    EXPECT_EQ(daemon_->Ctr({"container", "delete", id}).code, 0);
  }

  std::unique_ptr<Daemon> daemon_;
};

#define FEATHER_EVERY_DAEMON(test)                                                  \
  INSTANTIATE_TEST_SUITE_P(Containerd, test, ::testing::ValuesIn(Daemon::Suites()), \
                           [](const auto& suite) { return suite.param; })

}  // namespace feather::test
