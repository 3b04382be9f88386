#include <gtest/gtest.h>

#include <new>
#include <vector>

#include "oom/account.h"

namespace feather::oom {
namespace {

class OomAccount : public testing::Test {
 protected:
  OomAccount() { Begin({}, std::nullopt); }

  void Begin(const Counters& now, std::optional<uint64_t> baseline) {
    reports_.clear();
    account_.emplace([this](const Counters& c) { reports_.push_back(c.oom_kill); }, now, baseline);
  }

  void Observe(uint64_t kills, uint64_t groups, Clock::duration later = {}) {
    at_ += later;
    Counters now;
    now.oom_kill = kills;
    now.oom_group_kill = groups;
    account_->Observe(now, at_);
  }

  Clock::time_point at_ = Clock::now();
  std::vector<uint64_t> reports_;
  std::optional<Account> account_;
};

using Reports = std::vector<uint64_t>;
constexpr auto kLater = Account::kGroupWindow + std::chrono::milliseconds(1);

// Checklist: O3.
TEST_F(OomAccount, ReportsEachIncreaseOnceAndNoOtherReading) {
  Observe(0, 0);
  Observe(1, 0);
  Observe(1, 0);
  Observe(3, 0);
  Observe(3, 0);
  EXPECT_EQ(reports_, (Reports{1, 3}));
}

TEST_F(OomAccount, TakesWhatTheCounterSaysAtFirstAsTold) {
  Counters before;
  before.oom_kill = 4;
  Begin(before, std::nullopt);
  Observe(4, 0);
  EXPECT_TRUE(reports_.empty());
  Begin(before, 2);
  Observe(4, 0);
  EXPECT_EQ(reports_, (Reports{4}));
}

TEST_F(OomAccount, AKillInACgroupMadeAnewIsNotHiddenByTheOldOnesCount) {
  Counters before;
  before.oom_kill = 1;
  Begin(before, 7);
  Observe(1, 0);
  EXPECT_TRUE(reports_.empty());
  Observe(2, 0);
  EXPECT_EQ(reports_, (Reports{2}));
}

TEST_F(OomAccount, AGroupKillReadBeforeItsGroupIsCountedIsOne) {
  Observe(1, 0);
  Observe(4, 1);
  Observe(5, 1);
  EXPECT_EQ(reports_, (Reports{1}));
}

TEST_F(OomAccount, AGroupKillReadAfterEachOfItsStepsIsOne) {
  Observe(1, 0);
  Observe(1, 1);
  Observe(2, 1);
  Observe(3, 1);
  EXPECT_EQ(reports_, (Reports{1}));
}

TEST_F(OomAccount, AGroupKillReadInTheMiddleIsOne) {
  Observe(2, 1);
  Observe(4, 1);
  EXPECT_EQ(reports_, (Reports{2}));
}

TEST_F(OomAccount, TwoGroupKillsAreTwo) {
  Observe(3, 1);
  Observe(6, 2);
  EXPECT_EQ(reports_, (Reports{3, 6}));
}

TEST_F(OomAccount, AKillLongAfterAGroupKillIsItsOwn) {
  Observe(3, 1);
  Observe(4, 1, kLater);
  Observe(7, 2, kLater);
  EXPECT_EQ(reports_, (Reports{3, 4, 7}));
}

TEST_F(OomAccount, AGroupKillThatNoCounterShowsIsOneAndAKillLongAfterItIsItsOwn) {
  Observe(1, 0);
  account_->MarkMaybeGroup();
  Observe(2, 0);
  Observe(5, 0);
  EXPECT_EQ(reports_, (Reports{1}));
  Observe(6, 0, kLater);
  Observe(7, 0);
  EXPECT_EQ(reports_, (Reports{1, 6, 7}));
}

TEST_F(OomAccount, KeepsTheLastReading) {
  Observe(3, 1);
  EXPECT_EQ(account_->last().oom_kill, 3u);
  EXPECT_EQ(account_->last().oom_group_kill, 1u);
}

TEST_F(OomAccount, LeavesAKillThatCouldNotBeToldToTheNextReading) {
  int refused = 2;
  Account account(
      [&](const Counters& c) {
        if (refused-- > 0) throw std::bad_alloc();
        reports_.push_back(c.oom_kill);
      },
      {}, std::nullopt);
  Counters now;
  now.oom_kill = 1;
  EXPECT_THROW(account.Observe(now, at_), std::bad_alloc);
  EXPECT_THROW(account.Observe(now, at_), std::bad_alloc);
  EXPECT_TRUE(account.Observe(now, at_));
  EXPECT_FALSE(account.Observe(now, at_));
  EXPECT_EQ(reports_, (Reports{1}));
}

}  // namespace
}  // namespace feather::oom
