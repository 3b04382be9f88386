// On a cgroup tree of plain files.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "oom/cgroupfs.h"
#include "oom/siblings.h"
#include "runtime/base/file.h"

namespace feather::oom {
namespace {

namespace fs = std::filesystem;

class OomSiblings : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "feather-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    parent_ = pattern;
    Kills("", 0);
    Kills("ours", 0);
    Kills("other", 0);
    siblings_.emplace((parent_ / "ours").string());
    Remember(*siblings_);
  }
  void TearDown() override { fs::remove_all(parent_); }

  void Kills(const std::string& name, uint64_t count) {
    fs::create_directories(parent_ / name);
    ASSERT_TRUE(WriteFile((parent_ / name / "memory.events").string(),
                          absl::StrCat("low 0\nhigh 0\nmax 9\noom 9\noom_kill ", count,
                                       "\noom_group_kill 0\n"),
                          0644)
                    .ok());
  }
  void Remove(const std::string& name) { fs::remove_all(parent_ / name); }
  // In the watch's order.
  std::optional<uint64_t> LastCount(Clock::duration later = std::chrono::seconds(1)) {
    Remember(*siblings_, later);
    return siblings_->LastCount();
  }
  // A second after the one before.
  void Remember(Siblings& siblings, Clock::duration later = std::chrono::seconds(1)) {
    now_ += later;
    siblings.Remember(ParseCounters(ReadPath(parent_ / "memory.events").text).oom_kill, now_);
  }

  Clock::time_point now_;
  fs::path parent_;
  std::optional<Siblings> siblings_;
};

TEST_F(OomSiblings, NoKillInTheParentIsNone) {
  Remove("ours");
  EXPECT_EQ(LastCount(), 0u);
}

TEST_F(OomSiblings, WhatNoSiblingAccountsForWasOurs) {
  Kills("ours", 1);
  Kills("", 1);
  Remember(*siblings_);
  Kills("", 4);
  Kills("other", 1);
  Remove("ours");
  EXPECT_EQ(LastCount(), 3u);
}

TEST_F(OomSiblings, AKillOfASiblingIsNotOurs) {
  Kills("", 1);
  Kills("other", 1);
  Remove("ours");
  EXPECT_EQ(LastCount(), 0u);
}

TEST_F(OomSiblings, AKillOfASiblingThatIsNewIsNotOurs) {
  Kills("", 1);
  Kills("new", 1);
  Remove("ours");
  EXPECT_EQ(LastCount(), 0u);
}

TEST_F(OomSiblings, ASiblingThatIsGoneMakesADoubt) {
  Kills("", 1);
  Remove("other");
  Remove("ours");
  EXPECT_EQ(LastCount(), std::nullopt);
}

TEST_F(OomSiblings, ASiblingThatIsGoneWithoutAnyKillMakesNoDoubtLater) {
  Remove("other");
  Kills("third", 0);
  Remember(*siblings_);
  Kills("", 1);
  Kills("ours", 1);
  Remember(*siblings_);
  Kills("", 2);
  Remove("ours");
  EXPECT_EQ(LastCount(), 2u);
}

// All of them have a watch, and would all be read by each.
TEST_F(OomSiblings, ManySiblingsAreNotReadAtEachKillAndThenThereMayBeADoubt) {
  for (int i = 0; i < 98; ++i) Kills(absl::StrCat("more", i), 0);
  Kills("", 1);
  Kills("ours", 1);
  Remember(*siblings_);
  Kills("", 3);
  Kills("other", 2);
  Remember(*siblings_);
  Siblings copy = *siblings_;
  EXPECT_EQ(copy.LastCount(), 1u);
  // Ours, or that of one which came and went.
  Kills("", 4);
  Remove("ours");
  EXPECT_EQ(LastCount(), std::nullopt);
}

// What Remember leaves out once the cgroup is gone, LastCount reads itself.
TEST_F(OomSiblings, TheLastOfManySiblingsReadingsIsNotLeftOut) {
  for (int i = 0; i < 98; ++i) Kills(absl::StrCat("more", i), 0);
  Kills("", 1);
  Kills("ours", 1);
  Remember(*siblings_);
  Kills("", 2);
  Remove("ours");
  EXPECT_EQ(LastCount(std::chrono::milliseconds(1)), 2u);
}

TEST_F(OomSiblings, ManySiblingsAreReadAgainAfterAPause) {
  for (int i = 0; i < 98; ++i) Kills(absl::StrCat("more", i), 0);
  Kills("", 1);
  Kills("ours", 1);
  Remember(*siblings_);
  Kills("", 2);
  Remove("other");
  Remember(*siblings_, std::chrono::seconds(3));
  Kills("", 3);
  Remove("ours");
  EXPECT_EQ(LastCount(), 2u);
}

TEST_F(OomSiblings, ASiblingMadeAgainMakesADoubt) {
  Kills("other", 2);
  Kills("", 2);
  Remember(*siblings_);
  Kills("", 3);
  Kills("other", 1);
  Remove("ours");
  EXPECT_EQ(LastCount(), std::nullopt);
}

TEST_F(OomSiblings, CannotTellWithoutTheParent) {
  Kills("ours", 2);
  Kills("", 2);
  Remember(*siblings_);
  fs::remove_all(parent_);
  EXPECT_EQ(LastCount(), std::nullopt);
}

TEST_F(OomSiblings, CannotTellOfACgroupThatNeverWas) {
  Siblings never((parent_ / "never").string());
  Remember(never);
  Kills("", 5);
  EXPECT_EQ(never.LastCount(), std::nullopt);
}

TEST(Cgroupfs, ReadsCountersAmongKeysOfOtherKernels) {
  Counters c = ParseCounters("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\nnew 7\n");
  EXPECT_EQ(c.low, 1u);
  EXPECT_EQ(c.high, 2u);
  EXPECT_EQ(c.max, 3u);
  EXPECT_EQ(c.oom, 4u);
  EXPECT_EQ(c.oom_kill, 5u);
  EXPECT_EQ(c.oom_group_kill, 6u);
}

TEST(Cgroupfs, SkipsLinesThatAreNotAKeyAndANumber) {
  EXPECT_EQ(ParseCounters("").oom_kill, 0u);
  EXPECT_EQ(ParseCounters("\n\noom_kill\noom_kill x\noom_kill -1\n oom_kill 3").oom_kill, 0u);
  EXPECT_EQ(ParseCounters("oom_kill_disable 1\nunder_oom 0\noom_kill 2").oom_kill, 2u);
}

}  // namespace
}  // namespace feather::oom
