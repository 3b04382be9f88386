#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/shim.h"

// OOM kills as containerd sees them: real containers under the real shim. Included by two programs,
// which differ only in the kernel that they need: MemoryController() says where its memory
// controller is mounted.
namespace feather::test {

std::optional<std::string> MemoryController();

// Enough for runc's own init.
inline constexpr int kLimitMiB = 48;
inline constexpr const char* kEater = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null";

class OomShim : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!MemoryController()) GTEST_SKIP() << "this kernel has no such memory controller";
    ctrd_ = std::make_unique<FakeContainerd>();
  }

  void TearDown() override {
    if (ctrd_ == nullptr) return;
    EXPECT_THAT(ctrd_->FindLeftovers(), ::testing::IsEmpty());
    if (HasFailure()) printf("%s\n", ctrd_->log().c_str());
  }

  // With a memory limit.
  static ContainerOptions Limited(const std::string& script) {
    ContainerOptions options;
    options.spec.args = {"sh", "-c", script};
    options.spec.patch = absl::StrCat(R"({"linux": {"resources": {"memory": {"limit": )",
                                      kLimitMiB * (1 << 20), "}}}}");
    return options;
  }

  // The container's kills and exits in order, as "/tasks/oom a" and "/tasks/exit a x 137".
  std::vector<std::string> Ends(const std::string& id) const {
    std::vector<std::string> ends = ctrd_->events().Summaries(id);
    std::erase_if(ends, [](const std::string& line) {
      return !absl::StartsWith(line, "/tasks/oom") && !absl::StartsWith(line, "/tasks/exit");
    });
    return ends;
  }

  bool WaitForOoms(const std::string& id, long count) {
    return ctrd_->loop().RunUntil([&] {
      const std::vector<std::string> ends = Ends(id);
      return std::count(ends.begin(), ends.end(), "/tasks/oom " + id) >= count;
    });
  }

  // Deletes the task and waits for its last event.
  void Remove(Container& container) {
    EXPECT_TRUE(container.KillAndRemove().ok());
    EXPECT_TRUE(ctrd_->WaitForDelete(container.id()));
  }

  std::unique_ptr<FakeContainerd> ctrd_;
};

TEST_F(OomShim, TheKillOfAnInitIsToldOnceAndBeforeItsExit) {
  Container& c = ctrd_->New("init", Limited(absl::StrCat("exec ", kEater)));
  ASSERT_TRUE(c.Run().ok());
  auto exit = c.Wait();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->exit_status(), 137u);
  Remove(c);
  EXPECT_THAT(Ends("init"), ::testing::ElementsAre("/tasks/oom init", "/tasks/exit init 137"));
}

TEST_F(OomShim, TheKillOfAChildIsToldWhileTheInitLives) {
  Container& c = ctrd_->New("child", Limited(absl::StrCat(kEater, "; sleep 1000")));
  ASSERT_TRUE(c.Run().ok());
  EXPECT_TRUE(WaitForOoms("child", 1));
  auto state = c.State();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->status(), containerd::v1::types::RUNNING);
  Remove(c);
  EXPECT_THAT(Ends("child"), ::testing::ElementsAre("/tasks/oom child", "/tasks/exit child 137"));
}

TEST_F(OomShim, TheKillOfAnExecIsToldBeforeItsExit) {
  Container& c = ctrd_->New("exec", Limited("sleep 1000"));
  ASSERT_TRUE(c.Run().ok());
  for (const char* id : {"one", "two"}) {
    ASSERT_TRUE(c.Exec(id, {"sh", "-c", absl::StrCat("exec ", kEater)}).ok());
    ASSERT_TRUE(c.Start(id).ok());
    auto exit = c.Wait(id);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->exit_status(), 137u);
    EXPECT_NE(ctrd_->WaitForExit("exec", id), nullptr);
    EXPECT_TRUE(c.Delete(id).ok());
  }
  Remove(c);
  EXPECT_THAT(Ends("exec"), ::testing::ElementsAre("/tasks/oom exec", "/tasks/exit exec one 137",
                                                   "/tasks/oom exec", "/tasks/exit exec two 137",
                                                   "/tasks/exit exec 137"));
}

TEST_F(OomShim, AnExitByItselfAndAKillBySomebodyAreNotOoms) {
  Container& done = ctrd_->New("done", Limited("exit 7"));
  ASSERT_TRUE(done.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("done", "done"), nullptr);
  Remove(done);
  EXPECT_THAT(Ends("done"), ::testing::ElementsAre("/tasks/exit done 7"));

  Container& killed = ctrd_->New("killed", Limited("sleep 1000"));
  ASSERT_TRUE(killed.Run().ok());
  Remove(killed);
  EXPECT_THAT(Ends("killed"), ::testing::ElementsAre("/tasks/exit killed 137"));
}

}  // namespace feather::test
