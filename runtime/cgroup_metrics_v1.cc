#include <unistd.h>

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/cgroup_files.h"
#include "runtime/cgroup_metrics.h"

namespace feather {
namespace {

namespace v1 = io::containerd::cgroups::v1;
using BlkioEntries = google::protobuf::RepeatedPtrField<v1::BlkIOEntry>;

constexpr uint64_t kNanoseconds = 1'000'000'000;

constexpr CgroupField<v1::MemoryStat> kMemory[] = {
    {"cache", &v1::MemoryStat::set_cache},
    {"rss", &v1::MemoryStat::set_rss},
    {"rss_huge", &v1::MemoryStat::set_rss_huge},
    {"mapped_file", &v1::MemoryStat::set_mapped_file},
    {"dirty", &v1::MemoryStat::set_dirty},
    {"writeback", &v1::MemoryStat::set_writeback},
    {"pgpgin", &v1::MemoryStat::set_pg_pg_in},
    {"pgpgout", &v1::MemoryStat::set_pg_pg_out},
    {"pgfault", &v1::MemoryStat::set_pg_fault},
    {"pgmajfault", &v1::MemoryStat::set_pg_maj_fault},
    {"inactive_anon", &v1::MemoryStat::set_inactive_anon},
    {"active_anon", &v1::MemoryStat::set_active_anon},
    {"inactive_file", &v1::MemoryStat::set_inactive_file},
    {"active_file", &v1::MemoryStat::set_active_file},
    {"unevictable", &v1::MemoryStat::set_unevictable},
    {"hierarchical_memory_limit", &v1::MemoryStat::set_hierarchical_memory_limit},
    {"hierarchical_memsw_limit", &v1::MemoryStat::set_hierarchical_swap_limit},
    {"total_cache", &v1::MemoryStat::set_total_cache},
    {"total_rss", &v1::MemoryStat::set_total_rss},
    {"total_rss_huge", &v1::MemoryStat::set_total_rss_huge},
    {"total_mapped_file", &v1::MemoryStat::set_total_mapped_file},
    {"total_dirty", &v1::MemoryStat::set_total_dirty},
    {"total_writeback", &v1::MemoryStat::set_total_writeback},
    {"total_pgpgin", &v1::MemoryStat::set_total_pg_pg_in},
    {"total_pgpgout", &v1::MemoryStat::set_total_pg_pg_out},
    {"total_pgfault", &v1::MemoryStat::set_total_pg_fault},
    {"total_pgmajfault", &v1::MemoryStat::set_total_pg_maj_fault},
    {"total_inactive_anon", &v1::MemoryStat::set_total_inactive_anon},
    {"total_active_anon", &v1::MemoryStat::set_total_active_anon},
    {"total_inactive_file", &v1::MemoryStat::set_total_inactive_file},
    {"total_active_file", &v1::MemoryStat::set_total_active_file},
    {"total_unevictable", &v1::MemoryStat::set_total_unevictable},
};

constexpr CgroupField<v1::MemoryOomControl> kOomControl[] = {
    {"oom_kill_disable", &v1::MemoryOomControl::set_oom_kill_disable},
    {"under_oom", &v1::MemoryOomControl::set_under_oom},
    {"oom_kill", &v1::MemoryOomControl::set_oom_kill},
};

constexpr CgroupField<v1::Throttle> kThrottle[] = {
    {"nr_periods", &v1::Throttle::set_periods},
    {"nr_throttled", &v1::Throttle::set_throttled_periods},
    {"throttled_time", &v1::Throttle::set_throttled_time},
};

constexpr CgroupField<v1::CPUUsage> kCpuTime[] = {
    {"user", &v1::CPUUsage::set_user},
    {"system", &v1::CPUUsage::set_kernel},
};

// In the order in which containerd's shim asks for them.
struct BlkioFile {
  const char* name;
  BlkioEntries* (v1::BlkIOStat::*entries)();
};
constexpr BlkioFile kBlkio[] = {
    {"sectors_recursive", &v1::BlkIOStat::mutable_sectors_recursive},
    {"io_service_bytes_recursive", &v1::BlkIOStat::mutable_io_service_bytes_recursive},
    {"io_serviced_recursive", &v1::BlkIOStat::mutable_io_serviced_recursive},
    {"io_queued_recursive", &v1::BlkIOStat::mutable_io_queued_recursive},
    {"io_service_time_recursive", &v1::BlkIOStat::mutable_io_service_time_recursive},
    {"io_wait_time_recursive", &v1::BlkIOStat::mutable_io_wait_time_recursive},
    {"io_merged_recursive", &v1::BlkIOStat::mutable_io_merged_recursive},
    {"time_recursive", &v1::BlkIOStat::mutable_io_time_recursive},
};
constexpr BlkioFile kBlkioThrottle[] = {
    {"throttle.io_serviced", &v1::BlkIOStat::mutable_io_serviced_recursive},
    {"throttle.io_service_bytes", &v1::BlkIOStat::mutable_io_service_bytes_recursive},
};

uint64_t Number(const CgroupDirectory& directory, const std::string& name) {
  return directory.ReadNumber(name, 0);
}

absl::Status FillCpuAccounting(const CgroupDirectory& directory, v1::CPUUsage* usage) {
  usage->set_total(Number(directory, "cpuacct.usage"));
  RETURN_IF_ERROR(FillFields(directory, "cpuacct.stat", kCpuTime, usage).status());
  auto ticks = static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
  usage->set_user(usage->user() * kNanoseconds / ticks);
  usage->set_kernel(usage->kernel() * kNanoseconds / ticks);
  ASSIGN_OR_RETURN(std::optional<std::string> text, directory.Read("cpuacct.usage_percpu"));
  if (!text) return absl::OkStatus();
  for (absl::string_view word : absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty()))
    usage->add_per_cpu(ParseNumber(word).value_or(0));
  return absl::OkStatus();
}

// `kind`: "", "memsw.", "kmem." or "kmem.tcp."
void FillMemoryEntry(const CgroupDirectory& directory, const char* kind, v1::MemoryEntry* entry) {
  std::string prefix = absl::StrCat("memory.", kind);
  entry->set_usage(Number(directory, prefix + "usage_in_bytes"));
  entry->set_max(Number(directory, prefix + "max_usage_in_bytes"));
  entry->set_failcnt(Number(directory, prefix + "failcnt"));
  entry->set_limit(Number(directory, prefix + "limit_in_bytes"));
}

absl::Status FillMemory(const CgroupDirectory& directory, v1::Metrics& metrics) {
  v1::MemoryStat memory;
  ASSIGN_OR_RETURN(bool found, FillFields(directory, "memory.stat", kMemory, &memory));
  if (!found) return absl::OkStatus();
  FillMemoryEntry(directory, "", memory.mutable_usage());
  FillMemoryEntry(directory, "memsw.", memory.mutable_swap());
  FillMemoryEntry(directory, "kmem.", memory.mutable_kernel());
  FillMemoryEntry(directory, "kmem.tcp.", memory.mutable_kernel_tcp());
  *metrics.mutable_memory() = memory;
  v1::MemoryOomControl control;
  ASSIGN_OR_RETURN(found, FillFields(directory, "memory.oom_control", kOomControl, &control));
  if (found) *metrics.mutable_memory_oom_control() = control;
  return absl::OkStatus();
}

absl::Status FillBlkioEntries(const CgroupDirectory& directory, const std::string& name,
                              const std::string& partitions, BlkioEntries* entries) {
  ASSIGN_OR_RETURN(std::optional<std::string> text, directory.Read(name));
  if (!text) return absl::OkStatus();
  auto lines = ParseBlkio(*text);
  if (!lines.ok())
    return Annotate(lines.status(), absl::StrCat("parse ", directory.path(), "/", name));
  for (BlkioLine& line : *lines) {
    v1::BlkIOEntry* entry = entries->Add();
    entry->set_device(PartitionName(partitions, line.major, line.minor));
    entry->set_major(line.major);
    entry->set_minor(line.minor);
    entry->set_op(std::move(line.operation));
    entry->set_value(line.value);
  }
  return absl::OkStatus();
}

absl::Status FillBlkio(const CgroupDirectory& directory, const MetricsSources& sources,
                       v1::BlkIOStat* blkio) {
  const std::string partitions = ReadFile(sources.partitions).value_or("");
  int found = 0;
  for (const BlkioFile& file : kBlkio) {
    BlkioEntries* entries = (blkio->*file.entries)();
    RETURN_IF_ERROR(
        FillBlkioEntries(directory, absl::StrCat("blkio.", file.name), partitions, entries));
    found += entries->size();
  }
  // Only the CFQ scheduler, gone since Linux 5.0, counts in those.
  if (found > 0) return absl::OkStatus();
  for (const BlkioFile& file : kBlkioThrottle)
    RETURN_IF_ERROR(FillBlkioEntries(directory, absl::StrCat("blkio.", file.name), partitions,
                                     (blkio->*file.entries)()));
  return absl::OkStatus();
}

void FillHugePages(const CgroupDirectory& directory, const MetricsSources& sources,
                   v1::Metrics& metrics) {
  for (std::string& size : HugePageSizes(sources.huge_pages)) {
    std::string prefix = absl::StrCat("hugetlb.", size);
    if (!directory.Has(prefix + ".usage_in_bytes")) continue;
    v1::HugetlbStat* stat = metrics.add_hugetlb();
    stat->set_usage(Number(directory, prefix + ".usage_in_bytes"));
    stat->set_max(Number(directory, prefix + ".max_usage_in_bytes"));
    stat->set_failcnt(Number(directory, prefix + ".failcnt"));
    stat->set_pagesize(std::move(size));
  }
}

void FillRdma(const CgroupDirectory& directory, const std::string& name,
              google::protobuf::RepeatedPtrField<v1::RdmaEntry>* entries) {
  auto text = directory.Read(name);
  if (!text.ok() || !text->has_value()) return;
  for (RdmaLine& line : ParseRdma(**text)) {
    v1::RdmaEntry* entry = entries->Add();
    entry->set_device(std::move(line.device));
    entry->set_hca_handles(line.handles);
    entry->set_hca_objects(line.objects);
  }
}

// Without files if the controller is not mounted.
absl::StatusOr<CgroupDirectory> Directory(const Cgroup& cgroup, absl::string_view controller) {
  auto it = cgroup.controllers.find(controller);
  if (it == cgroup.controllers.end()) return CgroupDirectory();
  return CgroupDirectory::Open(it->second);
}

}  // namespace

absl::StatusOr<v1::Metrics> ReadMetricsV1(const Cgroup& cgroup, const MetricsSources& sources) {
  v1::Metrics metrics;
  v1::Throttle* throttling = metrics.mutable_cpu()->mutable_throttling();
  v1::CPUUsage* usage = metrics.mutable_cpu()->mutable_usage();
  ASSIGN_OR_RETURN(CgroupDirectory cpu, Directory(cgroup, "cpu"));
  RETURN_IF_ERROR(FillFields(cpu, "cpu.stat", kThrottle, throttling).status());
  ASSIGN_OR_RETURN(CgroupDirectory cpuacct, Directory(cgroup, "cpuacct"));
  RETURN_IF_ERROR(FillCpuAccounting(cpuacct, usage));
  ASSIGN_OR_RETURN(CgroupDirectory memory, Directory(cgroup, "memory"));
  RETURN_IF_ERROR(FillMemory(memory, metrics));
  if (cgroup.controllers.contains("blkio")) {
    ASSIGN_OR_RETURN(CgroupDirectory blkio, Directory(cgroup, "blkio"));
    RETURN_IF_ERROR(FillBlkio(blkio, sources, metrics.mutable_blkio()));
  }
  ASSIGN_OR_RETURN(CgroupDirectory pids, Directory(cgroup, "pids"));
  if (pids.Has("pids.current")) {
    metrics.mutable_pids()->set_current(Number(pids, "pids.current"));
    metrics.mutable_pids()->set_limit(Number(pids, "pids.max"));
  }
  ASSIGN_OR_RETURN(CgroupDirectory hugetlb, Directory(cgroup, "hugetlb"));
  FillHugePages(hugetlb, sources, metrics);
  if (cgroup.controllers.contains("rdma")) {
    ASSIGN_OR_RETURN(CgroupDirectory rdma, Directory(cgroup, "rdma"));
    FillRdma(rdma, "rdma.current", metrics.mutable_rdma()->mutable_current());
    FillRdma(rdma, "rdma.max", metrics.mutable_rdma()->mutable_limit());
  }
  return metrics;
}

}  // namespace feather
