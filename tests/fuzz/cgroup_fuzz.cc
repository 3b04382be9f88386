#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "runtime/cgroup.h"
#include "runtime/cgroup_files.h"

// The first line is /proc/<pid>/cgroup's, the rest mountinfo's; and all of it any cgroup file's.
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
  return 0;
}
