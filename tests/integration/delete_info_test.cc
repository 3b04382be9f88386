// The `delete` command after a server's death (contract 1.10, D3 to D7), -info and -v (1.9, D1, D2,
// L3, L4).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/runtimeoptions.pb.h"
#include "proto/task.pb.h"
#include "proto/types.pb.h"
#include "runtime/base/file.h"
#include "shim/members.h"
#include "shim/options.h"
#include "tests/support/commands.h"

namespace feather {
namespace {

namespace fs = std::filesystem;
using test::CommandBench;
using test::HelperResult;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr uint32_t kKilled = 128 + SIGKILL;

google::protobuf::Any TomlOptions(const std::string& toml) {
  runtimeoptions::v1::Options message;
  message.set_config_body(toml);
  google::protobuf::Any any;
  any.set_type_url("runtimeoptions.v1.Options");
  any.set_value(message.SerializeAsString());
  return any;
}

class DeleteTest : public testing::TestWithParam<const char*> {
 protected:
  DeleteTest() : root_(bench_.directory() + "/root") {
    if (std::string(GetParam()) == "crun") hidden_ = test::HideUnifiedCgroup();
  }

  // A container with its root file system mounted, made by the runtime itself.
  void CreateContainer(const std::string& id) {
    if (!fs::exists(bench_.directory() + "/image")) test::MakeRootfs(bench_.directory() + "/image");
    test::SpecOptions spec;
    spec.cgroups_path = absl::StrCat("/", bench_.name(), "-", id);
    bench_.MakeBundle(id, test::MakeSpec(spec));
    std::string rootfs = bench_.bundle(id) + "/rootfs";
    ASSERT_EQ(mount((bench_.directory() + "/image").c_str(), rootfs.c_str(), "", MS_BIND, nullptr),
              0);
    HelperResult created = Runtime({"create", "--bundle", bench_.bundle(id), "--pid-file",
                                    bench_.bundle(id) + "/init.pid", id});
    ASSERT_EQ(created.exit_code, 0)
        << created.out << *ReadFile(bench_.directory() + "/runtime.log");
    RuntimeOptions options;
    options.binary_name = GetParam();
    options.root = root_;
    ASSERT_TRUE(WriteOptions(bench_.bundle(id), options).ok());
  }

  // The container inherits no pipe of the helper's.
  HelperResult Runtime(std::vector<std::string> arguments) {
    test::HelperCommand command;
    command.argv = {"/bin/sh",
                    "-c",
                    "log=$1; shift; exec \"$@\" >\"$log\" 2>&1 </dev/null",
                    "sh",
                    bench_.directory() + "/runtime.log",
                    GetParam(),
                    "--root",
                    root_ + "/" + bench_.name_space()};
    command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
    for (char** entry = environ; *entry != nullptr; ++entry) command.env.emplace_back(*entry);
    return test::RunHelper(command);
  }

  containerd::task::v2::DeleteResponse ExpectDeleted(const std::string& id) {
    absl::Time before = absl::Now();
    HelperResult result = bench_.Delete(id);
    EXPECT_EQ(result.exit_code, 0);
    containerd::task::v2::DeleteResponse response;
    EXPECT_TRUE(response.ParseFromString(result.out));
    EXPECT_EQ(response.exit_status(), kKilled);
    EXPECT_GE(response.exited_at().seconds(), absl::ToUnixSeconds(before));
    EXPECT_LE(response.exited_at().seconds(), absl::ToUnixSeconds(absl::Now()));
    warnings_ = result.err;
    return response;
  }

  CommandBench bench_;
  std::string root_;
  std::string warnings_;
  bool hidden_ = true;
};

std::string NameOf(const testing::TestParamInfo<const char*>& info) { return info.param; }
INSTANTIATE_TEST_SUITE_P(Runtimes, DeleteTest, testing::Values("runc", "crun"), NameOf);

// Checklist: D3.
TEST_P(DeleteTest, RemovesWhatAKilledServerLeft) {
  if (!hidden_) GTEST_SKIP() << "crun needs a mount namespace without the unified cgroup";
  ASSERT_NO_FATAL_FAILURE(CreateContainer("a"));
  EXPECT_EQ(bench_.Start("a").exit_code, 0);
  for (pid_t server : bench_.Servers()) {
    kill(server, SIGKILL);
    bench_.WaitFor(server);
  }
  ASSERT_EQ(access(bench_.Socket("a").c_str(), F_OK), 0);
  pid_t init = std::stoi(*ReadFile(bench_.bundle("a") + "/init.pid"));
  ASSERT_EQ(kill(init, 0), 0);

  EXPECT_EQ(ExpectDeleted("a").pid(), static_cast<uint32_t>(init));
  EXPECT_EQ(warnings_, "");
  // The init is this process' child since its runtime has gone.
  EXPECT_EQ(bench_.WaitFor(init), 128 + SIGKILL);
  EXPECT_NE(access(bench_.Socket("a").c_str(), F_OK), 0);
  EXPECT_NE(access((root_ + "/" + bench_.name_space() + "/a").c_str(), F_OK), 0);
  EXPECT_TRUE(fs::is_empty(bench_.bundle("a") + "/rootfs"));

  // Once more: there is nothing left to do.
  EXPECT_EQ(ExpectDeleted("a").pid(), static_cast<uint32_t>(init));
}

TEST_P(DeleteTest, LeavesTheSocketOfALivingServer) {
  if (!hidden_) GTEST_SKIP() << "crun needs a mount namespace without the unified cgroup";
  ASSERT_NO_FATAL_FAILURE(CreateContainer("a"));
  EXPECT_EQ(bench_.Start("a").exit_code, 0);
  pid_t init = std::stoi(*ReadFile(bench_.bundle("a") + "/init.pid"));
  ExpectDeleted("a");
  bench_.WaitFor(init);
  EXPECT_TRUE(test::Listens(bench_.Socket("a")));
  EXPECT_THAT(bench_.EndServers(), IsEmpty());
}

// containerd 2 runs `delete` for a pod's bundle only, and takes the others' away meanwhile.
TEST_P(DeleteTest, EndsThePodsOtherContainersToo) {
  if (!hidden_) GTEST_SKIP() << "crun needs a mount namespace without the unified cgroup";
  std::vector<pid_t> inits;
  for (const char* id : {"pod", "a", "b"}) {
    ASSERT_NO_FATAL_FAILURE(CreateContainer(id));
    inits.push_back(std::stoi(*ReadFile(bench_.bundle(id) + "/init.pid")));
    if (inits.size() == 1) continue;
    ASSERT_TRUE(WriteFile(bench_.bundle(id) + "/sandbox", "pod", 0600).ok());
    absl::StatusOr<RuntimeOptions> options = ReadOptions(bench_.bundle(id));
    ASSERT_TRUE(options.ok() &&
                NoteMember(bench_.bundle("pod"), id, bench_.bundle(id), *options).ok());
  }
  EXPECT_EQ(bench_.Start("pod").exit_code, 0);
  const std::vector<pid_t> servers = bench_.Servers();
  ASSERT_EQ(servers.size(), 1u);

  // As long as somebody serves them they are not touched.
  ExpectDeleted("pod");
  EXPECT_EQ(bench_.WaitFor(inits[0]), 128 + SIGKILL);
  for (pid_t init : {inits[1], inits[2]}) EXPECT_EQ(kill(init, 0), 0);

  kill(servers[0], SIGKILL);
  bench_.WaitFor(servers[0]);
  ASSERT_EQ(umount2((bench_.bundle("b") + "/rootfs").c_str(), 0), 0);
  fs::rename(bench_.bundle("b"), bench_.directory() + "/.b");
  ExpectDeleted("pod");
  EXPECT_EQ(warnings_, "");
  for (const char* id : {"a", "b"})
    EXPECT_NE(access(absl::StrCat(root_, "/", bench_.name_space(), "/", id).c_str(), F_OK), 0)
        << id;
  for (pid_t init : {inits[1], inits[2]}) EXPECT_EQ(bench_.WaitFor(init), 128 + SIGKILL);
  EXPECT_TRUE(fs::is_empty(bench_.bundle("a") + "/rootfs"));

  // Once more: there is nothing left to do; nor for the `delete` that a restarted containerd runs.
  ExpectDeleted("pod");
  EXPECT_EQ(warnings_, "");
  ExpectDeleted("a");
  EXPECT_EQ(warnings_, "");
}

class CommandTest : public testing::Test {
 protected:
  containerd::types::RuntimeInfo Info(const std::string& input = "") {
    HelperResult result = bench_.Run({"-info"}, input);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(result.err, "");
    containerd::types::RuntimeInfo info;
    EXPECT_TRUE(info.ParseFromString(result.out));
    return info;
  }
  void Script(const std::string& text) {
    ASSERT_TRUE(WriteFile(script(), "#!/bin/sh\n" + text + "\n", 0700).ok());
  }
  std::string script() const { return bench_.directory() + "/runtime"; }

  CommandBench bench_;
};

// Checklist: D4.
// Nothing is known of the container; a runtime is not even needed to exist.
TEST_F(CommandTest, DeleteWorksWithoutTheBundlesFiles) {
  bench_.MakeBundle("a", "");
  HelperResult result = bench_.Delete("a");
  EXPECT_EQ(result.exit_code, 0);
  containerd::task::v2::DeleteResponse response;
  ASSERT_TRUE(response.ParseFromString(result.out));
  EXPECT_EQ(response.pid(), 0u);
  EXPECT_EQ(response.exit_status(), kKilled);
  EXPECT_THAT(result.err, HasSubstr("init.pid"));
}

TEST_F(CommandTest, DeleteTellsTheExitThatAShimHasNoted) {
  bench_.MakeBundle("a");
  // In the words of the stock shim of containerd 2.4.
  ASSERT_TRUE(WriteFile(bench_.bundle("a") + "/exit.json",
                        R"({"Timestamp":"2026-11-30T14:55:12.123456789Z","Pid":4711,"Status":3})",
                        0600)
                  .ok());
  HelperResult result = bench_.Delete("a");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "") << "init.pid is not needed";
  containerd::task::v2::DeleteResponse response;
  ASSERT_TRUE(response.ParseFromString(result.out));
  EXPECT_EQ(response.pid(), 4711u);
  EXPECT_EQ(response.exit_status(), 3u);
  EXPECT_EQ(response.exited_at().seconds(), 1796050512);
  EXPECT_EQ(response.exited_at().nanos(), 123456789);
}

TEST_F(CommandTest, DeleteDoesWithoutAnExitThatIsNotToldWell) {
  bench_.MakeBundle("a");
  ASSERT_TRUE(WriteFile(bench_.bundle("a") + "/init.pid", "4711", 0644).ok());
  const std::string time = R"("Timestamp":"2026-11-30T14:55:12Z")";
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string(5000, ' '), "{" + time + "}",
        "{" + time + R"(,"Pid":0,"Status":1})", "{" + time + R"(,"Pid":1,"Status":-1})",
        "{" + time + R"(,"Pid":18446744073709551615,"Status":1})",
        "{" + time + R"(,"Pid":"1","Status":1})", std::string(R"({"Pid":1,"Status":1})"),
        std::string(R"({"Timestamp":"today","Pid":1,"Status":1})")}) {
    ASSERT_TRUE(WriteFile(bench_.bundle("a") + "/exit.json", text, 0600).ok());
    HelperResult result = bench_.Delete("a");
    EXPECT_EQ(result.exit_code, 0) << text;
    EXPECT_THAT(result.err, HasSubstr("read exit.json: ")) << text;
    containerd::task::v2::DeleteResponse response;
    ASSERT_TRUE(response.ParseFromString(result.out)) << text;
    EXPECT_EQ(response.pid(), 4711u) << text;
    EXPECT_EQ(response.exit_status(), kKilled) << text;
  }
}

// Checklist: D5.
TEST_F(CommandTest, DeleteUsesTheRuntimeAndTheRootOfTheBundle) {
  bench_.MakeBundle("a");
  Script("echo \"$@\" >" + bench_.directory() + "/arguments");
  RuntimeOptions options;
  options.binary_name = script();
  options.root = "/some/root";
  options.systemd_cgroup = true;
  ASSERT_TRUE(WriteOptions(bench_.bundle("a"), options).ok());
  EXPECT_EQ(bench_.Delete("a").exit_code, 0);
  EXPECT_EQ(*ReadFile(bench_.directory() + "/arguments"),
            absl::StrCat("--root /some/root/", bench_.name_space(), " --log ", bench_.bundle("a"),
                         "/log.json --log-format json delete --force a\n"));
}

TEST_F(CommandTest, DeleteAnswersAlthoughTheRuntimeFails) {
  bench_.MakeBundle("a");
  Script("exit 3");
  RuntimeOptions options;
  options.binary_name = script();
  options.root = bench_.directory() + "/root";
  // The runtime knows the container.
  fs::create_directories(absl::StrCat(options.root, "/", bench_.name_space(), "/a"));
  ASSERT_TRUE(WriteOptions(bench_.bundle("a"), options).ok());
  ASSERT_TRUE(WriteFile(bench_.bundle("a") + "/init.pid", "4711", 0644).ok());
  HelperResult result = bench_.Delete("a");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("delete the container: "));
  containerd::task::v2::DeleteResponse response;
  ASSERT_TRUE(response.ParseFromString(result.out));
  EXPECT_EQ(response.pid(), 4711u);
}

// Checklist: D6.
// containerd gives it 5 s.
TEST_F(CommandTest, DeleteAnswersAlthoughTheRuntimeHangs) {
  bench_.MakeBundle("a");
  Script("echo $$ >" + bench_.directory() + "/pid; exec sleep 1000");
  RuntimeOptions options;
  options.binary_name = script();
  ASSERT_TRUE(WriteOptions(bench_.bundle("a"), options).ok());
  HelperResult result = bench_.Delete("a");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("not finished in time: a\n"));
  // It does not stay behind.
  EXPECT_EQ(bench_.WaitFor(std::stoi(*ReadFile(bench_.directory() + "/pid"))), 128 + SIGKILL);
}

TEST_F(CommandTest, DeleteOfAPodGetsToEveryContainerAlthoughSomeHang) {
  bench_.MakeBundle("pod");
  Script("for id; do :; done; case $id in stuck*) exec sleep 1000;; esac; touch " +
         bench_.directory() + "/ended-$id");
  RuntimeOptions options;
  options.binary_name = script();
  ASSERT_TRUE(WriteOptions(bench_.bundle("pod"), options).ok());
  std::vector<std::string> ids;
  for (int i = 0; i < 20; ++i) ids.push_back(absl::StrCat(i % 10 == 0 ? "stuck" : "m", i));
  for (const std::string& id : ids) {
    bench_.MakeBundle(id);
    ASSERT_TRUE(WriteFile(bench_.bundle(id) + "/sandbox", "pod", 0600).ok());
    ASSERT_TRUE(NoteMember(bench_.bundle("pod"), id, bench_.bundle(id), options).ok());
  }
  HelperResult result = bench_.Delete("pod");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("not finished in time: stuck0, stuck10\n"));
  ids.push_back("pod");
  for (const std::string& id : ids)
    EXPECT_EQ(fs::exists(bench_.directory() + "/ended-" + id), id[0] != 's') << id;
}

TEST_F(CommandTest, DeleteOfAPodTakesAContainersOptionsFromThePodsBundle) {
  bench_.MakeBundle("pod");
  bench_.MakeBundle("a");
  bench_.MakeBundle("b");
  Script("echo \"$@\" >>" + bench_.directory() + "/arguments");
  RuntimeOptions options;
  options.binary_name = script();
  options.root = "/some/root";
  ASSERT_TRUE(WriteOptions(bench_.bundle("pod"), options).ok());
  options.root = "/another/root";
  for (const char* id : {"a", "b"}) {
    ASSERT_TRUE(WriteFile(bench_.bundle(id) + "/sandbox", "pod", 0600).ok());
    ASSERT_TRUE(NoteMember(bench_.bundle("pod"), id, bench_.bundle(id), options).ok());
  }
  const std::string members = bench_.bundle("pod") + "/members/";
  ASSERT_TRUE(WriteFile(members + "b/options.json", "rubbish", 0600).ok());
  ASSERT_TRUE(WriteFile(members + "b/runtime", "/does/not/exist", 0600).ok());
  HelperResult result = bench_.Delete("pod");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("container b of the pod: read the runtime's options: "));
  const std::string arguments = *ReadFile(bench_.directory() + "/arguments");
  EXPECT_THAT(arguments, HasSubstr(absl::StrCat("--root /some/root/", bench_.name_space(), " ")));
  EXPECT_THAT(arguments,
              HasSubstr(absl::StrCat("--root /another/root/", bench_.name_space(), " --log ",
                                     members, "a/log.json --log-format json delete --force a\n")));
}

TEST_F(CommandTest, DeleteRefusesAnIdOrANamespaceThatIsAPath) {
  bench_.MakeBundle("a");
  HelperResult result = bench_.Run({"-namespace", "ns", "-id", "../a", "delete"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  result = bench_.Run({"-namespace", "../ns", "-id", "a", "delete"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
}

// Checklist: D1, D2.
TEST_F(CommandTest, InfoWithoutOptionsTellsOfRunc) {
  containerd::types::RuntimeInfo info = Info();
  EXPECT_EQ(info.name(), "io.containerd.feather.v2");
  EXPECT_EQ(info.version().version(), FEATHER_VERSION);
  EXPECT_NE(info.version().revision(), "");
  EXPECT_FALSE(info.has_options());
  EXPECT_EQ(info.features().type_url(),
            "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
  auto features = nlohmann::json::parse(info.features().value(), nullptr, false);
  ASSERT_TRUE(features.is_object());
  EXPECT_TRUE(features.contains("mountOptions"));
}

TEST_F(CommandTest, InfoEchoesTheOptionsAndAsksTheirRuntime) {
  Script(
      "[ \"$*\" = features ] && echo '{ \"ociVersionMin\" : \"9\", \"n\": 18446744073709551615 }'");
  google::protobuf::Any options = TomlOptions("BinaryName = \"" + script() + "\"");
  containerd::types::RuntimeInfo info = Info(options.SerializeAsString());
  EXPECT_EQ(info.options().SerializeAsString(), options.SerializeAsString());
  EXPECT_EQ(info.features().value(), R"({"ociVersionMin":"9","n":18446744073709551615})");
}

TEST_F(CommandTest, InfoLeavesOutFeaturesThatTheRuntimeDoesNotTell) {
  std::string options = TomlOptions("BinaryName = \"" + script() + "\"").SerializeAsString();
  for (const char* text : {"exit 1", "echo rubbish", "echo []", "kill -9 $$", ""}) {
    Script(text);
    EXPECT_FALSE(Info(options).has_features()) << text;
  }
}

TEST_F(CommandTest, InfoFailsForOptionsOrARuntimeThatItDoesNotKnow) {
  google::protobuf::Any any;
  any.set_type_url("some.other.Options");
  HelperResult result = bench_.Run({"-info"}, any.SerializeAsString());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("some.other.Options"));
  result = bench_.Run({"-info"}, TomlOptions("BinaryName = \"no-runc\"").SerializeAsString());
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("exec: \"no-runc\": executable file not found in $PATH"));
}

// Checklist: L4.
TEST_F(CommandTest, IsCalledAsItsExecutableIsNamed) {
  std::string link = bench_.directory() + "/containerd-shim-runc-v2";
  fs::create_symlink(bench_.shim, link);
  bench_.shim = link;
  EXPECT_EQ(Info().name(), "io.containerd.runc.v2");
  EXPECT_EQ(bench_.Run({}).err, "io.containerd.runc.v2: shim namespace cannot be empty\n");
}

TEST_F(CommandTest, ANamespaceThatIsNoIdentifierIsRefused) {
  for (const char* name : {"a/b", "..", "a b"}) {
    HelperResult result = bench_.Run({"-namespace", name, "-id", "a", "start"});
    EXPECT_EQ(result.exit_code, 1) << name;
    EXPECT_THAT(result.err, HasSubstr("shim namespace: identifier \""));
    EXPECT_EQ(result.out, "");
  }
}

// Checklist: L3.
TEST_F(CommandTest, PrintsItsVersion) {
  for (const char* flag : {"-v", "--v", "-version"}) {
    HelperResult result = bench_.Run({flag});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.out, StartsWith(absl::StrCat(bench_.shim, ":\n  Version:  ", FEATHER_VERSION,
                                                    "\n  Revision: ")));
    EXPECT_EQ(result.err, "");
  }
}

// Checklist: L1, L4.
TEST_F(CommandTest, WrongCommandLinesHaveTheExitCodesOfGo) {
  EXPECT_EQ(bench_.Run({"-h"}).exit_code, 0);
  HelperResult result = bench_.Run({"-unknown", "start"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, StartsWith("flag provided but not defined: -unknown\nUsage of "));
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(bench_.Run({"start"}).exit_code, 1);
  result = bench_.Run({"-namespace", "n", "unknown"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.err, "io.containerd.feather.v2: unknown command unknown\n");
}

TEST_F(CommandTest, AServerWithoutASocketEnds) {
  EXPECT_EQ(bench_.Run({"-namespace", "n", "-id", "a"}).exit_code, 1);
}

}  // namespace
}  // namespace feather
