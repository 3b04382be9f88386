#include "runtime/mount/options.h"

#include <sys/mount.h>

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace feather {
namespace {

struct Flag {
  char name[14];
  bool clear;
  unsigned long flag;
};

constexpr Flag kFlags[] = {
    {"async", true, MS_SYNCHRONOUS},
    {"atime", true, MS_NOATIME},
    {"bind", false, MS_BIND},
    {"dev", true, MS_NODEV},
    {"diratime", true, MS_NODIRATIME},
    {"dirsync", false, MS_DIRSYNC},
    {"exec", true, MS_NOEXEC},
    {"mand", false, MS_MANDLOCK},
    {"noatime", false, MS_NOATIME},
    {"nodev", false, MS_NODEV},
    {"nodiratime", false, MS_NODIRATIME},
    {"noexec", false, MS_NOEXEC},
    {"nomand", true, MS_MANDLOCK},
    {"norelatime", true, MS_RELATIME},
    {"nostrictatime", true, MS_STRICTATIME},
    {"nosuid", false, MS_NOSUID},
    {"rbind", false, MS_BIND | MS_REC},
    {"relatime", false, MS_RELATIME},
    {"remount", false, MS_REMOUNT},
    {"ro", false, MS_RDONLY},
    {"rw", true, MS_RDONLY},
    {"strictatime", false, MS_STRICTATIME},
    {"suid", true, MS_NOSUID},
    {"sync", false, MS_SYNCHRONOUS},
};

constexpr absl::string_view kLowerdir = "lowerdir=";

std::string* FindLowerdir(MountOptions& options) {
  for (std::string& option : options.data)
    if (absl::StartsWith(option, kLowerdir)) return &option;
  return nullptr;
}

const Flag* FindFlag(absl::string_view option) {
  for (const Flag& flag : kFlags)
    if (option == flag.name) return &flag;
  return nullptr;
}

}  // namespace

std::string MountOptions::Data() const { return absl::StrJoin(data, ","); }

absl::StatusOr<MountOptions> ParseMountOptions(const std::vector<std::string>& options) {
  MountOptions parsed;
  for (absl::string_view option : options) {
    absl::string_view value = option;
    if (const Flag* flag = FindFlag(option)) {
      parsed.flags = flag->clear ? parsed.flags & ~flag->flag : parsed.flags | flag->flag;
    } else if (option == "loop") {
      parsed.loop = true;
    } else if (absl::ConsumePrefix(&value, "uidmap=")) {
      parsed.uid_map = std::string(value);
    } else if (absl::ConsumePrefix(&value, "gidmap=")) {
      parsed.gid_map = std::string(value);
    } else if (absl::StartsWith(option, "X-containerd.")) {
      return absl::UnknownError(absl::StrCat("internal mount option \"", absl::CHexEscape(option),
                                             "\" was not consumed by the mount manager"));
    } else {
      parsed.data.emplace_back(option);
    }
  }
  auto direct_io = std::find(parsed.data.begin(), parsed.data.end(), "direct-io");
  if (parsed.loop && direct_io != parsed.data.end()) {
    parsed.direct_io = true;
    parsed.data.erase(direct_io);
  }
  return parsed;
}

std::vector<std::string> SplitLowerdirs(absl::string_view lowerdirs) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < lowerdirs.size(); ++i) {
    if (lowerdirs[i] == ':') {
      parts.emplace_back();
      continue;
    }
    if (lowerdirs[i] == '\\' && i + 1 < lowerdirs.size()) parts.back() += lowerdirs[i++];
    parts.back() += lowerdirs[i];
  }
  return parts;
}

std::string CommonParent(const std::vector<std::string>& paths) {
  std::string common;
  bool first = true;
  for (absl::string_view path : paths) {
    if (path.empty()) continue;
    if (path[0] != '/') return {};
    path = absl::StripSuffix(path, "/");
    absl::string_view parent = path.substr(0, std::min(path.rfind('/'), path.size()));
    if (std::exchange(first, false)) {
      common = std::string(parent);
      continue;
    }
    // Shortened by whole components until it is an ancestor of this one, too.
    while (!common.empty() && parent != common && !absl::StartsWith(parent, common + "/"))
      common.resize(common.rfind('/'));
  }
  return common;
}

std::string Lowerdirs(const MountOptions& options) {
  for (absl::string_view option : options.data)
    if (absl::ConsumePrefix(&option, kLowerdir)) return std::string(option);
  return {};
}

std::string CompactLowerdirs(MountOptions& options, size_t page_size) {
  // Some room for what else the kernel wants to put there.
  constexpr size_t kReserve = 512;
  size_t size = 0;
  for (const std::string& option : options.data) size += option.size();
  std::string* lowerdir = FindLowerdir(options);
  if (size + kReserve < page_size || lowerdir == nullptr) return {};
  std::vector<std::string> parts = SplitLowerdirs(lowerdir->substr(kLowerdir.size()));
  std::string parent = parts.size() > 1 ? CommonParent(parts) : std::string();
  // An escaped parent would have to be unescaped for chdir(2).
  if (parent.empty() || absl::StrContains(parent, '\\')) return {};
  MoveLowerdirs(options, parent, {});
  return parent;
}

void MoveLowerdirs(MountOptions& options, absl::string_view from, absl::string_view to) {
  std::string* lowerdir = FindLowerdir(options);
  if (lowerdir == nullptr) return;
  std::vector<std::string> parts = SplitLowerdirs(lowerdir->substr(kLowerdir.size()));
  for (std::string& part : parts) {
    if (!absl::StartsWith(part, absl::StrCat(from, "/"))) continue;
    absl::string_view rest = absl::string_view(part).substr(from.size() + 1);
    part = to.empty() ? std::string(rest) : absl::StrCat(to, "/", rest);
  }
  *lowerdir = absl::StrCat(kLowerdir, absl::StrJoin(parts, ":"));
}

absl::StatusOr<std::string> ParseIdMap(absl::string_view map) {
  std::string lines;
  for (absl::string_view range : absl::StrSplit(map, ',')) {
    std::vector<absl::string_view> numbers = absl::StrSplit(range, ':');
    uint32_t parsed[3];
    bool valid = numbers.size() == 3;
    for (size_t i = 0; valid && i < 3; ++i) valid = absl::SimpleAtoi(numbers[i], &parsed[i]);
    if (!valid || parsed[2] == 0)
      return absl::InvalidArgumentError(
          absl::StrCat("invalid id mapping \"", absl::CHexEscape(map), "\""));
    absl::StrAppend(&lines, parsed[0], " ", parsed[1], " ", parsed[2], "\n");
  }
  return lines;
}

}  // namespace feather
