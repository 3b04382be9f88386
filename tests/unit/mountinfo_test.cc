#include "runtime/mount/mountinfo.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace feather {
namespace {

TEST(MountInfo, ReadsTheKernelsLines) {
  auto mounts = ParseMountInfo(
      "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
      "37 36 0:20 / /proc rw - proc proc rw\n"
      "38 36 0:21 / /x rw shared:1 master:2 propagate_from:3 unbindable - fuse.sshfs a@b: rw\n");
  ASSERT_EQ(mounts.size(), 3U);
  EXPECT_EQ(mounts[0].id, 36);
  EXPECT_EQ(mounts[0].parent, 35);
  EXPECT_EQ(mounts[0].root, "/mnt1");
  EXPECT_EQ(mounts[0].mount_point, "/mnt2");
  EXPECT_EQ(mounts[0].type, "ext3");
  EXPECT_EQ(mounts[0].source, "/dev/root");
  EXPECT_EQ(mounts[1].type, "proc");
  EXPECT_EQ(mounts[2].type, "fuse.sshfs");
  EXPECT_EQ(mounts[2].source, "a@b:");
}

TEST(MountInfo, UndoesOctalEscapes) {
  auto mounts =
      ParseMountInfo("1 2 0:1 /r\\134 /a\\040b\\011c\\012d\\134040\\043 rw - tmpfs no\\056ne rw\n");
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_EQ(mounts[0].root, "/r\\");
  EXPECT_EQ(mounts[0].mount_point, "/a b\tc\nd\\040#");
  EXPECT_EQ(mounts[0].source, "no.ne");
}

TEST(MountInfo, LeavesIncompleteEscapesAsTheyAre) {
  auto mounts = ParseMountInfo("1 2 0:1 /\\04 /\\089\\400\\ rw - tmpfs \\ rw\n");
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_EQ(mounts[0].root, "/\\04");
  EXPECT_EQ(mounts[0].mount_point, "/\\089\\400\\");
  EXPECT_EQ(mounts[0].source, "\\");
}

TEST(MountInfo, KeepsAnEmptySource) {
  auto mounts = ParseMountInfo("1 2 0:1 / /a rw - tmpfs  rw\n");
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_EQ(mounts[0].source, "");
}

TEST(MountInfo, SkipsWhatIsNoLineOfIt) {
  EXPECT_TRUE(ParseMountInfo("").empty());
  EXPECT_TRUE(ParseMountInfo("\n\n").empty());
  EXPECT_TRUE(ParseMountInfo("1 2 0:1 / /a rw tmpfs none rw x y\n").empty());
  EXPECT_TRUE(ParseMountInfo("1 2 0:1 / /a rw a b c -\n").empty());
  EXPECT_TRUE(ParseMountInfo("x 2 0:1 / /a rw - tmpfs none rw\n").empty());
  EXPECT_EQ(ParseMountInfo("1 2 0:1\n1 2 0:1 / /a rw - tmpfs none rw").size(), 1U);
}

TEST(MountInfo, AtOrBelowMeansWholeComponents) {
  EXPECT_TRUE(IsAtOrBelow("/a/b", "/a/b"));
  EXPECT_TRUE(IsAtOrBelow("/a/b/c", "/a/b"));
  EXPECT_FALSE(IsAtOrBelow("/a/bc", "/a/b"));
  EXPECT_FALSE(IsAtOrBelow("/a", "/a/b"));
  EXPECT_TRUE(IsAtOrBelow("/a", "/"));
}

TEST(MountInfo, FindsTheMountsOfThisMachine) {
  auto mounts = MountsBelow("/proc");
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  ASSERT_FALSE(mounts->empty());
  EXPECT_EQ(mounts->back().mount_point, "/proc");
  for (const MountInfo& mount : *mounts) EXPECT_TRUE(IsAtOrBelow(mount.mount_point, "/proc"));
}

}  // namespace
}  // namespace feather
