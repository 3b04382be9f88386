#include "runtime/cgroup_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/cgroup_files.h"
#include "tests/support/shim_bundle.h"

namespace feather {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

// A cgroup of plain files.
class MetricsTest : public ::testing::Test {
 protected:
  MetricsTest() {
    sources_.huge_pages = Path("hugepages");
    sources_.partitions = Path("partitions");
  }

  std::string Path(const std::string& name) const {
    return absl::StrCat(directory_.path(), "/", name);
  }
  void Add(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(Path(name)).parent_path());
    ASSERT_TRUE(WriteFile(Path(name), text, 0644).ok());
  }
  io::containerd::cgroups::v2::Metrics V2() {
    auto metrics = ReadMetricsV2(Path("c"), sources_);
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    return *metrics;
  }
  io::containerd::cgroups::v1::Metrics V1() {
    auto metrics = ReadMetricsV1(cgroup_, sources_);
    EXPECT_TRUE(metrics.ok()) << metrics.status();
    return *metrics;
  }

  test::TestDirectory directory_;
  MetricsSources sources_;
  Cgroup cgroup_;
};

using MetricsV2 = MetricsTest;
using MetricsV1 = MetricsTest;

TEST_F(MetricsV2, ReadsProcessesAndCpu) {
  Add("c/pids.current", "7\n");
  Add("c/pids.max", "max\n");
  Add("c/cpu.stat",
      "usage_usec 1\nuser_usec 2\nsystem_usec 3\nnr_periods 4\nnr_throttled 5\n"
      "throttled_usec 6\nnr_bursts 7\nburst_usec 8\nof_a_later_kernel 9\n");
  Add("c/cpu.pressure",
      "some avg10=1.50 avg60=2.25 avg300=0.01 total=123\n"
      "full avg10=0.00 avg60=0.00 avg300=0.00 total=45\n");
  auto metrics = V2();
  EXPECT_EQ(metrics.pids().current(), 7u);
  EXPECT_EQ(metrics.pids().limit(), kMax);
  EXPECT_EQ(metrics.cpu().usage_usec(), 1u);
  EXPECT_EQ(metrics.cpu().user_usec(), 2u);
  EXPECT_EQ(metrics.cpu().system_usec(), 3u);
  EXPECT_EQ(metrics.cpu().nr_periods(), 4u);
  EXPECT_EQ(metrics.cpu().nr_throttled(), 5u);
  EXPECT_EQ(metrics.cpu().throttled_usec(), 6u);
  EXPECT_EQ(metrics.cpu().nr_bursts(), 7u);
  EXPECT_EQ(metrics.cpu().burst_usec(), 8u);
  EXPECT_EQ(metrics.cpu().psi().some().avg10(), 1.5);
  EXPECT_EQ(metrics.cpu().psi().some().avg60(), 2.25);
  EXPECT_EQ(metrics.cpu().psi().some().avg300(), 0.01);
  EXPECT_EQ(metrics.cpu().psi().some().total(), 123u);
  EXPECT_EQ(metrics.cpu().psi().full().total(), 45u);
}

// Checklist: R4.
TEST_F(MetricsV2, ReadsMemoryAndItsEvents) {
  Add("c/memory.stat",
      "anon 1\nfile 2\ninactive_file 13\nworkingset_refault 20\nthp_collapse_alloc 31\n");
  Add("c/memory.current", "1000\n");
  Add("c/memory.max", "max\n");
  Add("c/memory.peak", "2000\n");
  Add("c/memory.swap.current", "3\n");
  Add("c/memory.swap.max", "4096\n");
  Add("c/memory.swap.peak", "5\n");
  Add("c/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n");
  Add("c/memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n");
  auto metrics = V2();
  EXPECT_EQ(metrics.memory().anon(), 1u);
  EXPECT_EQ(metrics.memory().file(), 2u);
  EXPECT_EQ(metrics.memory().inactive_file(), 13u);
  EXPECT_EQ(metrics.memory().workingset_refault(), 20u);
  EXPECT_EQ(metrics.memory().thp_collapse_alloc(), 31u);
  EXPECT_EQ(metrics.memory().usage(), 1000u);
  EXPECT_EQ(metrics.memory().usage_limit(), kMax);
  EXPECT_EQ(metrics.memory().max_usage(), 2000u);
  EXPECT_EQ(metrics.memory().swap_usage(), 3u);
  EXPECT_EQ(metrics.memory().swap_limit(), 4096u);
  EXPECT_EQ(metrics.memory().swap_max_usage(), 5u);
  EXPECT_EQ(metrics.memory().psi().some().total(), 9u);
  EXPECT_FALSE(metrics.memory().psi().has_full());
  EXPECT_EQ(metrics.memory_events().low(), 1u);
  EXPECT_EQ(metrics.memory_events().high(), 2u);
  EXPECT_EQ(metrics.memory_events().max(), 3u);
  EXPECT_EQ(metrics.memory_events().oom(), 4u);
  EXPECT_EQ(metrics.memory_events().oom_kill(), 5u);
  EXPECT_EQ(metrics.memory_events().oom_group_kill(), 6u);
}

TEST_F(MetricsV2, ReadsIoRdmaAndHugePages) {
  Add("c/io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=9\n7:0 \n");
  Add("c/io.pressure", "full avg10=0.00 avg60=0.00 avg300=0.00 total=8\n");
  Add("c/rdma.current", "mlx4_0 hca_handle=2 hca_object=3\n");
  Add("c/rdma.max", "mlx4_0 hca_handle=max hca_object=2000\n");
  std::filesystem::create_directories(Path("hugepages/hugepages-2048kB"));
  std::filesystem::create_directories(Path("hugepages/hugepages-1048576kB"));
  Add("c/hugetlb.2MB.current", "4194304\n");
  Add("c/hugetlb.2MB.max", "max\n");
  Add("c/hugetlb.2MB.events", "max 7\n");
  auto metrics = V2();
  ASSERT_EQ(metrics.io().usage_size(), 2);
  EXPECT_EQ(metrics.io().usage(0).major(), 254u);
  EXPECT_EQ(metrics.io().usage(0).minor(), 0u);
  EXPECT_EQ(metrics.io().usage(0).rbytes(), 1u);
  EXPECT_EQ(metrics.io().usage(0).wbytes(), 2u);
  EXPECT_EQ(metrics.io().usage(0).rios(), 3u);
  EXPECT_EQ(metrics.io().usage(0).wios(), 4u);
  EXPECT_EQ(metrics.io().usage(1).minor(), 16u);
  EXPECT_EQ(metrics.io().psi().full().total(), 8u);
  ASSERT_EQ(metrics.rdma().current_size(), 1);
  EXPECT_EQ(metrics.rdma().current(0).device(), "mlx4_0");
  EXPECT_EQ(metrics.rdma().current(0).hca_handles(), 2u);
  EXPECT_EQ(metrics.rdma().current(0).hca_objects(), 3u);
  EXPECT_EQ(metrics.rdma().limit(0).hca_handles(), std::numeric_limits<uint32_t>::max());
  ASSERT_EQ(metrics.hugetlb_size(), 2);
  EXPECT_EQ(metrics.hugetlb(0).pagesize(), "1GB");
  EXPECT_EQ(metrics.hugetlb(0).max(), 0u);
  EXPECT_EQ(metrics.hugetlb(1).pagesize(), "2MB");
  EXPECT_EQ(metrics.hugetlb(1).current(), 4194304u);
  EXPECT_EQ(metrics.hugetlb(1).max(), kMax);
  EXPECT_EQ(metrics.hugetlb(1).failcnt(), 7u);
}

TEST_F(MetricsV2, AnswersZerosForACgroupThatIsGone) {
  auto metrics = V2();
  EXPECT_TRUE(metrics.has_pids());
  EXPECT_TRUE(metrics.has_cpu());
  EXPECT_TRUE(metrics.has_memory());
  EXPECT_FALSE(metrics.has_memory_events());
  EXPECT_FALSE(metrics.cpu().has_psi());
  EXPECT_EQ(metrics.memory().usage_limit(), 0u);
}

TEST_F(MetricsV2, LeavesOutEventsThatAreEmpty) {
  Add("c/memory.events", "");
  EXPECT_FALSE(V2().has_memory_events());
}

TEST_F(MetricsV2, RefusesLinesThatAreNoKeyAndNumber) {
  for (const char* text :
       {"anon 1\nfile\n", "anon 1 2\n", "anon x\n", "\n\n", "anon 1\n\nfile 2\n"}) {
    Add("c/memory.stat", text);
    absl::Status status = ReadMetricsV2(Path("c"), sources_).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("memory.stat")) << text;
  }
}

TEST_F(MetricsV2, CountsNegativeNumbersAsZero) {
  Add("c/memory.stat", "anon -5\n");
  Add("c/memory.current", "-1\n");
  auto metrics = V2();
  EXPECT_EQ(metrics.memory().anon(), 0u);
  EXPECT_EQ(metrics.memory().usage(), 0u);
}

TEST_F(MetricsV1, ReadsCpuAndItsTimes) {
  cgroup_.controllers = {{"cpu", Path("cpu")}, {"cpuacct", Path("cpu")}};
  Add("cpu/cpu.stat", "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n");
  Add("cpu/cpuacct.usage", "123456789\n");
  Add("cpu/cpuacct.stat", "user 250\nsystem 3\n");
  Add("cpu/cpuacct.usage_percpu", "100 200 \n");
  auto metrics = V1();
  EXPECT_EQ(metrics.cpu().throttling().periods(), 1u);
  EXPECT_EQ(metrics.cpu().throttling().throttled_periods(), 2u);
  EXPECT_EQ(metrics.cpu().throttling().throttled_time(), 3u);
  EXPECT_EQ(metrics.cpu().usage().total(), 123456789u);
  uint64_t tick = 1'000'000'000 / static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
  EXPECT_EQ(metrics.cpu().usage().user(), 250 * tick);
  EXPECT_EQ(metrics.cpu().usage().kernel(), 3 * tick);
  EXPECT_THAT(metrics.cpu().usage().per_cpu(), ElementsAre(100, 200));
}

TEST_F(MetricsV1, ReadsMemoryAndItsOomControl) {
  cgroup_.controllers = {{"memory", Path("memory")}};
  Add("memory/memory.stat",
      "cache 1\npgpgin 7\nhierarchical_memory_limit 16\nhierarchical_memsw_limit 17\n"
      "total_unevictable 32\n");
  Add("memory/memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 4\n");
  Add("memory/memory.usage_in_bytes", "10\n");
  Add("memory/memory.max_usage_in_bytes", "20\n");
  Add("memory/memory.failcnt", "30\n");
  Add("memory/memory.limit_in_bytes", "40\n");
  // No memsw, as where swap accounting is off.
  Add("memory/memory.kmem.usage_in_bytes", "11\n");
  Add("memory/memory.kmem.tcp.limit_in_bytes", "12\n");
  auto metrics = V1();
  EXPECT_EQ(metrics.memory().cache(), 1u);
  EXPECT_EQ(metrics.memory().pg_pg_in(), 7u);
  EXPECT_EQ(metrics.memory().hierarchical_memory_limit(), 16u);
  EXPECT_EQ(metrics.memory().hierarchical_swap_limit(), 17u);
  EXPECT_EQ(metrics.memory().total_unevictable(), 32u);
  EXPECT_EQ(metrics.memory().usage().usage(), 10u);
  EXPECT_EQ(metrics.memory().usage().max(), 20u);
  EXPECT_EQ(metrics.memory().usage().failcnt(), 30u);
  EXPECT_EQ(metrics.memory().usage().limit(), 40u);
  EXPECT_EQ(metrics.memory().swap().usage(), 0u);
  EXPECT_EQ(metrics.memory().kernel().usage(), 11u);
  EXPECT_EQ(metrics.memory().kernel_tcp().limit(), 12u);
  EXPECT_EQ(metrics.memory_oom_control().oom_kill_disable(), 1u);
  EXPECT_EQ(metrics.memory_oom_control().oom_kill(), 4u);
}

TEST_F(MetricsV1, NamesTheDevicesOfBlkio) {
  cgroup_.controllers = {{"blkio", Path("blkio")}};
  Add("partitions", "major minor  #blocks  name\n\n 254        0  268435456 vda\n   8 1 5 sda1\n");
  Add("blkio/blkio.throttle.io_service_bytes",
      "254:0 Read 4096\n254:0 Write 0\n9:9 Read 1\nTotal 4097\n");
  Add("blkio/blkio.throttle.io_serviced", "8:1 Read 1\nTotal 1\n");
  auto metrics = V1();
  const auto& bytes = metrics.blkio().io_service_bytes_recursive();
  ASSERT_EQ(bytes.size(), 3);
  EXPECT_EQ(bytes[0].device(), "/dev/vda");
  EXPECT_EQ(bytes[0].major(), 254u);
  EXPECT_EQ(bytes[0].op(), "Read");
  EXPECT_EQ(bytes[0].value(), 4096u);
  EXPECT_EQ(bytes[2].device(), "");
  ASSERT_EQ(metrics.blkio().io_serviced_recursive_size(), 1);
  EXPECT_EQ(metrics.blkio().io_serviced_recursive(0).device(), "/dev/sda1");
}

TEST_F(MetricsV1, TakesTheThrottlersCountsOnlyWhereTheSchedulerHasNone) {
  cgroup_.controllers = {{"blkio", Path("blkio")}};
  Add("blkio/blkio.io_serviced_recursive", "8:0 Read 5\nTotal 5\n");
  Add("blkio/blkio.sectors_recursive", "8:0 77\n");
  Add("blkio/blkio.throttle.io_serviced", "8:0 Read 6\nTotal 6\n");
  auto metrics = V1();
  ASSERT_EQ(metrics.blkio().io_serviced_recursive_size(), 1);
  EXPECT_EQ(metrics.blkio().io_serviced_recursive(0).value(), 5u);
  EXPECT_EQ(metrics.blkio().sectors_recursive(0).value(), 77u);
  EXPECT_EQ(metrics.blkio().sectors_recursive(0).op(), "");
}

TEST_F(MetricsV1, ReadsProcessesHugePagesAndRdma) {
  cgroup_.controllers = {
      {"pids", Path("pids")}, {"hugetlb", Path("hugetlb")}, {"rdma", Path("rdma")}};
  Add("pids/pids.current", "3\n");
  Add("pids/pids.max", "max\n");
  std::filesystem::create_directories(Path("hugepages/hugepages-2048kB"));
  std::filesystem::create_directories(Path("hugepages/hugepages-64kB"));
  Add("hugetlb/hugetlb.2MB.usage_in_bytes", "1\n");
  Add("hugetlb/hugetlb.2MB.max_usage_in_bytes", "2\n");
  Add("hugetlb/hugetlb.2MB.failcnt", "3\n");
  Add("rdma/rdma.current", "mlx hca_handle=1 hca_object=2\n");
  Add("rdma/rdma.max", "mlx hca_handle=max hca_object=99999999999\n");
  auto metrics = V1();
  EXPECT_EQ(metrics.pids().current(), 3u);
  EXPECT_EQ(metrics.pids().limit(), 0u);
  ASSERT_EQ(metrics.hugetlb_size(), 1);
  EXPECT_EQ(metrics.hugetlb(0).pagesize(), "2MB");
  EXPECT_EQ(metrics.hugetlb(0).usage(), 1u);
  EXPECT_EQ(metrics.hugetlb(0).max(), 2u);
  EXPECT_EQ(metrics.hugetlb(0).failcnt(), 3u);
  EXPECT_EQ(metrics.rdma().current(0).hca_objects(), 2u);
  EXPECT_EQ(metrics.rdma().limit(0).hca_objects(), std::numeric_limits<uint32_t>::max());
}

TEST_F(MetricsV1, AnswersZerosForACgroupThatIsGone) {
  for (const char* name : {"cpu", "cpuacct", "memory", "blkio", "pids", "hugetlb", "rdma"})
    cgroup_.controllers[name] = Path("gone");
  auto metrics = V1();
  EXPECT_TRUE(metrics.has_cpu());
  EXPECT_FALSE(metrics.has_memory());
  EXPECT_FALSE(metrics.has_memory_oom_control());
  EXPECT_FALSE(metrics.has_pids());
}

TEST(Metrics, ReadsTheCgroupOfThisProcess) {
  auto cgroup = FindCgroup(getpid());
  if (!cgroup.ok()) GTEST_SKIP() << "no cgroups here: " << cgroup.status();
  if (cgroup->unified) {
    auto metrics = ReadMetricsV2(cgroup->path);
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    EXPECT_GT(metrics->cpu().usage_usec(), 0u);
  } else {
    auto metrics = ReadMetricsV1(*cgroup);
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    if (cgroup->controllers.contains("cpuacct")) {
      EXPECT_GT(metrics->cpu().usage().total(), 0u);
    }
    if (cgroup->controllers.contains("memory")) {
      EXPECT_GT(metrics->memory().usage().usage(), 0u);
    }
  }
}

TEST(HugePageSize, IsNamedAsTheKernelNamesItsFiles) {
  EXPECT_EQ(HugePageSize("hugepages-64kB"), "64KB");
  EXPECT_EQ(HugePageSize("hugepages-2048kB"), "2MB");
  EXPECT_EQ(HugePageSize("hugepages-1048576kB"), "1GB");
  for (const char* name :
       {"", "hugepages-", "hugepages-kB", "hugepages-2048", "hugepages--1kB", "2048kB"})
    EXPECT_EQ(HugePageSize(name), "") << name;
}

TEST(ParseNumber, TakesDecimalNumbersOnly) {
  EXPECT_EQ(ParseNumber("18446744073709551615"), kMax);
  EXPECT_EQ(ParseNumber("-99999999999999999999999"), 0u);
  for (const char* text : {"", "-", " 1", "1 ", "+1", "0x1", "1.5", "18446744073709551616"})
    EXPECT_EQ(ParseNumber(text), std::nullopt) << text;
}

TEST(ParsePressure, GivesUpAtAValueThatIsNoNumber) {
  EXPECT_EQ(ParsePressure("some avg10=x total=1\n").has_value(), false);
  EXPECT_EQ(ParsePressure("some total=-1\n").has_value(), false);
  auto other = ParsePressure("irq avg10=1\nsome\n");
  ASSERT_TRUE(other.has_value());
  EXPECT_TRUE(other->some.has_value());
  EXPECT_FALSE(other->full.has_value());
}

TEST(ParseBlkio, RefusesOtherLines) {
  for (const char* text :
       {"8:0\n", "8:0 Read\n", "8 Read 1\n", "8:0 Read 1 2\n", "x:y Read 1\n", "Total\n"})
    EXPECT_FALSE(ParseBlkio(text).ok()) << text;
}

}  // namespace
}  // namespace feather
