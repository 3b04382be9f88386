#include "shim/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>

#include "proto/linux_runc_options.pb.h"
#include "proto/runc_options.pb.h"
#include "proto/runtimeoptions.pb.h"
#include "runtime/base/file.h"

namespace feather {
namespace {

using testing::HasSubstr;

google::protobuf::Any Any(const std::string& type, const std::string& value) {
  google::protobuf::Any any;
  any.set_type_url(type);
  any.set_value(value);
  return any;
}

google::protobuf::Any Toml(const std::string& text) {
  runtimeoptions::v1::Options message;
  message.set_config_body(text);
  return Any("runtimeoptions.v1.Options", message.SerializeAsString());
}

google::protobuf::Any TomlFile(const std::string& path) {
  runtimeoptions::v1::Options message;
  message.set_config_path(path);
  return Any("runtimeoptions.v1.Options", message.SerializeAsString());
}

void ExpectRefused(const google::protobuf::Any& any, const std::string& text) {
  auto options = DecodeOptions(any);
  ASSERT_FALSE(options.ok());
  EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(options.status().message()), HasSubstr(text));
}

class OptionsTest : public testing::Test {
 protected:
  OptionsTest() {
    std::string pattern = testing::TempDir() + "/options-XXXXXX";
    directory_ = mkdtemp(pattern.data());
  }
  ~OptionsTest() override { std::filesystem::remove_all(directory_); }
  std::string directory_;
};

TEST(Options, AnAbsentMessageHasTheDefaults) {
  auto options = DecodeOptions(google::protobuf::Any());
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->binary(), "runc");
  EXPECT_EQ(options->root, "");
  EXPECT_FALSE(options->systemd_cgroup);
}

// Checklist: C1.
TEST(Options, DecodesEveryFieldOfRuncOptionsWithAndWithoutAUrlPrefix) {
  containerd::runc::v1::Options message;
  message.set_no_pivot_root(true);
  message.set_no_new_keyring(true);
  message.set_shim_cgroup("/shim");
  message.set_io_uid(1);
  message.set_io_gid(2);
  message.set_binary_name("crun");
  message.set_root("/run/x");
  message.set_criu_path("/criu");
  message.set_systemd_cgroup(true);
  message.set_criu_image_path("/image");
  message.set_criu_work_path("/work");
  message.set_task_api_address("ttrpc+unix:///x");
  message.set_task_api_version(3);
  for (const char* prefix : {"", "type.googleapis.com/", "a/b/"}) {
    auto options = DecodeOptions(
        Any(prefix + std::string("containerd.runc.v1.Options"), message.SerializeAsString()));
    ASSERT_TRUE(options.ok()) << options.status();
    EXPECT_TRUE(options->no_pivot_root);
    EXPECT_TRUE(options->no_new_keyring);
    EXPECT_EQ(options->shim_cgroup, "/shim");
    EXPECT_EQ(options->io_uid, 1u);
    EXPECT_EQ(options->io_gid, 2u);
    EXPECT_EQ(options->binary(), "crun");
    EXPECT_EQ(options->root, "/run/x");
    EXPECT_EQ(options->criu_path, "/criu");
    EXPECT_TRUE(options->systemd_cgroup);
    EXPECT_EQ(options->criu_image_path, "/image");
    EXPECT_EQ(options->criu_work_path, "/work");
    EXPECT_EQ(options->task_api_address, "ttrpc+unix:///x");
    EXPECT_EQ(options->task_api_version, 3u);
  }
}

// What CRI of containerd 1.7 and 2.x makes of an options table.
// Checklist: C1.
TEST(Options, DecodesTomlInTheSpellingOfCri) {
  auto options = DecodeOptions(
      Toml("BinaryName = \"/usr/bin/crun\"\nCriuImagePath = \"\"\nCriuPath = \"\"\n"
           "CriuWorkPath = \"/w\"\nIoGid = 7\nIoUid = 4294967295\nNoNewKeyring = true\n"
           "NoPivotRoot = false\nRoot = \"/r\"\nShimCgroup = \"/s\"\nSystemdCgroup = true\n"
           "TaskApiAddress = \"a\"\nTaskApiVersion = 3\nTypeUrl = \"x\"\nConfigPath = \"\"\n"));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->binary_name, "/usr/bin/crun");
  EXPECT_EQ(options->criu_work_path, "/w");
  EXPECT_EQ(options->io_gid, 7u);
  EXPECT_EQ(options->io_uid, 4294967295u);
  EXPECT_TRUE(options->no_new_keyring);
  EXPECT_FALSE(options->no_pivot_root);
  EXPECT_EQ(options->root, "/r");
  EXPECT_EQ(options->shim_cgroup, "/s");
  EXPECT_TRUE(options->systemd_cgroup);
  EXPECT_EQ(options->task_api_address, "a");
  EXPECT_EQ(options->task_api_version, 3u);
}

TEST(Options, DecodesTomlWithUnderscores) {
  auto options = DecodeOptions(Toml("binary_name='crun'\nsystemd_cgroup=true\nio_uid=5"));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->binary_name, "crun");
  EXPECT_TRUE(options->systemd_cgroup);
  EXPECT_EQ(options->io_uid, 5u);
}

TEST(Options, TellsWhetherTheySayNothing) {
  EXPECT_TRUE(SayNothing(Toml("")));
  EXPECT_TRUE(SayNothing(Any("runtimeoptions.v1.Options", "")));
  EXPECT_FALSE(SayNothing(Toml("SystemdCgroup = false")));
  EXPECT_FALSE(SayNothing(TomlFile("/x")));
  EXPECT_FALSE(SayNothing(Any("runtimeoptions.v1.Options", "\xff")));
  EXPECT_FALSE(SayNothing(Any("containerd.runc.v1.Options", "")));
  EXPECT_TRUE(SayNothing(google::protobuf::Any()));
}

TEST(Options, AnEmptyTomlHasTheDefaults) {
  auto options = DecodeOptions(Toml(""));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->binary(), "runc");
}

TEST(Options, RefusesAnUnknownKeyAndNamesIt) {
  ExpectRefused(Toml("SystemdCGroups = true"), "unknown runtime option \"SystemdCGroups\"");
}

TEST(Options, RefusesValuesOfTheWrongTypeOrRange) {
  for (const char* text :
       {"IoUid = -1", "IoUid = 4294967296", "IoUid = \"1\"", "IoUid = true", "IoUid = 0x100000000"})
    ExpectRefused(Toml(text), "\"IoUid\" has the wrong type or is out of range");
  for (const char* text : {"IoUid = 2e100", "IoUid = 1.0", "IoUid = nan", "IoUid = -inf",
                           "IoUid = 1979-05-27", "IoUid = [1]", "IoUid = {a = 1}"})
    ExpectRefused(Toml(text), "line 1: \"IoUid\" is neither a string nor an integer nor a boolean");
  ExpectRefused(Toml("SystemdCgroup = 1"), "SystemdCgroup");
  ExpectRefused(Toml("Root = 1"), "Root");
}

TEST(Options, RefusesWhatIsNotToml) {
  ExpectRefused(Toml("Root = \"/r\"\nRoot"), "runtime options: line 2");
  ExpectRefused(Toml("Root = \"a\"\nRoot = \"b\""), "line 2: \"Root\" is there twice");
  ExpectRefused(Toml("Root = \"a\"\nroot = \"a\""), "\"root\" is there in two spellings");
  ExpectRefused(Toml(std::string("\xff\xfe\x00", 3)), "runtime options: line 1: not UTF-8");
  ExpectRefused(Toml("x = " + std::string(100000, '[')), "\"x\" is neither");
  ExpectRefused(Toml("# x\n \t[Root]"), "line 2: a table is no option");
  ExpectRefused(Toml("Root = \"\x01\""), "line 1: a control character");
}

TEST(Options, TakesEveryCharacterInStringsAndComments) {
  auto options =
      DecodeOptions(Toml("\xef\xbb\xbf# \xc3\xa4 % [\nRoot = '/\xc3\xa4[%41%' # \"\xe2\x82\xac\r\n"
                         "CriuPath = \"\"\"\n\\\"\xc3\xa4\\u00e4\"\"\"\"\n"));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->root, "/\xc3\xa4[%41%");
  EXPECT_EQ(options->criu_path, "\"\xc3\xa4\xc3\xa4\"");
}

TEST(Options, RefusesTextWithANul) {
  ExpectRefused(Toml("BinaryName = \"runc\\u0000x\""), "binary_name contains a NUL");
}

// By a client of containerd 1.6 or 1.7, for every runtime type but runc's. Checklist: C1.
TEST(Options, DecodesTheOptionsOfTheRuntimeBefore) {
  containerd::linux::runc::CreateOptions message;
  message.set_no_pivot_root(true);
  message.set_no_new_keyring(true);
  message.set_shim_cgroup("/shim");
  message.set_io_uid(7);
  message.set_io_gid(8);
  message.set_criu_work_path("/work");
  message.set_criu_image_path("/image");
  auto any = Any("containerd.linux.runc.CreateOptions", message.SerializeAsString());
  EXPECT_TRUE(IsOptionsType(any));
  auto options = DecodeOptions(any);
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_TRUE(options->no_pivot_root);
  EXPECT_TRUE(options->no_new_keyring);
  EXPECT_EQ(options->shim_cgroup, "/shim");
  EXPECT_EQ(options->io_uid, 7u);
  EXPECT_EQ(options->io_gid, 8u);
  EXPECT_EQ(options->criu_work_path, "/work");
  EXPECT_EQ(options->criu_image_path, "/image");
  EXPECT_EQ(options->binary(), "runc");
  ExpectRefused(Any("containerd.linux.runc.CreateOptions", "\xff"), "cannot parse options");
}

// Their fields have other numbers. Checklist: R7.
TEST(Options, DecodesTheCheckpointOptionsOfBothKinds) {
  containerd::linux::runc::CheckpointOptions old;
  old.set_exit(true);
  old.set_file_locks(true);
  old.set_work_path("/work");
  old.set_image_path("/image");
  auto args = DecodeCheckpointOptions(
      Any("containerd.linux.runc.CheckpointOptions", old.SerializeAsString()));
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_FALSE(args->leave_running);
  EXPECT_TRUE(args->file_locks);
  EXPECT_EQ(args->work_path, "/work");

  containerd::runc::v1::CheckpointOptions options;
  options.set_open_tcp(true);
  options.set_work_path("/w");
  options.set_image_path("/i");
  options.set_parent_path("/p");
  options.add_empty_namespaces("network");
  args = DecodeCheckpointOptions(
      Any("types.containerd.io/containerd.runc.v1.CheckpointOptions", options.SerializeAsString()));
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_TRUE(args->leave_running);
  EXPECT_TRUE(args->open_tcp);
  EXPECT_EQ(args->work_path, "/w");
  EXPECT_EQ(args->parent_path, "/p");
  EXPECT_THAT(args->empty_namespaces, testing::ElementsAre("network"));

  EXPECT_TRUE(DecodeCheckpointOptions({}).ok());
  for (const auto& [type, value] : {std::pair("containerd.runc.v1.CheckpointOptions", "\xff"),
                                    std::pair("containerd.runc.v1.Options", "")})
    EXPECT_EQ(DecodeCheckpointOptions(Any(type, value)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << type;
}

TEST(Options, RefusesEveryOtherType) {
  ExpectRefused(Any("containerd.runc.v1.CheckpointOptions", ""),
                "unsupported type of runtime options \"containerd.runc.v1.CheckpointOptions\"");
  ExpectRefused(Any("", "x"), "unsupported type");
  ExpectRefused(Any("containerd.runc.v1.Options/", ""), "unsupported type");
  ExpectRefused(Any("containerd.runc.v1.Options", "\xff"), "cannot parse");
  ExpectRefused(Any("runtimeoptions.v1.Options", "\xff"), "cannot parse");
}

TEST_F(OptionsTest, ReadsTheTomlFileThatIsNamed) {
  std::string path = directory_ + "/options.toml";
  ASSERT_TRUE(WriteFile(path, "Root = \"/from/file\"\n", 0644).ok());
  auto options = DecodeOptions(TomlFile(path));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->root, "/from/file");
}

TEST_F(OptionsTest, RefusesAFileThatIsMissingOrBrokenOrNoFileAndNamesIt) {
  ExpectRefused(TomlFile(directory_ + "/none"), directory_ + "/none: no such file");
  ExpectRefused(TomlFile(directory_), "is not a file");
  std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ExpectRefused(TomlFile(fifo), fifo + " is not a file");
  std::string broken = directory_ + "/broken";
  ASSERT_TRUE(WriteFile(broken, "Rot = 1", 0644).ok());
  ExpectRefused(TomlFile(broken), broken + ": unknown runtime option \"Rot\"");
}

// The bytes that the Go shim writes.
// Checklist: C2.
TEST_F(OptionsTest, WritesTheBundleFilesAsTheGoShimDoes) {
  RuntimeOptions options;
  options.systemd_cgroup = true;
  options.io_uid = 1000;
  options.binary_name = "crun";
  options.root = "/run/r";
  ASSERT_TRUE(WriteOptions(directory_, options).ok());
  EXPECT_EQ(*ReadFile(directory_ + "/options.json"),
            R"({"io_uid":1000,"binary_name":"crun","root":"/run/r","systemd_cgroup":true})");
  EXPECT_EQ(*ReadFile(directory_ + "/runtime"), "crun");
  for (const char* name : {"/options.json", "/runtime"}) {
    struct stat status;
    ASSERT_EQ(stat((directory_ + name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0600u);
  }
}

TEST_F(OptionsTest, DefaultsAreAnEmptyObject) {
  ASSERT_TRUE(WriteOptions(directory_, RuntimeOptions()).ok());
  EXPECT_EQ(*ReadFile(directory_ + "/options.json"), "{}");
  EXPECT_EQ(*ReadFile(directory_ + "/runtime"), "");
}

TEST_F(OptionsTest, ReadsBackWhatItWrote) {
  RuntimeOptions options;
  options.no_pivot_root = true;
  options.io_gid = 4294967295u;
  options.binary_name = "crun \"\n\xc3\xa4";
  options.criu_work_path = "/w";
  ASSERT_TRUE(WriteOptions(directory_, options).ok());
  auto read = ReadOptions(directory_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->no_pivot_root);
  EXPECT_EQ(read->io_gid, 4294967295u);
  EXPECT_EQ(read->binary_name, options.binary_name);
  EXPECT_EQ(read->criu_work_path, "/w");
}

TEST_F(OptionsTest, MissingBundleFilesLeaveTheDefaults) {
  auto read = ReadOptions(directory_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->binary(), "runc");
}

TEST_F(OptionsTest, SkipsUnknownKeysAndWrongTypesOfAnotherVersion) {
  ASSERT_TRUE(WriteFile(directory_ + "/options.json",
                        R"({"future":[1],"root":"/r","io_uid":"x","io_gid":4294967296})", 0600)
                  .ok());
  ASSERT_TRUE(WriteFile(directory_ + "/runtime", "crun\n", 0600).ok());
  auto read = ReadOptions(directory_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->root, "/r");
  EXPECT_EQ(read->io_uid, 0u);
  EXPECT_EQ(read->io_gid, 0u);
  EXPECT_EQ(read->binary_name, "crun");
}

TEST_F(OptionsTest, ABrokenOptionsFileIsAnError) {
  for (const char* text : {"{", "[]", "null", "{\"root\":\"a\\u0000b\"}"}) {
    ASSERT_TRUE(WriteFile(directory_ + "/options.json", text, 0600).ok());
    EXPECT_FALSE(ReadOptions(directory_).ok()) << text;
  }
}

}  // namespace
}  // namespace feather
