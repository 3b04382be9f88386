#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "runtime/mount/mountinfo.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view text(reinterpret_cast<const char*>(data), size);
  for (const feather::MountInfo& mount : feather::ParseMountInfo(text))
    (void)feather::IsAtOrBelow(mount.mount_point, mount.root);
  return 0;
}
