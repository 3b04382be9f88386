#include "runtime/mount/mountinfo.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

bool IsOctal(char c) { return c >= '0' && c <= '7'; }

// The kernel writes space, tab, newline, backslash and '#' as \ooo.
std::string Unescape(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] <= '3' && IsOctal(text[i + 1]) &&
        IsOctal(text[i + 2]) && IsOctal(text[i + 3])) {
      out +=
          static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + text[i + 3] - '0');
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool ParseLine(absl::string_view line, MountInfo& mount) {
  std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
  if (fields.size() < 10) return false;
  // Any number of optional fields, then a hyphen.
  auto hyphen = std::find(fields.begin() + 6, fields.end(), "-");
  if (fields.end() - hyphen < 3) return false;
  if (!absl::SimpleAtoi(fields[0], &mount.id) || !absl::SimpleAtoi(fields[1], &mount.parent))
    return false;
  mount.root = Unescape(fields[3]);
  mount.mount_point = Unescape(fields[4]);
  mount.type = Unescape(hyphen[1]);
  mount.source = Unescape(hyphen[2]);
  if (fields.end() - hyphen > 3) mount.super_options = std::string(hyphen[3]);
  return true;
}

}  // namespace

std::vector<MountInfo> ParseMountInfo(absl::string_view text) {
  std::vector<MountInfo> mounts;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty()))
    if (MountInfo mount; ParseLine(line, mount)) mounts.push_back(std::move(mount));
  return mounts;
}

bool IsAtOrBelow(absl::string_view path, absl::string_view directory) {
  if (directory == "/") return absl::StartsWith(path, "/");
  return absl::StartsWith(path, directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

absl::StatusOr<std::vector<MountInfo>> MountsBelow(absl::string_view directory) {
  ASSIGN_OR_RETURN(std::string text, ReadFile("/proc/self/mountinfo"));
  std::vector<MountInfo> mounts = ParseMountInfo(text);
  std::erase_if(mounts,
                [&](const MountInfo& mount) { return !IsAtOrBelow(mount.mount_point, directory); });
  std::reverse(mounts.begin(), mounts.end());
  std::stable_sort(mounts.begin(), mounts.end(), [](const MountInfo& a, const MountInfo& b) {
    return a.mount_point.size() > b.mount_point.size();
  });
  return mounts;
}

}  // namespace feather
