#include "shim/commands/go_build_info.h"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

constexpr size_t kMaxSections = 1000;
constexpr size_t kMaxNames = size_t{64} << 10;
constexpr size_t kMaxInfo = size_t{1} << 20;

// The section: magic, pointer size and flags in 32 bytes, then two strings with a varint length
// each, Go's version and the module information, the latter between markers of 16 bytes.
constexpr absl::string_view kMagic("\xff Go buildinf:", 14);
constexpr size_t kHeader = 32;
constexpr size_t kFlags = 15;
constexpr char kInline = 2;
constexpr size_t kMarker = 16;

absl::Status Malformed(const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("no Go build information: ", what));
}

absl::Status ReadAt(int fd, uint64_t offset, void* data, size_t size) {
  ssize_t n = pread(fd, data, size, static_cast<off_t>(offset));
  if (n < 0) return ErrnoError(errno, "read");
  if (static_cast<size_t>(n) != size) return Malformed("the file is too short");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Elf64_Shdr>> ReadSections(int fd, size_t& names) {
  Elf64_Ehdr header;
  RETURN_IF_ERROR(ReadAt(fd, 0, &header, sizeof header));
  constexpr unsigned char kByteOrder =
      std::endian::native == std::endian::little ? ELFDATA2LSB : ELFDATA2MSB;
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != kByteOrder)
    return Malformed("not a 64-bit ELF file");
  if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum > kMaxSections ||
      header.e_shstrndx >= header.e_shnum)
    return Malformed("no sections");
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  RETURN_IF_ERROR(
      ReadAt(fd, header.e_shoff, sections.data(), sections.size() * sizeof(Elf64_Shdr)));
  names = header.e_shstrndx;
  return sections;
}

absl::StatusOr<std::string> ReadSection(int fd, const Elf64_Shdr& section, size_t limit) {
  if (section.sh_type == SHT_NOBITS || section.sh_size > limit) return Malformed("odd section");
  std::string data(section.sh_size, '\0');
  RETURN_IF_ERROR(ReadAt(fd, section.sh_offset, data.data(), data.size()));
  return data;
}

absl::StatusOr<absl::string_view> TakeString(absl::string_view& data) {
  uint64_t size = 0;
  for (int shift = 0;; shift += 7) {
    if (data.empty() || shift > 28) return Malformed("bad length");
    auto byte = static_cast<unsigned char>(data[0]);
    data.remove_prefix(1);
    size |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) break;
  }
  if (size > data.size()) return Malformed("bad length");
  absl::string_view text = data.substr(0, size);
  data.remove_prefix(size);
  return text;
}

bool IsContainerd2Path(absl::string_view path) {
  constexpr absl::string_view kModule = "/containerd/v2";
  size_t at = path.find(kModule);
  if (at == absl::string_view::npos) return false;
  absl::string_view rest = path.substr(at + kModule.size());
  return rest.empty() || rest[0] == '/';
}

}  // namespace

absl::StatusOr<std::string> ReadGoBuildInfo(const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  size_t names_index = 0;
  ASSIGN_OR_RETURN(std::vector<Elf64_Shdr> sections, ReadSections(fd.get(), names_index));
  ASSIGN_OR_RETURN(std::string names, ReadSection(fd.get(), sections[names_index], kMaxNames));
  auto section = std::find_if(sections.begin(), sections.end(), [&](const Elf64_Shdr& s) {
    return s.sh_name < names.size() &&
           absl::string_view(names.c_str() + s.sh_name) == absl::string_view(".go.buildinfo");
  });
  if (section == sections.end()) return Malformed("no such section");
  ASSIGN_OR_RETURN(std::string info, ReadSection(fd.get(), *section, kMaxInfo));
  if (info.size() < kHeader || !absl::StartsWith(info, kMagic)) return Malformed("bad magic");
  if ((info[kFlags] & kInline) == 0) return Malformed("made by Go 1.17 or earlier");
  absl::string_view rest = absl::string_view(info).substr(kHeader);
  ASSIGN_OR_RETURN([[maybe_unused]] absl::string_view version, TakeString(rest));
  ASSIGN_OR_RETURN(absl::string_view modules, TakeString(rest));
  if (modules.size() < 2 * kMarker) return Malformed("no modules");
  return std::string(modules.substr(kMarker, modules.size() - 2 * kMarker));
}

bool IsContainerd2(const std::string& build_info) {
  for (absl::string_view line : absl::StrSplit(build_info, '\n')) {
    for (const char* kind : {"path\t", "mod\t", "dep\t"}) {
      absl::string_view rest = line;
      if (!absl::ConsumePrefix(&rest, kind)) continue;
      if (IsContainerd2Path(rest.substr(0, rest.find('\t')))) return true;
    }
  }
  return false;
}

}  // namespace feather
