// The figures of a cgroup2 with all of its controllers, field by field, beside those of the stock
// shims.
#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "proto/cgroups_v2.pb.h"
#include "runtime/cgroup.h"
#include "runtime/cgroup_metrics.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/oracle.h"

namespace feather::test {
namespace {

namespace v2 = io::containerd::cgroups::v2;

class StatsOracle : public Oracle {
 protected:
  void SetUp() override {
    if (!Cgroup2MemoryRoot()) GTEST_SKIP() << "this kernel has no cgroup2 memory controller";
    Oracle::SetUp();
  }
};
INSTANTIATE_TEST_SUITE_P(Debian, StatsOracle, kSuites, SuiteName);

// What the stock shim of that series does not know of yet, or has in no order.
void ForgetWhatIsNew(Series daemon, v2::Metrics& metrics) {
  std::sort(metrics.mutable_hugetlb()->begin(), metrics.mutable_hugetlb()->end(),
            [](const v2::HugeTlbStat& a, const v2::HugeTlbStat& b) {
              return a.pagesize() < b.pagesize();
            });
  metrics.mutable_cpu()->clear_nr_bursts();
  metrics.mutable_cpu()->clear_burst_usec();
  if (metrics.has_memory_events()) metrics.mutable_memory_events()->clear_oom_group_kill();
  if (daemon >= Series::k2_1) return;
  metrics.mutable_cpu()->clear_psi();
  metrics.mutable_memory()->clear_psi();
  metrics.mutable_io()->clear_psi();
  metrics.mutable_memory()->clear_max_usage();
  metrics.mutable_memory()->clear_swap_max_usage();
  for (v2::HugeTlbStat& size : *metrics.mutable_hugetlb()) size.clear_failcnt();
}

// A container that has used memory, processors and files.
ContainerOptions Busy() {
  ContainerOptions options;
  options.spec.args = {"sh", "-c",
                       "i=0; while [ $i -lt 500 ]; do i=$((i+1)); done; "
                       "dd if=/dev/zero of=/f bs=64k count=16 2>&1; rm /f; sleep 1000"};
  options.spec.patch = R"({"linux": {"resources": {"memory": {"limit": 67108864},
      "pids": {"limit": 32}, "cpu": {"quota": 50000, "period": 100000, "shares": 512}}}})";
  return options;
}

absl::StatusOr<v2::Metrics> Stats(Container& c) {
  task::StatsRequest request;
  request.set_id(c.id());
  auto stats = c.Call<task::StatsResponse>("Stats", request);
  if (!stats.ok()) return stats.status();
  v2::Metrics metrics;
  EXPECT_EQ(stats->stats().type_url(), metrics.GetTypeName());
  if (!metrics.ParseFromString(stats->stats().value())) return absl::UnknownError("no metrics");
  return metrics;
}

// By message, so that a failure says which; each has its fields by number.
void ExpectSame(const v2::Metrics& ours, const v2::Metrics& theirs) {
  auto hex = [](const auto& message) {
    return absl::BytesToHexString(message.SerializeAsString());
  };
  EXPECT_EQ(hex(ours.pids()), hex(theirs.pids()));
  EXPECT_EQ(hex(ours.cpu()), hex(theirs.cpu()));
  EXPECT_EQ(hex(ours.memory()), hex(theirs.memory()));
  EXPECT_EQ(hex(ours.memory_events()), hex(theirs.memory_events()));
  EXPECT_EQ(hex(ours.io()), hex(theirs.io()));
  EXPECT_EQ(hex(ours.rdma()), hex(theirs.rdma()));
  EXPECT_EQ(hex(ours), hex(theirs)) << "hugetlb, or a message that is there or not";
}

// Checklist: R4.
TEST_P(StatsOracle, HaveEveryFieldOfCgroup2) {
  for (const std::string& shim : {stock(), ShimUnderTest()}) {
    SCOPED_TRACE(shim);
    FakeContainerd ctrd(SettingsFor(shim));
    Container& c = ctrd.New("a", Busy());
    ASSERT_THAT(c.Run(), IsOk());
    ASSERT_TRUE(ctrd.loop().RunUntil(
        [&] { return absl::StrContains(c.stdio().out->data(), "records out"); }));
    ASSERT_THAT(c.Pause(), IsOk());
    auto cgroup = FindCgroup(static_cast<pid_t>(c.State()->pid()));
    ASSERT_THAT(cgroup, IsOk());
    // Nothing changes in a paused container, once the kernel's own work for it is done.
    absl::StatusOr<v2::Metrics> before = ReadMetricsV2(cgroup->path);
    bool rested = false;
    for (auto begin = Clock::now(); !rested && Clock::now() - begin < kLimit;) {
      auto stats = Stats(c);
      ASSERT_THAT(stats, IsOk());
      absl::StatusOr<v2::Metrics> after = ReadMetricsV2(cgroup->path);
      ASSERT_THAT(after, IsOk());
      rested = before.ok() && before->SerializeAsString() == after->SerializeAsString();
      if (rested) {
        EXPECT_GT(after->memory().usage(), 0u);
        EXPECT_EQ(after->memory().usage_limit(), 67108864u);
        EXPECT_EQ(after->pids().limit(), 32u);
        EXPECT_GT(after->cpu().usage_usec(), 0u);
        EXPECT_TRUE(after->has_memory_events());
        if (shim == stock()) {
          ForgetWhatIsNew(GetParam().daemon, *after);
          ForgetWhatIsNew(GetParam().daemon, *stats);
        }
        ExpectSame(*after, *stats);
      }
      before = std::move(after);
    }
    EXPECT_TRUE(rested) << "the cgroup's counters never came to rest";
    EXPECT_THAT(c.Resume(), IsOk());
    EXPECT_THAT(c.KillAndRemove(), IsOk());
  }
}

}  // namespace
}  // namespace feather::test
