#include "shim/members.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "shim/options.h"
#include "tests/support/shim_bundle.h"

namespace feather {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class MembersTest : public testing::Test {
 protected:
  MembersTest() { fs::create_directories(pod_); }

  std::string Bundle(const std::string& id) const {
    return absl::StrCat(directory_.path(), "/", id);
  }
  // As containerd 2 makes it for a container of that pod.
  void MakeBundle(const std::string& id, const std::string& sandbox) {
    fs::create_directory(Bundle(id));
    ASSERT_TRUE(WriteFile(Bundle(id) + "/sandbox", sandbox, 0600).ok());
  }
  void Note(const std::string& id) {
    MakeBundle(id, "pod");
    ASSERT_TRUE(NoteMember(pod_, id, Bundle(id), RuntimeOptions()).ok());
  }

  test::TestDirectory directory_;
  // A sandbox' bundle lies elsewhere than its containers'.
  const std::string pod_ = directory_.path() + "/sandboxes/pod";
};

TEST_F(MembersTest, AreNotedWithTheirOptionsUntilTheyAreForgotten) {
  MakeBundle("a", "pod");
  RuntimeOptions options;
  options.binary_name = "crun";
  options.root = "/r";
  ASSERT_TRUE(NoteMember(pod_, "a", Bundle("a"), options).ok());
  Note("b");
  EXPECT_THAT(Members(pod_), UnorderedElementsAre("a", "b"));
  auto read = ReadOptions(MemberDirectory(pod_, "a"));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->binary(), "crun");
  EXPECT_EQ(read->root, "/r");
  struct stat status;
  ASSERT_EQ(stat(MemberDirectory(pod_, "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  EXPECT_EQ(fs::read_symlink(MemberBundle(pod_, "a")), Bundle("a"));

  ForgetMember(pod_, "a");
  ForgetMember(pod_, "a");
  ForgetMember(pod_, "never-one");
  EXPECT_THAT(Members(pod_), ElementsAre("b"));
  EXPECT_FALSE(fs::exists(MemberDirectory(pod_, "a")));
  ForgetMember(pod_, "b");
  EXPECT_TRUE(fs::is_empty(pod_));
}

TEST_F(MembersTest, AreThoseWhoseBundleNamesThePod) {
  MakeBundle("other", "pod2");
  fs::create_directory(Bundle("without"));
  for (const char* id : {"other", "without", "no-bundle", "pod"})
    EXPECT_TRUE(NoteMember(pod_, id, Bundle(id), RuntimeOptions()).ok()) << id;
  EXPECT_THAT(Members(pod_), IsEmpty());
  EXPECT_FALSE(fs::exists(pod_ + "/members"));
}

TEST_F(MembersTest, AreStillThereWhenTheirBundleIsGone) {
  Note("a");
  fs::remove_all(Bundle("a"));
  EXPECT_THAT(Members(pod_), ElementsAre("a"));
}

TEST_F(MembersTest, AreNotThoseWhoseNameAnotherContainerHas) {
  Note("a");
  Note("b");
  Note("c");
  MakeBundle("a", "pod2");
  fs::remove(Bundle("b") + "/sandbox");
  EXPECT_THAT(Members(pod_), ElementsAre("c"));
}

TEST_F(MembersTest, AreNotWhatElseLiesThere) {
  Note("a");
  fs::create_directory(pod_ + "/members/.b");
  fs::create_directory(pod_ + "/members/-force");
  fs::create_directory(pod_ + "/members/b c");
  fs::create_directory_symlink(MemberDirectory(pod_, "a"), pod_ + "/members/link");
  ASSERT_TRUE(WriteFile(pod_ + "/members/file", "", 0600).ok());
  EXPECT_THAT(Members(pod_), ElementsAre("a"));
  // Others may write there.
  ASSERT_EQ(chmod((pod_ + "/members").c_str(), 0777), 0);
  EXPECT_THAT(Members(pod_), IsEmpty());
}

TEST_F(MembersTest, AreNoneWithoutABundleOfThePod) {
  MakeBundle("a", "pod");
  EXPECT_TRUE(NoteMember("", "a", Bundle("a"), RuntimeOptions()).ok());
  ForgetMember("", "a");
  EXPECT_THAT(Members(""), IsEmpty());
  EXPECT_THAT(Members(Bundle("nothing")), IsEmpty());
  fs::remove_all(pod_);
  EXPECT_FALSE(NoteMember(pod_, "a", Bundle("a"), RuntimeOptions()).ok());
}

}  // namespace
}  // namespace feather
