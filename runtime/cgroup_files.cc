#include "runtime/cgroup_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/base/unique_fd.h"

namespace feather {
namespace {

using Fields = std::vector<absl::string_view>;

Fields SplitBlanks(absl::string_view line) {
  return absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
}

std::pair<absl::string_view, absl::string_view> SplitPair(absl::string_view text) {
  return absl::StrSplit(text, absl::MaxSplits('=', 1));
}

bool AllDigits(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

// "major:minor"
bool ParseDevice(absl::string_view text, uint64_t& major, uint64_t& minor) {
  std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  return AllDigits(parts.first) && AllDigits(parts.second) &&
         absl::SimpleAtoi(parts.first, &major) && absl::SimpleAtoi(parts.second, &minor);
}

bool ParsePressureLine(const Fields& fields, PressureLine& line) {
  for (size_t i = 1; i < fields.size(); ++i) {
    auto [key, value] = SplitPair(fields[i]);
    bool good = true;
    if (key == "avg10") good = absl::SimpleAtod(value, &line.avg10);
    if (key == "avg60") good = absl::SimpleAtod(value, &line.avg60);
    if (key == "avg300") good = absl::SimpleAtod(value, &line.avg300);
    if (key == "total") good = absl::SimpleAtoi(value, &line.total);
    if (!good) return false;
  }
  return true;
}

void ParseRdmaValue(absl::string_view text, RdmaLine& line) {
  auto [key, value] = SplitPair(text);
  std::optional<uint64_t> number = ParseNumber(value);
  constexpr uint64_t kMost = std::numeric_limits<uint32_t>::max();
  if (value == "max") number = kMost;
  if (!number) return;
  auto narrow = static_cast<uint32_t>(std::min(*number, kMost));
  if (key == "hca_handle") line.handles = narrow;
  if (key == "hca_object") line.objects = narrow;
}

}  // namespace

std::optional<uint64_t> ParseNumber(absl::string_view text) {
  absl::string_view digits = text;
  bool negative = absl::ConsumePrefix(&digits, "-");
  uint64_t value = 0;
  if (!AllDigits(digits)) return std::nullopt;
  if (negative) return 0;
  if (!absl::SimpleAtoi(digits, &value)) return std::nullopt;
  return value;
}

absl::Status ParseKeyValues(absl::string_view text,
                            const std::function<void(absl::string_view, uint64_t)>& visit) {
  absl::ConsumeSuffix(&text, "\n");
  if (text.empty()) return absl::OkStatus();
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    Fields fields = SplitBlanks(line);
    std::optional<uint64_t> value;
    if (fields.size() == 2) value = ParseNumber(fields[1]);
    if (!value)
      return absl::InvalidArgumentError(
          absl::StrCat("not a key and a number: \"", line.substr(0, 100), "\""));
    visit(fields[0], *value);
  }
  return absl::OkStatus();
}

std::optional<Pressure> ParsePressure(absl::string_view text) {
  Pressure pressure;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    Fields fields = SplitBlanks(line);
    if (fields.empty()) continue;
    std::optional<PressureLine>* target = nullptr;
    if (fields[0] == "some") target = &pressure.some;
    if (fields[0] == "full") target = &pressure.full;
    if (target != nullptr && !ParsePressureLine(fields, target->emplace())) return std::nullopt;
  }
  return pressure;
}

std::vector<IoLine> ParseIoStat(absl::string_view text) {
  std::vector<IoLine> result;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    Fields fields = SplitBlanks(line);
    IoLine entry;
    if (fields.size() < 2 || !ParseDevice(fields[0], entry.major, entry.minor)) continue;
    for (size_t i = 1; i < fields.size(); ++i) {
      auto [key, value] = SplitPair(fields[i]);
      std::optional<uint64_t> number = ParseNumber(value);
      if (!number) continue;
      if (key == "rbytes") entry.rbytes = *number;
      if (key == "wbytes") entry.wbytes = *number;
      if (key == "rios") entry.rios = *number;
      if (key == "wios") entry.wios = *number;
    }
    result.push_back(entry);
  }
  return result;
}

std::vector<RdmaLine> ParseRdma(absl::string_view text) {
  std::vector<RdmaLine> result;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    Fields fields = SplitBlanks(line);
    if (fields.size() != 3) continue;
    RdmaLine entry;
    entry.device = std::string(fields[0]);
    ParseRdmaValue(fields[1], entry);
    ParseRdmaValue(fields[2], entry);
    result.push_back(std::move(entry));
  }
  return result;
}

absl::StatusOr<std::vector<BlkioLine>> ParseBlkio(absl::string_view text) {
  std::vector<BlkioLine> result;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    Fields fields = SplitBlanks(line);
    if (fields.size() == 2 && fields[0] == "Total") continue;
    BlkioLine entry;
    std::optional<uint64_t> value;
    if (fields.size() == 2 || fields.size() == 3) value = ParseNumber(fields.back());
    if (!value || !ParseDevice(fields[0], entry.major, entry.minor))
      return absl::InvalidArgumentError(
          absl::StrCat("not a line of blkio: \"", line.substr(0, 100), "\""));
    if (fields.size() == 3) entry.operation = std::string(fields[1]);
    entry.value = *value;
    result.push_back(std::move(entry));
  }
  return result;
}

std::string PartitionName(absl::string_view partitions, uint64_t major, uint64_t minor) {
  for (absl::string_view line : absl::StrSplit(partitions, '\n')) {
    // major minor blocks name
    Fields fields = SplitBlanks(line);
    if (fields.size() == 4 && ParseNumber(fields[0]) == major && ParseNumber(fields[1]) == minor)
      return absl::StrCat("/dev/", fields[3]);
  }
  return "";
}

std::string HugePageSize(absl::string_view name) {
  uint64_t kib = 0;
  if (!absl::ConsumePrefix(&name, "hugepages-") || !absl::ConsumeSuffix(&name, "kB") ||
      !AllDigits(name) || !absl::SimpleAtoi(name, &kib))
    return "";
  if (kib >= 1 << 20) return absl::StrCat(kib >> 20, "GB");
  if (kib >= 1 << 10) return absl::StrCat(kib >> 10, "MB");
  return absl::StrCat(kib, "KB");
}

std::vector<std::string> HugePageSizes(const std::string& directory) {
  std::vector<std::string> sizes;
  auto names = ListNames(directory, /*directories=*/false);
  if (!names.ok()) return sizes;
  for (const std::string& name : *names)
    if (std::string size = HugePageSize(name); !size.empty()) sizes.push_back(size);
  std::sort(sizes.begin(), sizes.end());
  return sizes;
}

absl::StatusOr<CgroupDirectory> CgroupDirectory::Open(std::string path) {
  CgroupDirectory directory;
  directory.fd_.Reset(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.fd_ && errno != ENOENT && errno != ENODEV)
    return ErrnoError(errno, absl::StrCat("open ", path));
  directory.path_ = std::move(path);
  return directory;
}

bool CgroupDirectory::Has(const std::string& name) const {
  return fd_ && faccessat(fd_.get(), name.c_str(), F_OK, 0) == 0;
}

absl::StatusOr<std::optional<std::string>> CgroupDirectory::Read(const std::string& name) const {
  if (!fd_) return std::nullopt;
  UniqueFd file(openat(fd_.get(), name.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> buffer;
  while (file) {
    ssize_t n = read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) break;
    text.append(buffer.data(), static_cast<size_t>(n));
    // The kernel makes such a file at once: what is less than was asked for is the rest.
    if (static_cast<size_t>(n) < buffer.size()) return text;
  }
  if (errno == ENOENT || errno == ENODEV) return std::nullopt;
  return ErrnoError(errno, absl::StrCat("read ", path_, "/", name));
}

uint64_t CgroupDirectory::ReadNumber(const std::string& name, uint64_t max) const {
  auto text = Read(name);
  if (!text.ok() || !text->has_value()) return 0;
  absl::string_view word = absl::StripAsciiWhitespace(**text);
  if (word == "max") return max;
  return ParseNumber(word).value_or(0);
}

}  // namespace feather
