#include "runtime/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/directory_tree.h"
#include "runtime/base/file.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/shim_bundle.h"

namespace feather {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr char kHybridMounts[] =
    "23 1 0:20 / / rw,relatime - ext4 /dev/vda rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
constexpr char kUnifiedMounts[] =
    "23 1 0:20 / / rw,relatime - ext4 /dev/vda rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

// Checklist: O1.
TEST(ParseCgroup, TakesEveryMountedControllerOfAHybridHost) {
  auto cgroup = ParseCgroup(false,
                            "9:name=systemd:/\n8:pids:/a\n4:memory:/kubepods/pod:1/c\n"
                            "2:cpu,cpuacct:/b\n0::/ignored\n",
                            kHybridMounts);
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_FALSE(cgroup->unified);
  EXPECT_EQ(cgroup->path, "");
  EXPECT_THAT(cgroup->controllers,
              UnorderedElementsAre(Pair("name=systemd", "/sys/fs/cgroup/systemd"),
                                   Pair("memory", "/sys/fs/cgroup/memory/kubepods/pod:1/c"),
                                   Pair("cpu", "/sys/fs/cgroup/cpu,cpuacct/b"),
                                   Pair("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/b")));
}

TEST(ExpectedMemoryCgroup, IsWhatTheCgroupsPathSays) {
  const auto below = [](const char* cgroups_path) {
    return ExpectedMemoryCgroup(/*unified=*/true, cgroups_path);
  };
  EXPECT_EQ(ExpectedMemoryCgroup(/*unified=*/false, "/default/a"),
            "/sys/fs/cgroup/memory/default/a");
  EXPECT_EQ(below("/default/a/"), "/sys/fs/cgroup/default/a");
  EXPECT_EQ(below("system.slice:docker:a"), "/sys/fs/cgroup/system.slice/docker-a.scope");
  EXPECT_EQ(below(":cri:a"), "/sys/fs/cgroup/system.slice/cri-a.scope");
  EXPECT_EQ(below("a.slice::b"), "/sys/fs/cgroup/a.slice/b.scope");
  EXPECT_EQ(below("-.slice:cri:a"), "/sys/fs/cgroup/cri-a.scope");
  EXPECT_EQ(below("kube-burst-pod1.slice:cri:a"),
            "/sys/fs/cgroup/kube.slice/kube-burst.slice/kube-burst-pod1.slice/cri-a.scope");
}

TEST(ExpectedMemoryCgroup, IsEmptyWhereThePathDoesNotSay) {
  for (const char* cgroups_path : {"", "a", "a/b", "/", "/../a", "/a/..", "a:b", "a:b:c",
                                   "a.slice:b:", "a.slice:b:c:d", "a.slice:/../:c"})
    EXPECT_EQ(ExpectedMemoryCgroup(/*unified=*/true, cgroups_path), "") << cgroups_path;
}

TEST(PossibleMemoryCgroups, AreTheOneWhereThePathSaysItAndNoneWhereItClimbs) {
  for (const char* path : {"/default/a", "a.slice:cri:b"})
    EXPECT_THAT(PossibleMemoryCgroups(/*unified=*/true, path, "id"),
                ElementsAre(ExpectedMemoryCgroup(/*unified=*/true, path)))
        << path;
  for (const char* path : {"../a", "a/../b", "a/..", "/../a", "a:b", "a:b:c", "/"})
    EXPECT_THAT(PossibleMemoryCgroups(/*unified=*/true, path, "id"), ElementsAre()) << path;
  EXPECT_THAT(PossibleMemoryCgroups(/*unified=*/true, "", "../id"), ElementsAre());
}

// As seen from a cgroup two below the root.
TEST(PossibleMemoryCgroups, OfARelativePathAreBelowTheRootAndThisProcesssOwnAndBesideThat) {
  const auto cgroup1 = test::Cgroup1MemoryRoot();
  const std::string root =
      cgroup1.value_or(test::Cgroup2MemoryRoot().value_or("no memory controller"));
  if (!absl::StartsWith(root, "/sys/fs/cgroup")) GTEST_SKIP() << root;
  test::MemoryCgroup above(root, absl::StrCat("feather-test-", getpid()));
  test::MemoryCgroup own(above.path(), "own");
  for (const std::string path : {"x/y", ""}) {
    test::Member process(own, [&] {
      const std::string name = path.empty() ? "id" : path;
      const std::vector<std::string> expected = {absl::StrCat(root, "/", name),
                                                 absl::StrCat(own.path(), "/", name),
                                                 absl::StrCat(above.path(), "/", name)};
      if (PossibleMemoryCgroups(!cgroup1, path, "id") != expected) _exit(1);
    });
    process.Go();
    EXPECT_EQ(process.Wait(), 0) << path;
  }
}

// Checklist: O1.
TEST(ParseCgroup, TakesTheOnePathOfAUnifiedHost) {
  auto cgroup =
      ParseCgroup(true, "1:name=systemd:/x\n0::/kubepods.slice/c.scope\n", kUnifiedMounts);
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_TRUE(cgroup->unified);
  EXPECT_EQ(cgroup->path, "/sys/fs/cgroup/kubepods.slice/c.scope");
  EXPECT_TRUE(cgroup->controllers.empty());
  EXPECT_FALSE(cgroup->local_events);
}

TEST(ParseCgroup, SaysWhetherCountersLeaveOutTheCgroupsBelow) {
  auto cgroup = ParseCgroup(true, "0::/c\n",
                            "31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 "
                            "rw,nsdelegate,memory_localevents\n");
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_TRUE(cgroup->local_events);
}

TEST(ParseCgroup, TakesWhatCoversTheRest) {
  auto cgroup = ParseCgroup(
      true, "0::/c\n",
      absl::StrCat(kHybridMounts, "50 31 0:38 /c /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"));
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_EQ(cgroup->path, "/sys/fs/cgroup");
}

TEST(ParseCgroup, CountsFromTheCgroupThatIsMounted) {
  const char mounts[] =
      "35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "36 31 0:33 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
  auto cgroup = ParseCgroup(false, "2:pids:/docker/xy\n1:memory:/docker/x/c\n", mounts);
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_THAT(cgroup->controllers, ElementsAre(Pair("memory", "/sys/fs/cgroup/memory/c")));
}

TEST(ParseCgroup, PrefersTheUsualPlaceOfARepeatedMount) {
  const char mounts[] =
      "35 31 0:32 / /mnt/with\\040blank rw - cgroup cgroup rw,memory\n"
      "36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "37 31 0:33 / /mnt/with\\040blank rw - cgroup cgroup rw,pids\n";
  auto cgroup = ParseCgroup(false, "1:memory:/c\n2:pids:/c\n", mounts);
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_THAT(cgroup->controllers, UnorderedElementsAre(Pair("memory", "/sys/fs/cgroup/memory/c"),
                                                        Pair("pids", "/mnt/with blank/c")));
}

TEST(ParseCgroup, KnowsNothingOfCgroupsThatCannotBeSeen) {
  for (const char* text : {"0::/../other\n", "0::/a/../b\n", "0::relative\n", "", "garbage\n::\n"})
    EXPECT_TRUE(absl::IsNotFound(ParseCgroup(true, text, kUnifiedMounts).status())) << text;
  EXPECT_TRUE(absl::IsNotFound(ParseCgroup(false, "4:memory:/c\n", kUnifiedMounts).status()));
  EXPECT_TRUE(absl::IsNotFound(ParseCgroup(true, "0::/c\n", "1 2 - cgroup2 x y\n").status()));
}

TEST(ParseCgroup, StripsTheMarkOfARemovedCgroup) {
  auto cgroup = ParseCgroup(true, "0::/c (deleted)\n", kUnifiedMounts);
  ASSERT_TRUE(cgroup.ok()) << cgroup.status();
  EXPECT_EQ(cgroup->path, "/sys/fs/cgroup/c");
}

TEST(FindCgroup, FindsThatOfThisProcess) {
  auto cgroup = FindCgroup(getpid());
  if (!cgroup.ok()) GTEST_SKIP() << "no cgroups here: " << cgroup.status();
  auto pids = CgroupPids(*cgroup);
  ASSERT_TRUE(pids.ok()) << pids.status();
  EXPECT_THAT(*pids, ::testing::Contains(getpid()));
}

// Checklist: C11.
TEST(FindCgroup, IsNotFoundOnceTheProcessHasEnded) {
  pid_t pid = fork();
  if (pid == 0) _exit(0);
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  auto zombie = FindCgroup(pid);
  // cgroup2 still tells where a zombie was.
  EXPECT_TRUE(absl::IsNotFound(zombie.status()) || (zombie.ok() && zombie->unified));
  ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
  EXPECT_FALSE(FindCgroup(pid).ok());
}

// A cgroup tree of plain files.
class FakeTreeTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const {
    return absl::StrCat(directory_.path(), name.empty() ? "" : "/", name);
  }
  void Add(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(Path(name)).parent_path());
    ASSERT_TRUE(WriteFile(Path(name), text, 0644).ok());
  }
  std::string Read(const std::string& name) const { return *ReadFile(Path(name)); }

  test::TestDirectory directory_;
};

using CgroupPidsTest = FakeTreeTest;

TEST_F(CgroupPidsTest, ListsThoseBelowToo) {
  Add("c/cgroup.procs", "30\n10\n10\n0\n");
  Add("c/a/cgroup.procs", "20\n");
  Add("c/a/b/cgroup.procs", "40\n");
  Add("c/empty/cgroup.procs", "");
  Add("other/cgroup.procs", "99\n");
  Cgroup cgroup;
  cgroup.unified = true;
  cgroup.path = Path("c");
  EXPECT_THAT(*CgroupPids(cgroup), ElementsAre(10, 20, 30, 40));
}

TEST_F(CgroupPidsTest, PassesOverWhatItCannotRead) {
  Add("c/cgroup.procs", "30\nnonsense\n-4\n99999999999999\n");
  // As of a cgroup that has vanished, and of a threaded one.
  std::filesystem::create_directories(Path("c/vanished"));
  std::filesystem::create_directories(Path("c/threaded/cgroup.procs"));
  Cgroup cgroup;
  cgroup.unified = true;
  cgroup.path = Path("c");
  EXPECT_THAT(*CgroupPids(cgroup), ElementsAre(30));
}

TEST_F(CgroupPidsTest, LooksAtSoManyCgroupsOnlyTheNearestFirst) {
  Add("c/cgroup.procs", "1\n");
  for (size_t i = 0; i < kMostCgroups + 5; ++i) {
    // Deep in the first ones that are made.
    std::string name = i < 10 ? absl::StrCat("c/", i, "/below") : absl::StrCat("c/", i);
    Add(name + "/cgroup.procs", absl::StrCat(100 + i, "\n"));
  }
  Cgroup cgroup;
  cgroup.unified = true;
  cgroup.path = Path("c");
  auto pids = CgroupPids(cgroup);
  ASSERT_TRUE(pids.ok()) << pids.status();
  // The top, and those directly below it: some that are not among the first ten.
  EXPECT_GT(pids->size(), kMostCgroups - 11);
  EXPECT_LE(pids->size(), kMostCgroups);
  EXPECT_EQ(pids->front(), 1);
  EXPECT_EQ(DirectoryTree(Path("c"), 10).size(), 10u);
}

TEST_F(CgroupPidsTest, FollowsNoSymbolicLink) {
  Add("c/cgroup.procs", "1\n");
  Add("other/cgroup.procs", "99\n");
  std::filesystem::create_directory_symlink(Path("other"), Path("c/link"));
  std::filesystem::create_directory_symlink(Path("c"), Path("c/loop"));
  Cgroup cgroup;
  cgroup.unified = true;
  cgroup.path = Path("c");
  EXPECT_THAT(*CgroupPids(cgroup), ElementsAre(1));
}

TEST_F(CgroupPidsTest, AsksOneHierarchyOfCgroup1) {
  Add("devices/cgroup.procs", "1\n");
  Add("memory/cgroup.procs", "2\n");
  Cgroup cgroup;
  cgroup.controllers = {{"devices", Path("devices")}, {"memory", Path("memory")}};
  EXPECT_THAT(*CgroupPids(cgroup), ElementsAre(1));
  cgroup.controllers.erase("devices");
  EXPECT_THAT(*CgroupPids(cgroup), ElementsAre(2));
}

TEST_F(CgroupPidsTest, IsNotFoundWithoutACgroup) {
  Cgroup cgroup;
  EXPECT_TRUE(absl::IsNotFound(CgroupPids(cgroup).status()));
  cgroup.unified = true;
  cgroup.path = Path("none");
  EXPECT_TRUE(absl::IsNotFound(CgroupPids(cgroup).status()));
}

using IsFrozenTest = FakeTreeTest;

TEST_F(IsFrozenTest, ReadsWhatEitherHierarchyHas) {
  Cgroup v1;
  EXPECT_FALSE(IsFrozen(v1).ok());
  v1.controllers["freezer"] = Path("v1");
  Cgroup v2;
  v2.unified = true;
  v2.path = Path("v2");
  for (const Cgroup& cgroup : {v1, v2}) EXPECT_FALSE(IsFrozen(cgroup).ok());
  for (const char* state : {"THAWED\n", "FREEZING\n", "FROZEN\n"}) {
    const bool frozen = *state == 'F';
    Add("v1/freezer.state", state);
    Add("v2/cgroup.freeze", frozen ? "1\n" : "0\n");
    for (const Cgroup& cgroup : {v1, v2}) EXPECT_EQ(IsFrozen(cgroup).value(), frozen) << state;
  }
}

using EnableControllersTest = FakeTreeTest;

// Checklist: C12.
TEST_F(EnableControllersTest, WritesWhatIsMissingInEveryAncestor) {
  Add("cgroup.controllers", "cpu io memory pids\n");
  Add("cgroup.subtree_control", "cpu io memory pids\n");
  Add("a/cgroup.subtree_control", "");
  Add("a/b/cgroup.subtree_control", "memory\n");
  Add("a/b/c/cgroup.subtree_control", "");
  absl::Status status = EnableControllers(directory_.path(), Path("a/b/c"));
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(Read("cgroup.subtree_control"), "cpu io memory pids\n");
  EXPECT_EQ(Read("a/cgroup.subtree_control"), "+cpu +io +memory +pids");
  // The kernel's file takes commands: a plain one is written over from its start.
  EXPECT_EQ(Read("a/b/cgroup.subtree_control"), "+cpu +io +pids");
  EXPECT_EQ(Read("a/b/c/cgroup.subtree_control"), "");
}

TEST_F(EnableControllersTest, ReportsOnlyTheErrorThatMatters) {
  Add("cgroup.controllers", "memory\n");
  Add("a/b/cgroup.subtree_control", "");
  // Of the root and of `a`, which lack the file, nothing is heard once `b` has taken it.
  EXPECT_TRUE(EnableControllers(directory_.path(), Path("a/b/c")).ok());
  EXPECT_FALSE(EnableControllers(directory_.path(), Path("a/c")).ok());
}

TEST_F(EnableControllersTest, HasNothingToDoOutsideOfTheTree) {
  EXPECT_TRUE(EnableControllers(directory_.path(), "/elsewhere/c").ok());
  Add("cgroup.controllers", "memory\n");
  EXPECT_TRUE(EnableControllers(directory_.path(), directory_.path() + "/").ok());
  EXPECT_TRUE(EnableControllers(Cgroup()).ok());
}

}  // namespace
}  // namespace feather
