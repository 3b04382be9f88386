#include "shim/commands/go_build_info.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"

namespace feather {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string Varint(size_t n) {
  std::string bytes;
  for (; n >= 0x80; n >>= 7) bytes += static_cast<char>(n | 0x80);
  return bytes + static_cast<char>(n);
}

std::string Section(const std::string& modules) {
  std::string section("\xff Go buildinf:\x08\x02", 16);
  section.resize(32);
  std::string marked = std::string(16, 'm') + modules + std::string(16, 'm');
  return section + Varint(8) + "go1.99.9" + Varint(marked.size()) + marked;
}

// A file that is nothing but ELF headers and that section.
std::string ElfFile(const std::string& section) {
  const std::string names("\0.shstrtab\0.go.buildinfo\0", 25);
  Elf64_Ehdr header = {};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 3;
  header.e_shstrndx = 1;
  header.e_shoff = sizeof header;
  std::vector<Elf64_Shdr> sections(3);
  size_t data = sizeof header + sections.size() * sizeof(Elf64_Shdr);
  sections[1].sh_name = 1;
  sections[1].sh_type = SHT_STRTAB;
  sections[1].sh_offset = data;
  sections[1].sh_size = names.size();
  sections[2].sh_name = 11;
  sections[2].sh_type = SHT_PROGBITS;
  sections[2].sh_offset = data + names.size();
  sections[2].sh_size = section.size();
  std::string file(reinterpret_cast<const char*>(&header), sizeof header);
  file.append(reinterpret_cast<const char*>(sections.data()), sections.size() * sizeof(Elf64_Shdr));
  return file + names + section;
}

absl::StatusOr<std::string> Read(const std::string& bytes) {
  UniqueFd file(memfd_create("binary", MFD_CLOEXEC));
  EXPECT_TRUE(WriteAll(file.get(), bytes).ok());
  return ReadGoBuildInfo(absl::StrCat("/proc/self/fd/", file.get()));
}

TEST(GoBuildInfo, IsReadFromDebiansExecutables) {
  for (const char* name : {"containerd", "ctr"}) {
    std::string path = absl::StrCat("/usr/bin/", name);
    if (access(path.c_str(), R_OK) < 0) GTEST_SKIP() << path << " is not installed";
    auto info = ReadGoBuildInfo(path);
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_THAT(*info, HasSubstr(absl::StrCat("/cmd/", name, "\n")));
    EXPECT_THAT(*info, HasSubstr("build\t-compiler=gc\n"));
    EXPECT_THAT(*info, Not(HasSubstr("go1.")));
  }
}

TEST(GoBuildInfo, IsReadFromASection) {
  std::string modules = "path\tx/y\n" + std::string(300, 'z') + "\n";
  auto info = Read(ElfFile(Section(modules)));
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(*info, modules);
}

TEST(GoBuildInfo, EveryTruncationIsAnError) {
  std::string file = ElfFile(Section("path\tx/y\n"));
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_FALSE(Read(file.substr(0, size)).ok()) << size;
}

// Whatever a byte is changed to, the answer is an error or some text.
TEST(GoBuildInfo, AnyByteMayBeWrong) {
  std::string file = ElfFile(Section("path\tx/y\n"));
  for (size_t at = 0; at < file.size(); ++at) {
    for (char value : {'\x00', '\x01', '\x7f', '\xff'}) {
      std::string changed = file;
      changed[at] = value;
      auto info = Read(changed);
      EXPECT_TRUE(!info.ok() || info->size() < file.size()) << at;
    }
  }
}

TEST(GoBuildInfo, RefusesTheFormatBeforeGo1_18) {
  std::string section = Section("path\tx\n");
  section[15] = 0;
  EXPECT_THAT(std::string(Read(ElfFile(section)).status().message()), HasSubstr("Go 1.17"));
}

TEST(GoBuildInfo, RefusesWhatIsNoGoExecutable) {
  EXPECT_FALSE(ReadGoBuildInfo("/proc/self/exe").ok());
  EXPECT_FALSE(ReadGoBuildInfo("/nonexistent").ok());
  EXPECT_FALSE(ReadGoBuildInfo("/").ok());
  EXPECT_FALSE(ReadGoBuildInfo("").ok());
}

TEST(Containerd2, IsKnownByItsModule) {
  EXPECT_TRUE(IsContainerd2("path\tgithub.com/containerd/containerd/v2/cmd/containerd\n"));
  EXPECT_TRUE(IsContainerd2("path\tx\nmod\tgithub.com/containerd/containerd/v2\t(devel)\t\n"));
  EXPECT_TRUE(IsContainerd2(
      "path\tgithub.com/k3s-io/k3s/cmd/server\nmod\tgithub.com/k3s-io/k3s\t(devel)\t\n"
      "dep\tgithub.com/k3s-io/containerd/v2\tv2.0.4\th1:x\n"));
}

TEST(Containerd2, IsNotTakenForAnother) {
  EXPECT_FALSE(IsContainerd2(""));
  EXPECT_FALSE(
      IsContainerd2("path\tgithub.com/containerd/containerd/cmd/containerd\n"
                    "mod\tgithub.com/containerd/containerd\t(devel)\t\n"
                    "dep\tgithub.com/containerd/cgroups/v3\tv3.0.2\th1:x\n"));
  EXPECT_FALSE(IsContainerd2("path\tgithub.com/containerd/containerd/v20/cmd\n"));
  EXPECT_FALSE(IsContainerd2("build\t-ldflags=/containerd/v2\n"));
  EXPECT_FALSE(IsContainerd2("dep\tx\t/containerd/v2\n"));
}

}  // namespace
}  // namespace feather
