#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/mount/options.h"

namespace feather {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

MountOptions Parsed(const std::vector<std::string>& options) {
  auto parsed = ParseMountOptions(options);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.value_or(MountOptions{});
}

// Checklist: M1.
TEST(MountOptions, EveryWordOfTheTableSetsItsFlag) {
  const std::pair<const char*, unsigned long> table[] = {{"bind", MS_BIND},
                                                         {"rbind", MS_BIND | MS_REC},
                                                         {"dirsync", MS_DIRSYNC},
                                                         {"mand", MS_MANDLOCK},
                                                         {"noatime", MS_NOATIME},
                                                         {"nodev", MS_NODEV},
                                                         {"nodiratime", MS_NODIRATIME},
                                                         {"noexec", MS_NOEXEC},
                                                         {"nosuid", MS_NOSUID},
                                                         {"relatime", MS_RELATIME},
                                                         {"remount", MS_REMOUNT},
                                                         {"ro", MS_RDONLY},
                                                         {"strictatime", MS_STRICTATIME},
                                                         {"sync", MS_SYNCHRONOUS}};
  for (const auto& [word, flag] : table) {
    MountOptions options = Parsed({word});
    EXPECT_EQ(options.flags, flag) << word;
    EXPECT_THAT(options.data, IsEmpty()) << word;
  }
}

TEST(MountOptions, EveryOppositeClearsItsFlag) {
  const std::pair<const char*, const char*> table[] = {{"sync", "async"},
                                                       {"noatime", "atime"},
                                                       {"nodev", "dev"},
                                                       {"nodiratime", "diratime"},
                                                       {"noexec", "exec"},
                                                       {"mand", "nomand"},
                                                       {"relatime", "norelatime"},
                                                       {"strictatime", "nostrictatime"},
                                                       {"ro", "rw"},
                                                       {"nosuid", "suid"}};
  for (const auto& [set, clear] : table) {
    EXPECT_EQ(Parsed({"dirsync", set, clear}).flags, static_cast<unsigned long>(MS_DIRSYNC))
        << clear;
    EXPECT_NE(Parsed({clear, set}).flags, 0UL) << set;
    EXPECT_THAT(Parsed({clear}).data, IsEmpty()) << clear;
  }
}

TEST(MountOptions, AllOtherWordsAreTheFileSystems) {
  MountOptions options =
      Parsed({"lowerdir=/a:/b", "defaults", "rprivate", "ro", "index=off", "RO"});
  EXPECT_EQ(options.flags, static_cast<unsigned long>(MS_RDONLY));
  EXPECT_EQ(options.Data(), "lowerdir=/a:/b,defaults,rprivate,index=off,RO");
}

TEST(MountOptions, LoopTakesDirectIoWithIt) {
  MountOptions options = Parsed({"direct-io", "loop", "x"});
  EXPECT_TRUE(options.loop);
  EXPECT_TRUE(options.direct_io);
  EXPECT_EQ(options.Data(), "x");
  options = Parsed({"direct-io"});
  EXPECT_FALSE(options.direct_io);
  EXPECT_EQ(options.Data(), "direct-io");
}

TEST(MountOptions, IdMapsCountOnlyTogether) {
  MountOptions options = Parsed({"uidmap=0:1000:1"});
  EXPECT_FALSE(options.idmapped());
  options = Parsed({"uidmap=0:1000:1", "gidmap=0:2000:1"});
  EXPECT_TRUE(options.idmapped());
  EXPECT_EQ(options.uid_map, "0:1000:1");
  EXPECT_EQ(options.gid_map, "0:2000:1");
  EXPECT_THAT(options.data, IsEmpty());
}

// Checklist: M8.
TEST(MountOptions, RejectsWhatTheMountManagerShouldHaveTaken) {
  auto options = ParseMountOptions({"ro", "X-containerd.mkfs.fs=ext4"});
  EXPECT_EQ(options.status().message(),
            "internal mount option \"X-containerd.mkfs.fs=ext4\" was not consumed by the mount "
            "manager");
}

TEST(Lowerdirs, AreSplitAtColonsThatAreNotEscaped) {
  EXPECT_THAT(SplitLowerdirs("/a:/b"), ElementsAre("/a", "/b"));
  EXPECT_THAT(SplitLowerdirs("/a\\:b:/c\\\\:/d\\"), ElementsAre("/a\\:b", "/c\\\\", "/d\\"));
  EXPECT_THAT(SplitLowerdirs("/a::/data"), ElementsAre("/a", "", "/data"));
  EXPECT_THAT(SplitLowerdirs(""), ElementsAre(""));
}

TEST(Lowerdirs, HaveACommonParentOfWholeComponents) {
  EXPECT_EQ(CommonParent({"/s/1/fs", "/s/10/fs", "/s/2/fs"}), "/s");
  EXPECT_EQ(CommonParent({"/s/1/fs", "/s/1/fs2"}), "/s/1");
  EXPECT_EQ(CommonParent({"/s/snap", "/s/snap/1"}), "/s");
  EXPECT_EQ(CommonParent({"/s/snap/1", "/s/snap"}), "/s");
  EXPECT_EQ(CommonParent({"/s/1/", "/s/2"}), "/s");
  EXPECT_EQ(CommonParent({"/s/1"}), "/s");
  EXPECT_EQ(CommonParent({"/s/1", "", "/s/2"}), "/s");
  EXPECT_EQ(CommonParent({"/ab/1", "/a/1"}), "");
  EXPECT_EQ(CommonParent({"/a", "/b"}), "");
  EXPECT_EQ(CommonParent({"/a/1", "b/1"}), "");
  EXPECT_EQ(CommonParent({"/"}), "");
  EXPECT_EQ(CommonParent({}), "");
}

std::vector<std::string> ManyLayers(int count) {
  std::vector<std::string> layers;
  for (int i = 0; i < count; ++i)
    layers.push_back(absl::StrCat("/var/lib/containerd/snapshots/", i, "/fs"));
  return layers;
}

// Checklist: M3.
TEST(Lowerdirs, BecomeRelativeOnlyWhenThePageWouldOverflow) {
  MountOptions options;
  options.data = {"index=off", "lowerdir=" + absl::StrJoin(ManyLayers(3), ":")};
  EXPECT_EQ(CompactLowerdirs(options, 4096), "");
  EXPECT_EQ(Lowerdirs(options), absl::StrJoin(ManyLayers(3), ":"));
  options.data[1] = "lowerdir=" + absl::StrJoin(ManyLayers(128), ":");
  ASSERT_GT(options.Data().size(), 4096U);
  EXPECT_EQ(CompactLowerdirs(options, 4096), "/var/lib/containerd/snapshots");
  EXPECT_EQ(Lowerdirs(options).substr(0, 15), "0/fs:1/fs:2/fs:");
  EXPECT_LT(options.Data().size(), 4096U);
}

TEST(Lowerdirs, StayAsTheyAreWhereThereIsNothingToGain) {
  MountOptions options;
  options.data = {absl::StrCat("lowerdir=/a/", std::string(5000, 'x'))};
  EXPECT_EQ(CompactLowerdirs(options, 4096), "");
  options.data = {absl::StrCat("lowerdir=/a:/b", std::string(5000, 'x'))};
  EXPECT_EQ(CompactLowerdirs(options, 4096), "");
  options.data = {absl::StrCat("x=", std::string(5000, 'x'))};
  EXPECT_EQ(CompactLowerdirs(options, 4096), "");
}

TEST(Lowerdirs, MoveWithTheirParent) {
  MountOptions options;
  options.data = {"lowerdir=/s/1/fs:/s/2/fs::/t/3"};
  MoveLowerdirs(options, "/s", "/tmp/x");
  EXPECT_EQ(options.Data(), "lowerdir=/tmp/x/1/fs:/tmp/x/2/fs::/t/3");
}

TEST(IdMap, IsWrittenAsTheKernelReadsIt) {
  EXPECT_EQ(ParseIdMap("0:1000:65536").value(), "0 1000 65536\n");
  EXPECT_EQ(ParseIdMap("0:1:2,3:4:4294967295").value(), "0 1 2\n3 4 4294967295\n");
}

TEST(IdMap, RejectsEverythingElse) {
  for (const char* map : {"", "0", "0:1", "0:1:0", "0:1:2:3", "a:1:2", "-1:1:2", "0:1:4294967296",
                          "0:1:2,", "0:1:2\n3:4:5"})
    EXPECT_FALSE(ParseIdMap(map).ok()) << map;
}

}  // namespace
}  // namespace feather
