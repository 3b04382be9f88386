#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "runtime/mount/mountinfo.h"
#include "tests/fuzz/support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view text(reinterpret_cast<const char*>(data), size);
  for (const feather::MountInfo& mount : feather::ParseMountInfo(text))
    (void)feather::IsAtOrBelow(mount.mount_point, mount.root);
  return 0;
}

std::vector<std::pair<std::string, std::string>> feather::fuzz::Seeds() {
  return {{"lines",
           "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
           "35 22 0:31 /a\\040b /mnt/c\\134\\011 rw master:2 propagate_from:3 - nfs4 h:/x "
           "rw,vers=4.2\n"},
          {"broken", "1 2 3:4 / -\n\n5 6 7:8 / / rw -\n9 10 11:12 /x\\04 /y\\ rw - a b c"}};
}
