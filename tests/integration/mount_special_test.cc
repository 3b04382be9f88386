#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "runtime/mount/idmap.h"
#include "runtime/mount/mount.h"
#include "runtime/mount/mounter.h"
#include "runtime/mount/mountinfo.h"
#include "tests/support/mounts.h"

// Loop devices, idmapped mounts, FUSE helpers, user namespaces.
namespace feather {
namespace {

using test::MountTest;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kUidMap[] = "uidmap=0:100000:1000";
constexpr char kGidMap[] = "gidmap=0:200000:1000";

class LoopMountTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (IsSkipped()) return;
    MakeDirectory("files");
    MakeFile("files/file", "text");
    MakeFile("image", "");
    ASSERT_EQ(truncate(At("image").c_str(), 16 << 20), 0);
    std::string make = absl::StrCat("PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -d '", At("files"),
                                    "' '", At("image"), "' 2>/dev/null");
    if (system(make.c_str()) != 0) GTEST_SKIP() << "mkfs.ext4 is not here or does not work";
    if (access("/dev/loop-control", R_OK | W_OK) != 0) GTEST_SKIP() << "no loop devices here";
  }

  // The loop devices that have our image behind them.
  std::vector<std::string> Devices() {
    std::vector<std::string> devices;
    for (const auto& block : std::filesystem::directory_iterator("/sys/block")) {
      std::string file = ReadFile(block.path() / "loop/backing_file").value_or("");
      if (absl::StripSuffix(file, "\n") == At("image")) devices.push_back(block.path().filename());
    }
    return devices;
  }

  // The kernel lets go of a device after the unmount has returned.
  bool DevicesAreFreed() {
    auto deadline = Clock::now() + std::chrono::seconds(60);
    while (!Devices().empty() && Clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return Devices().empty();
  }
};

// Checklist: M4.
TEST_F(LoopMountTest, MountsAFileAndFreesTheDevice) {
  absl::Status status = Mounting({{"ext4", At("image"), "", {"loop"}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Devices().size(), 1U);
  EXPECT_EQ(Read("rootfs/file"), "text");
  EXPECT_EQ(TryWriting("rootfs"), 0);
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_TRUE(DevicesAreFreed());
}

TEST_F(LoopMountTest, ReadOnlyMountNeedsOnlyToReadTheFile) {
  absl::Status status = Mounting({{"ext4", At("image"), "", {"loop", "ro"}}});
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(Devices().size(), 1U);
  EXPECT_EQ(ReadFile(absl::StrCat("/sys/block/", Devices()[0], "/ro")).value_or(""), "1\n");
  EXPECT_EQ(TryWriting("rootfs"), EROFS);
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_TRUE(DevicesAreFreed());
}

TEST_F(LoopMountTest, FailureFreesTheDevice) {
  EXPECT_THAT(std::string(Mounting({{"xfs", At("image"), "", {"loop"}}}).message()),
              HasSubstr("fstype: xfs"));
  EXPECT_TRUE(DevicesAreFreed());
  EXPECT_THAT(std::string(Mounting({{"ext4", At("none"), "", {"loop"}}}).message()),
              HasSubstr("/none: no such file or directory"));
}

class IdMapTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (IsSkipped()) return;
    MakeFile("source/file", "text");
    if (!Supported()) GTEST_SKIP() << "this kernel cannot idmap tmpfs (Linux 6.3)";
  }

  // Asked in the most direct way, so that what we test cannot pass for a missing feature.
  bool Supported() {
    auto user_namespace = MakeUserNamespace("0:1:1", "0:1:1");
    EXPECT_TRUE(user_namespace.ok()) << user_namespace.status();
    UniqueFd tree(open_tree(AT_FDCWD, At("source").c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    struct mount_attr attr = {};
    attr.attr_set = MOUNT_ATTR_IDMAP;
    attr.userns_fd = static_cast<uint64_t>(user_namespace->get());
    return mount_setattr(tree.get(), "", AT_EMPTY_PATH, &attr, sizeof attr) == 0;
  }

  std::string Owner(absl::string_view name) {
    struct stat st;
    if (stat(At(name).c_str(), &st) < 0) return strerror(errno);
    return absl::StrCat(st.st_uid, ":", st.st_gid);
  }

  static std::vector<std::string> Temporaries() {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(getenv("TMPDIR")))
      found.push_back(entry.path());
    return found;
  }
};

// Checklist: M5.
TEST_F(IdMapTest, BindShowsTheMappedOwners) {
  absl::Status status = Mounting({{"bind", At("source"), "", {"bind", kUidMap, kGidMap}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Owner("rootfs/file"), "100000:200000");
  EXPECT_THAT(MountPoints(), ElementsAre("rootfs"));
  ASSERT_TRUE(Unmounting().ok());
  EXPECT_EQ(Owner("source/file"), "0:0");
}

TEST_F(IdMapTest, ReadOnlyBindIsBoth) {
  absl::Status status = Mounting({{"bind", At("source"), "", {"bind", "ro", kUidMap, kGidMap}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Owner("rootfs/file"), "100000:200000");
  EXPECT_EQ(TryWriting("rootfs"), EROFS);
  EXPECT_EQ(TryWriting("source"), 0);
  EXPECT_THAT(MountPoints(), ElementsAre("rootfs"));
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(IdMapTest, RbindMapsTheMountsBelow) {
  MakeDirectory("source/below");
  ASSERT_EQ(mount("x", At("source/below").c_str(), "tmpfs", 0, nullptr), 0);
  absl::Status status = Mounting({{"bind", At("source"), "", {"rbind", kUidMap, kGidMap}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Owner("rootfs/below"), "100000:200000");
  EXPECT_EQ(MountPoints().size(), 3U);
  ASSERT_TRUE(Unmounting().ok());
  ASSERT_EQ(umount(At("source/below").c_str()), 0);
}

TEST_F(IdMapTest, PlainTypesAndTargetsInsideTheRootfsAreMapped) {
  MakeDirectory("source/data");
  absl::Status status = Mounting(
      {{"bind", At("source"), "", {"bind"}}, {"tmpfs", "tmpfs", "data", {kUidMap, kGidMap}}});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Owner("rootfs/data"), "100000:200000");
  EXPECT_EQ(Owner("rootfs/file"), "0:0");
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(IdMapTest, OneMapAloneIsIgnored) {
  ASSERT_TRUE(Mounting({{"bind", At("source"), "", {"bind", kUidMap}}}).ok());
  EXPECT_EQ(Owner("rootfs/file"), "0:0");
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(IdMapTest, BrokenMapsUndoTheMount) {
  for (const char* map : {"gidmap=0:1", "gidmap=0:1:1,0:2:1", "gidmap=0:4294967295:1"}) {
    EXPECT_FALSE(Mounting({{"bind", At("source"), "", {"bind", kUidMap, map}}}).ok()) << map;
    EXPECT_THAT(MountPoints(), IsEmpty()) << map;
  }
}

class IdMappedOverlayTest : public IdMapTest {
 protected:
  void SetUp() override {
    IdMapTest::SetUp();
    if (IsSkipped()) return;
    MakeDirectory("tmp");
    MakeDirectory("up");
    MakeDirectory("work");
    setenv("TMPDIR", At("tmp").c_str(), 1);
  }
  void TearDown() override {
    unsetenv("TMPDIR");
    IdMapTest::TearDown();
  }

  Mount Overlay(const std::vector<std::string>& layers) {
    return {"overlay",
            "overlay",
            "",
            {"lowerdir=" + absl::StrJoin(layers, ":"), "upperdir=" + At("up"),
             "workdir=" + At("work"), kUidMap, kGidMap}};
  }
};

// Checklist: M5.
TEST_F(IdMappedOverlayTest, ShowsTheMappedOwnersOfAllLayersAndLeavesNoTemporaryMount) {
  MakeFile("layers/1/one", "1");
  MakeFile("layers/2/sub/two", "2");
  absl::Status status = Mounting({Overlay({At("layers/2/sub"), At("layers/1")})});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Owner("rootfs/one"), "100000:200000");
  EXPECT_EQ(Owner("rootfs/two"), "100000:200000");
  EXPECT_EQ(Read("rootfs/two"), "2");
  EXPECT_THAT(MountPoints(), ElementsAre("rootfs"));
  EXPECT_THAT(Temporaries(), IsEmpty());
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(IdMappedOverlayTest, TakesASingleLayerAnd128) {
  ASSERT_TRUE(Mounting({Overlay({At("source")})}).ok());
  EXPECT_EQ(Owner("rootfs/file"), "100000:200000");
  ASSERT_TRUE(Unmounting().ok());
  std::vector<std::string> layers;
  for (int i = 0; i < 128; ++i) {
    std::string name = absl::StrCat("layers with a name that is long/", i, "/fs");
    MakeFile(absl::StrCat(name, "/", i), "text");
    layers.push_back(At(name));
  }
  absl::Status status = Mounting({Overlay(layers)});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Owner("rootfs/0"), "100000:200000");
  EXPECT_EQ(Owner("rootfs/127"), "100000:200000");
  ASSERT_TRUE(Unmounting().ok());
}

TEST_F(IdMappedOverlayTest, SeesLayersThatAreMountsThemselves) {
  MakeDirectory("layers/1");
  ASSERT_EQ(mount("x", At("layers/1").c_str(), "tmpfs", 0, nullptr), 0);
  MakeFile("layers/1/one", "1");
  MakeFile("layers/2/two", "2");
  absl::Status status = Mounting({Overlay({At("layers/2"), At("layers/1")})});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Owner("rootfs/one"), "100000:200000");
  EXPECT_EQ(Owner("rootfs/two"), "100000:200000");
  EXPECT_THAT(MountPoints(), ElementsAre("layers/1", "rootfs"));
  ASSERT_TRUE(Unmounting().ok());
  ASSERT_EQ(umount(At("layers/1").c_str()), 0);
}

TEST_F(IdMappedOverlayTest, FailureLeavesNothingBehind) {
  EXPECT_THAT(std::string(Mounting({Overlay({At("source"), At("none")})}).message()),
              HasSubstr("no such file or directory"));
  EXPECT_FALSE(Mounting({Overlay({"/a", At("source")})}).ok());
  EXPECT_THAT(Temporaries(), IsEmpty());
  EXPECT_THAT(MountPoints(), IsEmpty());
}

// The helpers are played by a script: what matters is how they are called.
class FuseTest : public MountTest {
 protected:
  void SetUp() override {
    MountTest::SetUp();
    if (IsSkipped()) return;
    path_ = getenv("PATH");
    setenv("PATH", absl::StrCat(MakeDirectory("bin"), ":", path_).c_str(), 1);
  }
  void TearDown() override {
    if (!path_.empty()) setenv("PATH", path_.c_str(), 1);
    MountTest::TearDown();
  }

  void Helper(const std::string& name, const std::string& script) {
    MakeFile("bin/" + name, "#!/bin/sh\n" + script + "\n");
    ASSERT_EQ(chmod(At("bin/" + name).c_str(), 0755), 0);
  }

 private:
  std::string path_;
};

// Checklist: M6.
TEST_F(FuseTest, HelpersAreCalledAsMountCallsThem) {
  for (std::string name : {"fuse", "fuse3"}) {
    Helper("mount." + name,
           "printf '%s|' \"$@\" >'" + At("arguments") + "' && mount -t tmpfs x \"$2\"");
    absl::Status status = Mounting({{name + ".some-fs", "a b", "", {"ro", "x=1,2"}}});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Read("arguments"), absl::StrCat("a b|", rootfs(), "|-o|ro|-o|x=1,2|-t|some-fs|"));
    EXPECT_THAT(MountPoints(), ElementsAre("rootfs"));
    ASSERT_TRUE(Unmounting().ok());
  }
}

// A container may have led a path below its rootfs elsewhere.
TEST_F(FuseTest, TheHelperUnmountsTheRootfsItselfAndNothingBelowIt) {
  if (access("/dev/fuse", R_OK | W_OK) != 0) GTEST_SKIP() << "no /dev/fuse: " << strerror(errno);
  for (const char* name : {"fusermount", "fusermount3"})
    Helper(name, "printf '%s|' \"$@\" >>'" + At("arguments") + "'; exit 1");
  ASSERT_TRUE(Mounting({{"tmpfs", "x", "", {}}}).ok());
  MakeDirectory("rootfs/below");
  for (const std::string& target : {rootfs() + "/below", rootfs()}) {
    UniqueFd device(open("/dev/fuse", O_RDWR | O_CLOEXEC));
    std::string data = absl::StrCat("fd=", device.get(), ",rootmode=40000,user_id=0,group_id=0");
    ASSERT_EQ(mount("dead", target.c_str(), "fuse", 0, data.c_str()), 0) << strerror(errno);
  }
  EXPECT_TRUE(Unmounting().ok());
  EXPECT_THAT(MountPoints(), ElementsAre());
  EXPECT_EQ(Read("arguments"), absl::StrCat("-u|", rootfs(), "|-u|", rootfs(), "|"));
}

TEST_F(FuseTest, FailureOfTheHelperIsTold) {
  Helper("mount.fuse3", "echo no way >&2; exit 4");
  EXPECT_EQ(std::string(Mounting({{"fuse3.x", "src", "", {}}}).message()),
            absl::StrCat("failed to mount rootfs component: mount helper [mount.fuse3 src ",
                         rootfs(), " -t x] failed: \"no way\\n\": exit status 4"));
}

// A remount that would clear a flag of a mount from outside is refused in a user namespace.
// Checklist: M2.
TEST_F(MountTest, ReadOnlyBindInAUserNamespaceKeepsLockedFlags) {
  MakeDirectory("source");
  ASSERT_EQ(mount("x", At("source").c_str(), "tmpfs", MS_NODEV | MS_NOSUID | MS_NOEXEC, nullptr),
            0);
  pid_t pid = fork();
  if (pid == 0) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) _exit(2);
    if (!WriteFile("/proc/self/setgroups", "deny", 0).ok() ||
        !WriteFile("/proc/self/uid_map", "0 0 1", 0).ok() ||
        !WriteFile("/proc/self/gid_map", "0 0 1", 0).ok())
      _exit(3);
    absl::Status status = MountAllBlocking({{"bind", At("source"), "", {"bind", "ro"}}}, rootfs());
    if (!status.ok()) {
      fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      _exit(4);
    }
    struct statvfs fs;
    if (statvfs(rootfs().c_str(), &fs) < 0) _exit(5);
    constexpr unsigned long kWanted = ST_RDONLY | ST_NODEV | ST_NOSUID | ST_NOEXEC;
    _exit((fs.f_flag & kWanted) == kWanted ? 0 : 6);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  ASSERT_EQ(umount(At("source").c_str()), 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 2) GTEST_SKIP() << "no user namespaces here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace feather
