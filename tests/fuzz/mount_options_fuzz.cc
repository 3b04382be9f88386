#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/mount/options.h"
#include "tests/fuzz/support.h"

// One option a line.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view text(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> words = absl::StrSplit(text, '\n');
  absl::StatusOr<feather::MountOptions> options = feather::ParseMountOptions(words);
  if (!options.ok()) return 0;
  (void)feather::ParseIdMap(options->uid_map);
  std::string before = feather::Lowerdirs(*options);
  std::vector<std::string> parts = feather::SplitLowerdirs(before);
  if (absl::StrJoin(parts, ":") != before) abort();
  std::string parent = feather::CommonParent(parts);
  for (absl::string_view part : parts)
    if (!parent.empty() && !part.empty() && !absl::StartsWith(part, absl::StrCat(parent, "/")))
      abort();
  // A small page, so that most inputs overflow it.
  std::string directory = feather::CompactLowerdirs(*options, 512);
  if (directory.empty() != (feather::Lowerdirs(*options) == before)) abort();
  return 0;
}

std::vector<std::pair<std::string, std::string>> feather::fuzz::Seeds() {
  return {{"overlay", "index=off\nworkdir=/s/3/work\nupperdir=/s/3/fs\nlowerdir=/s/2/fs:/s/1/fs"},
          {"escaped", "lowerdir=/a\\:b/fs:/a/c/fs\nX-containerd.x=y\nuserxattr"},
          {"bind", "rbind\nro\nnosuid\nnodev\nnoexec\nrprivate\nnorelatime\nloop\nsize=1m"},
          {"idmap", "uidmap=0:100000:65536,65536:0:1\ngidmap=0:100000:65536\nbind"}};
}
