#include "runtime/bundle.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"

namespace feather {
namespace {

std::string Repeated(absl::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) absl::StrAppend(&all, text);
  return all;
}

class BundleDirectory : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = absl::StrCat(testing::TempDir(), "bundle-XXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(path_); }

  void WriteConfig(absl::string_view json) {
    ASSERT_TRUE(WriteFile(path_ + "/config.json", json, 0600).ok());
  }

  std::string path_;
};

TEST(Id, AcceptsWordsWithSingleSeparators) {
  for (const char* id : {"a", "0", "a-b", "a.b_c-d", "A1b2"})
    EXPECT_TRUE(ValidateId(id).ok()) << id;
  EXPECT_TRUE(ValidateId(std::string(76, 'a')).ok());
}

TEST(Id, RejectsEverythingElse) {
  for (absl::string_view id :
       {"", "-", "-a", "a-", "a--b", "a._b", "..", "a/b", "a b", "\xc3\xa4", "a\n"})
    EXPECT_EQ(ValidateId(id).code(), absl::StatusCode::kInvalidArgument) << id;
  EXPECT_FALSE(ValidateId(absl::string_view("a\0b", 3)).ok());
  EXPECT_FALSE(ValidateId(std::string(77, 'a')).ok());
}

TEST(Id, NamesTheRejectedIdWithoutItsControlCharacters) {
  EXPECT_EQ(ValidateId("a\n").message(),
            "identifier \"a\\n\" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$");
}

TEST(Spec, ReadsWhatTheShimNeeds) {
  auto spec = ParseSpec(R"({"ociVersion":"1.0","process":{"terminal":true,"args":["sh"]},
    "root":{"path":"rootfs","readonly":true},
    "annotations":{"io.kubernetes.cri.sandbox-id":"pod","x":"y"},
    "linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"network","path":"/n"}]}})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_TRUE(spec->has_private_pid_namespace);
  EXPECT_EQ(spec->group, "pod");
}

TEST(Spec, HasTheCgroupsPath) {
  auto spec = ParseSpec(R"({"cgroupsPath":"/no","linux":{"x":{"cgroupsPath":"/no"},
    "cgroupsPath":"a.slice:b:c"}})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->cgroups_path, "a.slice:b:c");
}

// Checklist: X7.
TEST(Spec, PidNamespaceWithAPathOrWithoutAnEntryIsShared) {
  for (const char* namespaces :
       {R"([])", R"([{"type":"pid","path":"/proc/1/ns/pid"}])",
        R"([{"path":"/proc/1/ns/pid","type":"pid"},{"type":"uts"}])", R"([{"type":"ipc"}])",
        R"({"type":"pid"})", R"([[{"type":"pid"}]])", R"([{"x":{"type":"pid"}}])", R"("pid")"}) {
    auto spec = ParseSpec(absl::StrCat(R"({"linux":{"namespaces":)", namespaces, "}}"));
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_FALSE(spec->has_private_pid_namespace) << namespaces;
  }
}

TEST(Spec, PidNamespaceWithAnEmptyPathIsPrivateWhateverElseTheEntryHas) {
  for (const char* namespaces : {R"([{"type":"pid","path":""}])", R"([{"type":"pid","path":null}])",
                                 R"([{"x":[1,{"path":"/p"}],"type":"pid","y":{"path":"/q"}}])",
                                 R"([{"type":"pid","path":"/p"},{"type":"pid"}])"}) {
    auto spec = ParseSpec(absl::StrCat(R"({"Linux":{"namespaces":)", namespaces, "}}"));
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_TRUE(spec->has_private_pid_namespace) << namespaces;
  }
}

TEST(Spec, LooksAtTheRightDepthOnly) {
  auto spec = ParseSpec(R"({"x":{"linux":{"namespaces":[{"type":"pid"}]}},
    "hooks":{"process":{"terminal":true}},"annotations":{"a":{"io.containerd.runc.v2.group":"g"}},
    "root":{"x":{"path":"p"}}, "terminal":true})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->has_private_pid_namespace);
  EXPECT_EQ(spec->group, "");
}

// Checklist: L16.
TEST(Spec, ContainerdsOwnGroupGoesBeforeThePods) {
  auto spec = ParseSpec(R"({"annotations":{"io.kubernetes.cri.sandbox-id":"pod",
    "io.containerd.runc.v2.group":"mine"}})");
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->group, "mine");
}

TEST(Spec, TellsAPathInASliceFromEveryOther) {
  auto in_slice = [](const std::string& path) {
    return ParseSpec("{\"linux\":{\"cgroupsPath\":\"" + path + "\"}}")->in_slice();
  };
  EXPECT_TRUE(in_slice("kubepods-pod1.slice:cri-containerd:a"));
  for (const char* path : {"", "/k8s.io/a", "/a.slice/b", "a.slice", "a.slice:b", "a.slice:b:c:d",
                           "slice:b:c", "/a:b:c", "::"})
    EXPECT_FALSE(in_slice(path)) << path;
  EXPECT_FALSE(
      ParseSpec(R"({"cgroupsPath":"a.slice:b:c","linux":{"x":"a.slice:b:c"}})")->in_slice());
}

TEST(Spec, RejectsWhatIsNotAnObject) {
  for (absl::string_view json : {"", " ", "{", "[]", "null", "1", "\"x\"", "{}x", "{\"a\":}",
                                 "{\"a\":1e999}", "{\"a\":\"\xff\"}", "[{}]", "nul"}) {
    auto spec = ParseSpec(json);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << json;
  }
}

TEST(Spec, RejectsDeepNestingWithoutUsingTheStack) {
  for (absl::string_view open : {"[", "{\"a\":"}) {
    auto spec = ParseSpec(absl::StrCat("{\"a\":", Repeated(open, 1000000)));
    EXPECT_EQ(spec.status().message(), "JSON is nested too deeply");
  }
  EXPECT_TRUE(ParseSpec(absl::StrCat("{\"a\":", Repeated("[", 999), Repeated("]", 999), "}")).ok());
}

TEST_F(BundleDirectory, MustBeAnAbsolutePathOfADirectory) {
  EXPECT_EQ(Bundle::Open("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Bundle::Open("bundle").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Bundle::Open(std::string("/tmp\0x", 6)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Bundle::Open(path_ + "/none").status().code(), absl::StatusCode::kNotFound);
  WriteConfig("{}");
  EXPECT_EQ(Bundle::Open(path_ + "/config.json").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(BundleDirectory, GivesItsPathsAndItsSpec) {
  WriteConfig(R"({"linux":{"namespaces":[{"type":"pid"}]}})");
  auto bundle = Bundle::Open(path_);
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_EQ(bundle->path(), path_);
  EXPECT_EQ(bundle->File("init.pid"), path_ + "/init.pid");
  EXPECT_EQ(bundle->rootfs(), path_ + "/rootfs");
  EXPECT_TRUE(bundle->config_status().ok());
  EXPECT_TRUE(bundle->spec().has_private_pid_namespace);
}

TEST_F(BundleDirectory, IsRefusedWhenOthersMayWriteIntoItOrItIsAnothers) {
  for (mode_t mode : {0770, 0707, 01777, 0720}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    EXPECT_EQ(Bundle::Open(path_).status().code(), absl::StatusCode::kPermissionDenied) << mode;
  }
  for (mode_t mode : {0700, 0711, 0755}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    EXPECT_TRUE(Bundle::Open(path_).ok()) << mode;
  }
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  // With user namespaces containerd gives it the group of the container's root.
  ASSERT_EQ(chown(path_.c_str(), 0, 4711), 0);
  ASSERT_EQ(chmod(path_.c_str(), 0710), 0);
  EXPECT_TRUE(Bundle::Open(path_).ok());
  ASSERT_EQ(chown(path_.c_str(), 4711, 4711), 0);
  EXPECT_EQ(Bundle::Open(path_).status().code(), absl::StatusCode::kPermissionDenied);
  ASSERT_EQ(chown(path_.c_str(), 0, 0), 0);
}

TEST_F(BundleDirectory, CountsItsPidNamespaceAsSharedWithoutAReadableConfig) {
  auto missing = Bundle::Open(path_);
  ASSERT_TRUE(missing.ok()) << missing.status();
  EXPECT_EQ(missing->config_status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(missing->spec().has_private_pid_namespace);
  WriteConfig(R"({"linux":{"namespaces":[{"type":"pid"}]})");
  auto broken = Bundle::Open(path_);
  ASSERT_TRUE(broken.ok()) << broken.status();
  EXPECT_EQ(broken->config_status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(broken->spec().has_private_pid_namespace);
}

TEST_F(BundleDirectory, HasNoGroupWithoutAConfigAndAnErrorWithABrokenOne) {
  std::string config = path_ + "/config.json";
  auto none = ReadGroupAnnotation(config);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(*none, "");
  WriteConfig(R"({"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}})");
  EXPECT_EQ(ReadGroupAnnotation(config).value(), "pod");
  WriteConfig("{");
  EXPECT_EQ(ReadGroupAnnotation(config).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Process, TerminalIsTheRequestsAndEverythingElseStays) {
  auto process = ProcessSpec(
      R"({"terminal":true,"args":["a\u0000\"\u00e4"],"user":{"uid":0,"terminal":true},"x":[1.50,-3,
         18446744073709551615,99999999999999999999,null,{}]})",
      false);
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(*process,
            "{\"args\":[\"a\\u0000\\\"\xc3\xa4\"],\"user\":{\"uid\":0,\"terminal\":true},\"x\":["
            "1.50,-3,18446744073709551615,99999999999999999999,null,{}],\"terminal\":false}\n");
}

TEST(Process, TerminalIsReplacedInWhateverSpellingAndWhateverValue) {
  for (const char* json :
       {R"({})", R"({"Terminal":true})", R"({"TERMINAL":{"a":[{"terminal":1}]}})",
        R"({"terminal":[[]],"terminal":null})", R"({"terminal":"x"})"})
    EXPECT_EQ(ProcessSpec(json, true).value(), "{\"terminal\":true}\n") << json;
  EXPECT_EQ(ProcessSpec(R"({"terminal":[1,2],"cwd":"/"})", true).value(),
            "{\"cwd\":\"/\",\"terminal\":true}\n");
}

TEST(Process, MustBeAnObject) {
  for (absl::string_view json : {"", "null", "[]", "[{}]", "true", "{\"a\":1", "{} {}"})
    EXPECT_EQ(ProcessSpec(json, true).status().code(), absl::StatusCode::kInvalidArgument) << json;
  EXPECT_FALSE(ProcessSpec(absl::StrCat("{\"terminal\":", Repeated("[", 100000)), true).ok());
}

TEST(Update, DropsNullMembersAndKeepsAllElse) {
  EXPECT_EQ(Resources(R"({"cpu":null,"memory":{"limit":1,"swap":null},"unified":{"a":"b"},
                          "devices":[null,{"major":null}],"new":[]})")
                .value(),
            R"({"memory":{"limit":1},"unified":{"a":"b"},"devices":[null,{}],"new":[]})");
  EXPECT_EQ(Resources(R"({"cpu":null})").value(), "{}");
  EXPECT_EQ(Resources("null").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace feather
