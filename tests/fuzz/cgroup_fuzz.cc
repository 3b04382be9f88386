#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "oom/cgroupfs.h"
#include "oom/kernel_record.h"
#include "oom/logged_kills.h"
#include "runtime/cgroup.h"
#include "runtime/cgroup_files.h"
#include "tests/fuzz/support.h"

// The first line is /proc/<pid>/cgroup's, the rest mountinfo's; and all of it any cgroup
// file's, and a record of the kernel's log.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view text(reinterpret_cast<const char*>(data), size);
  size_t end = std::min(text.find('\n'), text.size());
  for (bool unified : {false, true})
    feather::ParseCgroup(unified, text.substr(0, end), text.substr(end)).status().IgnoreError();
  feather::ParseKeyValues(text, [](absl::string_view, uint64_t) {}).IgnoreError();
  feather::ParseBlkio(text).status().IgnoreError();
  (void)feather::ParsePressure(text);
  (void)feather::ParseIoStat(text);
  (void)feather::ParseRdma(text);
  (void)feather::PartitionName(text, 8, 0);
  (void)feather::HugePageSize(text);
  (void)feather::oom::ParseCounters(text);
  static feather::oom::LoggedKills log("/sys/fs/cgroup/memory/x");
  log.named().clear();
  log.unnamed().clear();
  if (const auto record = feather::oom::ParseRecord(text)) log.Hear(record->text);
  if (log.named().size() + log.unnamed().size() > 1) abort();
  return 0;
}

std::vector<std::pair<std::string, std::string>> feather::fuzz::Seeds() {
  const char* v2 = "35 30 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
  const char* v1 =
      "35 30 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
      "36 35 0:32 /x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "37 35 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
  return {{"v2", absl::StrCat("0::/a/b (deleted)\n", v2)},
          {"v1", absl::StrCat("4:memory:/x/y\n", v1)},
          {"v1_many", absl::StrCat("3:cpu,cpuacct:/../y\n", v1)},
          {"memory_events", "low 0\nhigh 1\nmax 18446744073709551615\noom 3\noom_kill 2\n"},
          {"pressure",
           "some avg10=0.00 avg60=1.50 avg300=0.00 total=17\n"
           "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"},
          {"io_stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"},
          {"blkio", "8:0 Read 4096\n8:0 Write 0\n8:0 Total 4096\nTotal 4096\n"},
          {"rdma", "mlx4_0 hca_handle=2 hca_object=max\n"},
          {"hugepages", "hugepages-2048kB\n1GB\n"},
          {"kmsg",
           "3,1234,5678901,-;Memory cgroup out of memory: Killed process 4711 (a b), "
           "UID 0, total-vm:1kB\n SUBSYSTEM=memory\n"}};
}
