#include "runtime/cgroup_metrics.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/status.h"
#include "runtime/cgroup_files.h"

namespace feather {
namespace {

namespace v2 = io::containerd::cgroups::v2;

constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

constexpr CgroupField<v2::CPUStat> kCpu[] = {
    {"usage_usec", &v2::CPUStat::set_usage_usec},
    {"user_usec", &v2::CPUStat::set_user_usec},
    {"system_usec", &v2::CPUStat::set_system_usec},
    {"nr_periods", &v2::CPUStat::set_nr_periods},
    {"nr_throttled", &v2::CPUStat::set_nr_throttled},
    {"throttled_usec", &v2::CPUStat::set_throttled_usec},
    {"nr_bursts", &v2::CPUStat::set_nr_bursts},
    {"burst_usec", &v2::CPUStat::set_burst_usec},
};

constexpr CgroupField<v2::MemoryStat> kMemory[] = {
    {"anon", &v2::MemoryStat::set_anon},
    {"file", &v2::MemoryStat::set_file},
    {"kernel_stack", &v2::MemoryStat::set_kernel_stack},
    {"slab", &v2::MemoryStat::set_slab},
    {"sock", &v2::MemoryStat::set_sock},
    {"shmem", &v2::MemoryStat::set_shmem},
    {"file_mapped", &v2::MemoryStat::set_file_mapped},
    {"file_dirty", &v2::MemoryStat::set_file_dirty},
    {"file_writeback", &v2::MemoryStat::set_file_writeback},
    {"anon_thp", &v2::MemoryStat::set_anon_thp},
    {"inactive_anon", &v2::MemoryStat::set_inactive_anon},
    {"active_anon", &v2::MemoryStat::set_active_anon},
    {"inactive_file", &v2::MemoryStat::set_inactive_file},
    {"active_file", &v2::MemoryStat::set_active_file},
    {"unevictable", &v2::MemoryStat::set_unevictable},
    {"slab_reclaimable", &v2::MemoryStat::set_slab_reclaimable},
    {"slab_unreclaimable", &v2::MemoryStat::set_slab_unreclaimable},
    {"pgfault", &v2::MemoryStat::set_pgfault},
    {"pgmajfault", &v2::MemoryStat::set_pgmajfault},
    {"workingset_refault", &v2::MemoryStat::set_workingset_refault},
    {"workingset_activate", &v2::MemoryStat::set_workingset_activate},
    {"workingset_nodereclaim", &v2::MemoryStat::set_workingset_nodereclaim},
    {"pgrefill", &v2::MemoryStat::set_pgrefill},
    {"pgscan", &v2::MemoryStat::set_pgscan},
    {"pgsteal", &v2::MemoryStat::set_pgsteal},
    {"pgactivate", &v2::MemoryStat::set_pgactivate},
    {"pgdeactivate", &v2::MemoryStat::set_pgdeactivate},
    {"pglazyfree", &v2::MemoryStat::set_pglazyfree},
    {"pglazyfreed", &v2::MemoryStat::set_pglazyfreed},
    {"thp_fault_alloc", &v2::MemoryStat::set_thp_fault_alloc},
    {"thp_collapse_alloc", &v2::MemoryStat::set_thp_collapse_alloc},
};

// Files with one number each.
constexpr CgroupField<v2::MemoryStat> kMemoryFiles[] = {
    {"memory.current", &v2::MemoryStat::set_usage},
    {"memory.max", &v2::MemoryStat::set_usage_limit},
    {"memory.peak", &v2::MemoryStat::set_max_usage},
    {"memory.swap.current", &v2::MemoryStat::set_swap_usage},
    {"memory.swap.max", &v2::MemoryStat::set_swap_limit},
    {"memory.swap.peak", &v2::MemoryStat::set_swap_max_usage},
};

constexpr CgroupField<v2::MemoryEvents> kEvents[] = {
    {"low", &v2::MemoryEvents::set_low},
    {"high", &v2::MemoryEvents::set_high},
    {"max", &v2::MemoryEvents::set_max},
    {"oom", &v2::MemoryEvents::set_oom},
    {"oom_kill", &v2::MemoryEvents::set_oom_kill},
    {"oom_group_kill", &v2::MemoryEvents::set_oom_group_kill},
};

void Copy(const PressureLine& from, v2::PSIData* to) {
  to->set_avg10(from.avg10);
  to->set_avg60(from.avg60);
  to->set_avg300(from.avg300);
  to->set_total(from.total);
}

// `message` has a psi field.
template <typename Message>
void FillPressure(const CgroupDirectory& directory, const std::string& name, Message* message) {
  // EOPNOTSUPP where PSI is off.
  auto text = directory.Read(name);
  if (!text.ok() || !text->has_value()) return;
  std::optional<Pressure> pressure = ParsePressure(**text);
  if (!pressure) return;
  v2::PSIStats* psi = message->mutable_psi();
  if (pressure->some) Copy(*pressure->some, psi->mutable_some());
  if (pressure->full) Copy(*pressure->full, psi->mutable_full());
}

absl::Status FillMemory(const CgroupDirectory& directory, v2::Metrics& metrics) {
  v2::MemoryStat* memory = metrics.mutable_memory();
  ASSIGN_OR_RETURN(bool found, FillFields(directory, "memory.stat", kMemory, memory));
  if (!found) return absl::OkStatus();
  for (const CgroupField<v2::MemoryStat>& file : kMemoryFiles)
    (memory->*file.set)(directory.ReadNumber(file.key, kMax));
  FillPressure(directory, "memory.pressure", memory);
  return absl::OkStatus();
}

void FillIo(const CgroupDirectory& directory, v2::IOStat* io) {
  FillPressure(directory, "io.pressure", io);
  auto text = directory.Read("io.stat");
  if (!text.ok() || !text->has_value()) return;
  for (const IoLine& line : ParseIoStat(**text)) {
    v2::IOEntry* entry = io->add_usage();
    entry->set_major(line.major);
    entry->set_minor(line.minor);
    entry->set_rbytes(line.rbytes);
    entry->set_wbytes(line.wbytes);
    entry->set_rios(line.rios);
    entry->set_wios(line.wios);
  }
}

void FillRdma(const CgroupDirectory& directory, const std::string& name,
              google::protobuf::RepeatedPtrField<v2::RdmaEntry>* entries) {
  auto text = directory.Read(name);
  if (!text.ok() || !text->has_value()) return;
  for (RdmaLine& line : ParseRdma(**text)) {
    v2::RdmaEntry* entry = entries->Add();
    entry->set_device(std::move(line.device));
    entry->set_hca_handles(line.handles);
    entry->set_hca_objects(line.objects);
  }
}

void FillHugePages(const CgroupDirectory& directory, const MetricsSources& sources,
                   v2::Metrics& metrics) {
  for (std::string& size : HugePageSizes(sources.huge_pages)) {
    std::string prefix = absl::StrCat("hugetlb.", size);
    v2::HugeTlbStat* stat = metrics.add_hugetlb();
    stat->set_current(directory.ReadNumber(prefix + ".current", kMax));
    stat->set_max(directory.ReadNumber(prefix + ".max", kMax));
    stat->set_pagesize(std::move(size));
    constexpr CgroupField<v2::HugeTlbStat> kFailures[] = {{"max", &v2::HugeTlbStat::set_failcnt}};
    FillFields(directory, prefix + ".events", kFailures, stat).status().IgnoreError();
  }
}

}  // namespace

absl::StatusOr<v2::Metrics> ReadMetricsV2(const std::string& path, const MetricsSources& sources) {
  ASSIGN_OR_RETURN(CgroupDirectory directory, CgroupDirectory::Open(path));
  v2::Metrics metrics;
  metrics.mutable_pids()->set_current(directory.ReadNumber("pids.current", kMax));
  metrics.mutable_pids()->set_limit(directory.ReadNumber("pids.max", kMax));
  v2::CPUStat* cpu = metrics.mutable_cpu();
  ASSIGN_OR_RETURN(bool has_cpu, FillFields(directory, "cpu.stat", kCpu, cpu));
  if (has_cpu) FillPressure(directory, "cpu.pressure", cpu);
  RETURN_IF_ERROR(FillMemory(directory, metrics));
  v2::MemoryEvents events;
  ASSIGN_OR_RETURN(bool has_events, FillFields(directory, "memory.events", kEvents, &events));
  if (has_events) *metrics.mutable_memory_events() = events;
  FillIo(directory, metrics.mutable_io());
  FillRdma(directory, "rdma.current", metrics.mutable_rdma()->mutable_current());
  FillRdma(directory, "rdma.max", metrics.mutable_rdma()->mutable_limit());
  FillHugePages(directory, sources, metrics);
  return metrics;
}

}  // namespace feather
