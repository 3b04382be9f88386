#include "runtime/mount/mount.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/base/unique_fd.h"
#include "runtime/mount/mounter.h"
#include "tests/support/mounts.h"

namespace feather {
namespace {

using test::MountTest;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

class MountAllTest : public MountTest {};
class UnmountAllTest : public MountTest {};

Mount Tmpfs(std::string target = "", std::vector<std::string> options = {}) {
  return {"tmpfs", "tmpfs", std::move(target), std::move(options)};
}

Mount Bind(std::string source, std::string target = "", std::vector<std::string> options = {}) {
  options.insert(options.begin(), "bind");
  return {"bind", std::move(source), std::move(target), std::move(options)};
}

TEST_F(MountAllTest, NoMountsAreSuccess) { EXPECT_TRUE(Mounting({}).ok()); }

TEST_F(MountAllTest, BindShowsTheSource) {
  MakeFile("source/file", "text");
  ASSERT_TRUE(Mounting({Bind(At("source"))}).ok());
  EXPECT_EQ(Read("rootfs/file"), "text");
  EXPECT_EQ(TryWriting("rootfs"), 0);
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_TRUE(std::filesystem::is_empty(rootfs()));
}

// Checklist: M2.
TEST_F(MountAllTest, ReadOnlyBindRefusesWritesThatTheSourceTakes) {
  MakeDirectory("source");
  ASSERT_TRUE(Mounting({Bind(At("source"), "", {"ro"})}).ok());
  EXPECT_EQ(TryWriting("rootfs"), EROFS);
  EXPECT_EQ(TryWriting("source"), 0);
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(MountAllTest, RbindTakesTheMountsBelowTheSourceAlong) {
  MakeDirectory("source/below");
  ASSERT_EQ(mount("x", At("source/below").c_str(), "tmpfs", 0, nullptr), 0);
  MakeFile("source/below/file", "text");
  ASSERT_TRUE(Mounting({Bind(At("source"))}).ok());
  EXPECT_THAT(Read("rootfs/below/file"), HasSubstr("no such file"));
  ASSERT_TRUE(Unmounting().ok());
  ASSERT_TRUE(Mounting({{"none", At("source"), "", {"rbind", "rw"}}}).ok());
  EXPECT_EQ(Read("rootfs/below/file"), "text");
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_EQ(Read("source/below/file"), "text");
  ASSERT_EQ(umount(At("source/below").c_str()), 0);
}

TEST_F(MountAllTest, PlainTypesGetTheirFlagsAndData) {
  ASSERT_TRUE(Mounting({Tmpfs("", {"nosuid", "mode=0711", "noexec", "size=1M"})}).ok());
  struct stat st;
  ASSERT_EQ(stat(rootfs().c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0711U);
  struct statvfs fs;
  ASSERT_EQ(statvfs(rootfs().c_str(), &fs), 0);
  EXPECT_EQ(fs.f_flag & (ST_NOSUID | ST_NOEXEC | ST_NODEV), ST_NOSUID | ST_NOEXEC);
  EXPECT_EQ(fs.f_blocks * fs.f_frsize, 1U << 20);
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(MountAllTest, RemountsReadOnly) {
  MakeDirectory("source");
  ASSERT_TRUE(Mounting({Bind(At("source")), Bind("", "", {"remount", "ro"})}).ok());
  EXPECT_EQ(TryWriting("rootfs"), EROFS);
  EXPECT_THAT(MountPoints(), ElementsAre("rootfs"));
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(MountAllTest, OverlayStacksItsLayers) {
  MakeFile("1/file", "lower");
  MakeFile("1/low", "low");
  MakeFile("2/file", "upper");
  MakeDirectory("up");
  MakeDirectory("work");
  ASSERT_TRUE(Mounting({{"overlay",
                         "overlay",
                         "",
                         {absl::StrCat("lowerdir=", At("2"), ":", At("1")), "upperdir=" + At("up"),
                          "workdir=" + At("work")}}})
                  .ok());
  EXPECT_EQ(Read("rootfs/file"), "upper");
  EXPECT_EQ(Read("rootfs/low"), "low");
  MakeFile("rootfs/new", "new");
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_EQ(Read("up/new"), "new");
}

// Checklist: M3.
TEST_F(MountAllTest, OverlayTakes128LayersThatDoNotFitIntoAPage) {
  std::vector<std::string> layers;
  for (int i = 0; i < 128; ++i) {
    std::string name = absl::StrCat("a directory that snapshots of images lie in/", i, "/fs");
    MakeFile(absl::StrCat(name, "/", i), "text");
    layers.push_back(At(name));
  }
  std::string lowerdir = "lowerdir=" + absl::StrJoin(layers, ":");
  ASSERT_GT(lowerdir.size(), 4096U);
  std::string here = std::filesystem::current_path();
  absl::Status status = Mounting({{"overlay", "overlay", "", {lowerdir}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(std::filesystem::current_path(), here);
  for (int i = 0; i < 128; ++i) EXPECT_EQ(Read(absl::StrCat("rootfs/", i)), "text");
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(MountAllTest, OptionsThatCannotBeMadeToFitAreAnError) {
  std::string lowerdir = absl::StrCat("lowerdir=/a:/b", std::string(5000, 'x'));
  EXPECT_EQ(Mounting({{"overlay", "overlay", "", {lowerdir}}}).message(),
            "failed to mount rootfs component: mount options is too long");
}

TEST_F(MountAllTest, FailureOfOneUndoesThoseBefore) {
  MakeDirectory("source/sub");
  absl::Status status =
      Mounting({Bind(At("source")), Tmpfs("/sub"), Tmpfs(), {"ext4", At("no \"device\""), "", {}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(status.message(),
            absl::StrCat("failed to mount rootfs component: mount source: \"", At("no "),
                         "\\\"device\\\"\", target: \"", rootfs(),
                         "\", fstype: ext4, flags: 0, data: \"\", err: no such file or directory"));
  EXPECT_THAT(MountPoints(), IsEmpty());
}

TEST_F(MountAllTest, ErrorsHaveGosTexts) {
  absl::Status status = Mounting({{"no-such-fs", "none", "", {"ro", "x=1", "y"}}});
  EXPECT_EQ(
      status.message(),
      absl::StrCat("failed to mount rootfs component: mount source: \"none\", target: \"", rootfs(),
                   "\", fstype: no-such-fs, flags: 1, data: \"x=1,y\", err: "
                   "no such device"));
  EXPECT_EQ(Mounting({Tmpfs("", {"X-containerd.mkdir.path=/x"})}).message(),
            "failed to mount rootfs component: internal mount option "
            "\"X-containerd.mkdir.path=/x\" was not consumed by the mount manager");
}

TEST_F(MountAllTest, RejectsNulInAnyField) {
  std::string nul(1, '\0');
  for (const Mount& mount : {Bind(At("rootfs") + nul), Tmpfs("a" + nul), Tmpfs("", {"ro" + nul}),
                             Mount{"tmpfs" + nul, "x", "", {}}})
    EXPECT_THAT(std::string(Mounting({mount}).message()), HasSubstr("NUL"));
}

TEST_F(MountAllTest, RootfsThatDoesNotExistIsAnError) {
  ASSERT_EQ(rmdir(rootfs().c_str()), 0);
  EXPECT_THAT(std::string(Mounting({Tmpfs()}).message()), HasSubstr("no such file or directory"));
  EXPECT_THAT(std::string(Mounting({Tmpfs("x")}).message()),
              HasSubstr("no such file or directory"));
}

// Checklist: M7.
TEST_F(MountAllTest, TargetsLieInsideTheRootfs) {
  MakeDirectory("source/data/deep");
  ASSERT_TRUE(Mounting({Bind(At("source")), Tmpfs("data/deep"), Tmpfs("/data/deep")}).ok());
  EXPECT_THAT(MountPoints(), ElementsAre("rootfs", "rootfs/data/deep", "rootfs/data/deep"));
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(MountAllTest, TargetMustExist) {
  EXPECT_EQ(Mounting({Tmpfs(), Tmpfs("none")}).message(),
            absl::StrCat("failed to mount rootfs component: open none in ", rootfs(),
                         ": no such file or directory"));
}

// Checklist: M7.
TEST_F(MountAllTest, SymbolicLinksOfAnImageCannotLeadOutOfTheRootfs) {
  MakeDirectory("outside/victim");
  MakeDirectory("source/inside");
  std::string up = "../../../../../../../..";
  ASSERT_EQ(symlink(At("outside/victim").c_str(), At("source/absolute").c_str()), 0);
  ASSERT_EQ(symlink(absl::StrCat(up, At("outside/victim")).c_str(), At("source/relative").c_str()),
            0);
  ASSERT_EQ(symlink("/inside", At("source/good").c_str()), 0);
  ASSERT_EQ(symlink("loop", At("source/loop").c_str()), 0);
  ASSERT_EQ(symlink("/proc/self/root", At("source/magic").c_str()), 0);
  for (std::string target : {"absolute", "relative", "loop", "magic", "/absolute"}) {
    EXPECT_FALSE(Mounting({Bind(At("source")), Tmpfs(target)}).ok()) << target;
    EXPECT_THAT(MountPoints(), IsEmpty()) << target;
  }
  EXPECT_FALSE(Mounting({Bind(At("source")), Tmpfs(absl::StrCat(up, At("outside/victim")))}).ok());
  ASSERT_TRUE(
      Mounting({Bind(At("source")), Tmpfs("good"), Tmpfs("../.."), Tmpfs("/", {"ro"})}).ok());
  EXPECT_THAT(MountPoints(), ElementsAre("rootfs", "rootfs", "rootfs", "rootfs/inside"));
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(MountAllTest, ReadOnlyBindInsideTheRootfsIsTheNewMountAndNotTheCoveredOne) {
  MakeDirectory("source/data");
  MakeDirectory("volume");
  ASSERT_TRUE(Mounting({Bind(At("source")), Bind(At("volume"), "data", {"ro"})}).ok());
  EXPECT_EQ(TryWriting("rootfs/data"), EROFS);
  EXPECT_EQ(TryWriting("rootfs"), 0);
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(UnmountAllTest, NothingToDoIsSuccess) {
  EXPECT_TRUE(Unmounting().ok());
  EXPECT_TRUE(Unmounting(At("none")).ok());
  EXPECT_TRUE(Unmounting(At("none/none")).ok());
}

// Checklist: M9.
TEST_F(UnmountAllTest, TakesNestedAndStackedMountsAndLeavesTheNeighbours) {
  MakeDirectory("rootfs2");
  ASSERT_EQ(mount("x", At("rootfs2").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_TRUE(Mounting({Tmpfs(), Tmpfs()}).ok());
  MakeDirectory("rootfs/a b/c\\d");
  ASSERT_TRUE(Mounting({Tmpfs("a b"), Tmpfs("a b")}).ok());
  MakeDirectory("rootfs/a b/new\nline");
  ASSERT_TRUE(Mounting({Tmpfs("a b/new\nline")}).ok());
  EXPECT_EQ(MountPoints().size(), 6U);
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_THAT(MountPoints(), ElementsAre("rootfs2"));
  EXPECT_EQ(umount(At("rootfs2").c_str()), 0);
}

TEST_F(UnmountAllTest, TakesAMountWhoseMountPointAnotherOneHasCovered) {
  ASSERT_TRUE(Mounting({Tmpfs()}).ok());
  MakeDirectory("rootfs/a/b");
  ASSERT_TRUE(Mounting({Tmpfs("a/b"), Tmpfs("a")}).ok());
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_THAT(MountPoints(), IsEmpty());
}

TEST_F(UnmountAllTest, FollowsALinkToTheRootfsItself) {
  ASSERT_EQ(symlink("rootfs", At("link").c_str()), 0);
  ASSERT_TRUE(Mounting({Tmpfs()}).ok());
  ASSERT_TRUE(Unmounting(At("link")).ok());
  EXPECT_THAT(MountPoints(), IsEmpty());
}

// Checklist: K7.
TEST_F(UnmountAllTest, BusyMountIsAnErrorUntilItIsLeft) {
  ASSERT_TRUE(Mounting({Tmpfs()}).ok());
  MakeDirectory("rootfs/sub");
  ASSERT_TRUE(Mounting({Tmpfs("sub")}).ok());
  UniqueFd user(open(At("rootfs/sub").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  absl::Status status = Unmounting();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(status.message(),
            absl::StrCat("failed to unmount target ", rootfs(), ": device or resource busy"));
  user.Reset();
  EXPECT_TRUE(Unmounting().ok());
}

TEST_F(UnmountAllTest, WaitsForABusyMountToBeLeftWhileTheLoopRuns) {
  ASSERT_TRUE(Mounting({Tmpfs()}).ok());
  UniqueFd user(open(rootfs().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  asio::steady_timer timer(io_, std::chrono::milliseconds(200));
  timer.async_wait([&](auto) { user.Reset(); });
  EXPECT_TRUE(Unmounting().ok());
  EXPECT_FALSE(user.valid());
}

// What a container may do between our reading of mountinfo and umount2(2).
TEST_F(UnmountAllTest, IsNotLedAwayByADirectoryThatBecameALink) {
  MakeDirectory("outside/b");
  ASSERT_EQ(mount("x", At("outside/b").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_TRUE(Mounting({Tmpfs()}).ok());
  ASSERT_EQ(symlink(At("outside").c_str(), At("rootfs/a").c_str()), 0);
  ASSERT_EQ(symlink(At("outside/b").c_str(), At("rootfs/b").c_str()), 0);
  std::string here = std::filesystem::current_path();
  EXPECT_EQ(UnmountAt(At("rootfs/a/b")), ELOOP);
  EXPECT_EQ(UnmountAt(At("rootfs/b")), EINVAL);
  std::filesystem::current_path(here);
  EXPECT_THAT(MountPoints(), ElementsAre("outside/b", "rootfs"));
  ASSERT_EQ(umount(At("outside/b").c_str()), 0);
  EXPECT_TRUE(Unmounting().ok());
}

}  // namespace
}  // namespace feather
