// The `start` command and the server that it leaves (contract 1.2 to 1.8 and 7), L1 to L26.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/bootstrap.pb.h"
#include "runtime/base/file.h"
#include "shim/commands/socket_name.h"
#include "tests/support/commands.h"

namespace feather {
namespace {

namespace fs = std::filesystem;
using test::CommandBench;
using test::HelperResult;
using test::Listens;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using Caller = CommandBench::Caller;

class StartTest : public testing::Test {
 protected:
  void ExpectStarted(const HelperResult& result, const std::string& group) {
    EXPECT_EQ(result.exit_code, 0) << result.out;
    EXPECT_EQ(result.out, "unix://" + bench_.Socket(group));
    EXPECT_TRUE(Listens(bench_.Socket(group)));
  }
  pid_t OnlyServer() {
    std::vector<pid_t> servers = bench_.Servers();
    EXPECT_THAT(servers, SizeIs(1));
    return servers.empty() ? 0 : servers[0];
  }
  void ExpectEnded(const std::vector<std::string>& groups) {
    EXPECT_THAT(bench_.EndServers(), IsEmpty());
    for (const std::string& group : groups)
      EXPECT_NE(access(bench_.Socket(group).c_str(), F_OK), 0) << group;
  }

  CommandBench bench_;
};

std::string ProcFile(pid_t pid, const std::string& name) {
  auto text = ReadFile(absl::StrCat("/proc/", pid, "/", name));
  return text.ok() ? *text : "";
}

std::string ProcLink(pid_t pid, const std::string& name) {
  std::error_code ignored;
  return fs::read_symlink(absl::StrCat("/proc/", pid, "/", name), ignored);
}

std::vector<std::string> Split(const std::string& text, char separator) {
  return absl::StrSplit(text, separator, absl::SkipEmpty());
}

// A line of /proc/PID/status.
std::string StatusLine(pid_t pid, const std::string& key) {
  for (const std::string& line : Split(ProcFile(pid, "status"), '\n'))
    if (line.rfind(key + ":", 0) == 0)
      return std::string(absl::StripAsciiWhitespace(line.substr(key.size() + 1)));
  return "";
}

google::protobuf::Any Options(const std::string& bytes) {
  google::protobuf::Any any;
  any.set_type_url("containerd.runc.v1.Options");
  any.set_value(bytes);
  return any;
}

// Checklist: L5, L7, L8, L9, L21.
TEST_F(StartTest, AnswersContainerd1_6And1_7WithThePlainAddress) {
  for (Caller caller : {Caller::k1_6, Caller::k1_7}) {
    for (bool options : {false, true}) {
      std::string id = absl::StrCat("a", static_cast<int>(caller), options ? "x" : "");
      bench_.MakeBundle(id);
      CommandBench::StartOptions start;
      start.caller = caller;
      if (options) start.options = Options("");
      ExpectStarted(bench_.Start(id, start), id);
      EXPECT_EQ(*ReadFile(bench_.bundle(id) + "/address"), "unix://" + bench_.Socket(id));
      ExpectEnded({id});
    }
  }
}

// Checklist: L8, L9.
TEST_F(StartTest, AnswersContainerd2WithVersion3) {
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.caller = Caller::k2_1;
  start.env = {"FEATHER_SHIM_VERSION=3"};
  HelperResult result = bench_.Start("a", start);
  EXPECT_EQ(
      nlohmann::json::parse(result.out, nullptr, false),
      nlohmann::json(
          {{"version", 3}, {"address", "unix://" + bench_.Socket("a")}, {"protocol", "ttrpc"}}));
  EXPECT_EQ(*ReadFile(bench_.bundle("a") + "/address"), "unix://" + bench_.Socket("a"));
  ExpectEnded({"a"});
}

TEST_F(StartTest, AnswersContainerd2_3WithABootstrapResult) {
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.caller = Caller::k2_3;
  HelperResult result = bench_.Start("a", start);
  containerd::runtime::bootstrap::v1::BootstrapResult answer;
  ASSERT_TRUE(answer.ParseFromString(result.out));
  EXPECT_EQ(answer.version(), 3);
  EXPECT_EQ(answer.address(), "unix://" + bench_.Socket("a"));
  EXPECT_EQ(answer.protocol(), "ttrpc");
  EXPECT_TRUE(Listens(bench_.Socket("a")));
  ExpectEnded({"a"});
}

// Checklist: L11, L12.
TEST_F(StartTest, ListensInTheDirectoryThatItIsGiven) {
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.caller = Caller::k2_3;
  start.socket_directory = bench_.directory() + "/s";
  HelperResult result = bench_.Start("a", start);
  std::string path =
      SocketPath(start.socket_directory, bench_.grpc_address(), bench_.name_space(), "a");
  EXPECT_THAT(result.out, HasSubstr("unix://" + path));
  EXPECT_TRUE(Listens(path));
  EXPECT_EQ(fs::read_symlink(bench_.bundle("a") + "/s"), start.socket_directory);
  struct stat status = {};
  ASSERT_EQ(stat(start.socket_directory.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  ExpectEnded({});
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

// Checklist: L18, L19, L20, L23, G1.
TEST_F(StartTest, TheServerIsAProcessOfItsOwn) {
  bench_.MakeBundle("a");
  ExpectStarted(bench_.Start("a"), "a");
  pid_t pid = OnlyServer();
  EXPECT_THAT(Split(ProcFile(pid, "cmdline"), '\0'),
              ElementsAre(fs::canonical(bench_.shim).string(), "-namespace", bench_.name_space(),
                          "-id", "a", "-address", bench_.grpc_address()));
  EXPECT_EQ(getpgid(pid), pid);
  EXPECT_THAT(Split(ProcFile(pid, "environ"), '\0'),
              Contains(absl::StrCat("TTRPC_ADDRESS=", bench_.grpc_address(), ".ttrpc")));
  EXPECT_EQ(ProcLink(pid, "fd/0"), "/dev/null");
  EXPECT_EQ(ProcLink(pid, "fd/1"), "/dev/null");
  EXPECT_THAT(ProcLink(pid, "fd/3"), HasSubstr("socket:"));
  int own = std::stoi(ProcFile(getpid(), "oom_score_adj"));
  EXPECT_EQ(std::stoi(ProcFile(pid, "oom_score_adj")), std::min(own + 1, 1000));
  EXPECT_EQ(StatusLine(pid, "Threads"), "1");
  EXPECT_EQ(StatusLine(pid, "Umask"), StatusLine(getpid(), "Umask"));
  EXPECT_EQ(StatusLine(pid, "SigBlk"), "0000000000000000");
  EXPECT_TRUE(test::Eventually([&] { return ProcLink(pid, "cwd") == "/"; }));
  EXPECT_EQ(ProcLink(pid, "fd/2"), bench_.bundle("a") + "/log");
  ExpectEnded({"a"});
}

// Checklist: L8.
TEST_F(StartTest, TheServerHoldsNoOtherDescriptorsOfItsParents) {
  bench_.MakeBundle("a");
  int leaked = open("/dev/zero", O_RDONLY);  // NOLINT: not close-on-exec on purpose
  ExpectStarted(bench_.Start("a"), "a");
  pid_t pid = OnlyServer();
  EXPECT_TRUE(test::Eventually([&] { return ProcLink(pid, "cwd") == "/"; }));
  // One may be closed while they are read: a connection's.
  for (const auto& entry : fs::directory_iterator(absl::StrCat("/proc/", pid, "/fd")))
    EXPECT_NE(ProcLink(pid, absl::StrCat("fd/", entry.path().filename().string())), "/dev/zero");
  close(leaked);
  ExpectEnded({"a"});
}

// Checklist: B3.
TEST_F(StartTest, DebugAddsAFlagAndASecondSocket) {
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.debug = true;
  ExpectStarted(bench_.Start("a", start), "a");
  pid_t pid = OnlyServer();
  EXPECT_THAT(Split(ProcFile(pid, "cmdline"), '\0'), Contains("-debug"));
  EXPECT_THAT(ProcLink(pid, "fd/4"), HasSubstr("socket:"));
  std::string path =
      SocketPath(kSocketDirectory, bench_.grpc_address(), bench_.name_space(), "a", "debug");
  EXPECT_EQ(access(path.c_str(), F_OK), 0);
  ExpectEnded({"a"});
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

// Checklist: L13, L16, L21.
TEST_F(StartTest, AGroupSharesOneServer) {
  const char* cri = R"({"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}})";
  const char* both =
      R"({"annotations":{"io.kubernetes.cri.sandbox-id":"x","io.containerd.runc.v2.group":"pod"}})";
  bench_.MakeBundle("a", cri);
  bench_.MakeBundle("b", both);
  bench_.MakeBundle("pod");
  ExpectStarted(bench_.Start("a"), "pod");
  pid_t pid = OnlyServer();
  ExpectStarted(bench_.Start("b"), "pod");
  ExpectStarted(bench_.Start("pod"), "pod");
  EXPECT_THAT(bench_.Servers(), ElementsAre(pid));
  for (const char* id : {"a", "b", "pod"})
    EXPECT_EQ(*ReadFile(bench_.bundle(id) + "/address"), "unix://" + bench_.Socket("pod"));
  ExpectEnded({"pod"});
}

// Checklist: L17.
TEST_F(StartTest, AMissingOrBrokenConfigurationGroupsNothing) {
  bench_.MakeBundle("a", "");
  bench_.MakeBundle("b", "{\"annotations\": [");
  ExpectStarted(bench_.Start("a"), "a");
  ExpectStarted(bench_.Start("b"), "b");
  EXPECT_THAT(bench_.Servers(), SizeIs(2));
  ExpectEnded({"a", "b"});
}

// Checklist: L14.
TEST_F(StartTest, ReplacesTheSocketOfAKilledServer) {
  bench_.MakeBundle("a");
  ExpectStarted(bench_.Start("a"), "a");
  pid_t killed = OnlyServer();
  kill(killed, SIGKILL);
  EXPECT_EQ(bench_.WaitFor(killed), 128 + SIGKILL);
  EXPECT_EQ(access(bench_.Socket("a").c_str(), F_OK), 0);
  ExpectStarted(bench_.Start("a"), "a");
  EXPECT_NE(OnlyServer(), killed);
  ExpectEnded({"a"});
}

// Checklist: L15.
TEST_F(StartTest, OfManyAtOnceOneStartsAServer) {
  constexpr int kStarts = 6;
  const char* config = R"({"annotations":{"io.containerd.runc.v2.group":"g"}})";
  for (int i = 0; i < kStarts; ++i) bench_.MakeBundle(absl::StrCat("c", i), config);
  for (int round = 0; round < 5; ++round) {
    std::vector<HelperResult> results(kStarts);
    std::vector<std::thread> threads;
    for (int i = 0; i < kStarts; ++i)
      threads.emplace_back(
          [&, i] { results[static_cast<size_t>(i)] = bench_.Start(absl::StrCat("c", i)); });
    for (std::thread& thread : threads) thread.join();
    for (const HelperResult& result : results) ExpectStarted(result, "g");
    EXPECT_THAT(bench_.Servers(), SizeIs(1));
    // Leaves the socket for the next round, dead.
    for (pid_t pid : bench_.Servers()) {
      kill(pid, SIGKILL);
      bench_.WaitFor(pid);
    }
  }
  unlink(bench_.Socket("g").c_str());
}

// Checklist: L26.
TEST_F(StartTest, AKilledStartLeavesWhatTheNextOneCanUse) {
  bench_.MakeBundle("a");
  for (int i = 0; i < 20; ++i) {
    test::HelperCommand command = bench_.StartCommand("a", {});
    pid_t pid = fork();
    if (pid == 0) {
      if (chdir(command.cwd.c_str()) < 0) _exit(126);
      int null = open("/dev/null", O_RDWR | O_CLOEXEC);
      for (int fd : {0, 1, 2}) dup2(null, fd);
      std::vector<char*> argv;
      for (std::string& argument : command.argv) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    // From before its exec to after its end.
    std::this_thread::sleep_for(std::chrono::microseconds(i * 250));
    kill(pid, SIGKILL);
    bench_.WaitFor(pid);
    ExpectStarted(bench_.Start("a"), "a");
    EXPECT_TRUE(test::Eventually([&] { return bench_.Servers().size() == 1; }));
    ExpectEnded({"a"});
  }
}

// Checklist: L22.
TEST_F(StartTest, TheServerRunsInTheCgroupThatOptionsName) {
  std::string name = "/" + bench_.name();
  std::string root =
      fs::exists("/sys/fs/cgroup/cgroup.controllers") ? "/sys/fs/cgroup" : "/sys/fs/cgroup/pids";
  if (mkdir((root + name).c_str(), 0755) < 0) GTEST_SKIP() << "no cgroup can be made in " << root;
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.options =
      Options(absl::StrCat("\x1a", std::string(1, static_cast<char>(name.size())), name));
  ExpectStarted(bench_.Start("a", start), "a");
  EXPECT_THAT(ProcFile(OnlyServer(), "cgroup"), HasSubstr(name + "\n"));
  ExpectEnded({"a"});
  EXPECT_TRUE(test::Eventually([&] { return rmdir((root + name).c_str()) == 0; }));
}

// Checklist: L24.
TEST_F(StartTest, TheServerHasACoreCookieOfItsOwnIfAskedTo) {
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.env = {"SCHED_CORE=1"};
  auto cookie = [](pid_t pid, unsigned long* value) {
    return prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, pid, 0, value) == 0;
  };
  unsigned long own = 0;
  if (!cookie(0, &own)) {
    HelperResult result = bench_.Start("a", start);
    EXPECT_EQ(result.exit_code, 1) << "this kernel cannot";
    EXPECT_THAT(result.out, HasSubstr("enable sched core support"));
    return;
  }
  ExpectStarted(bench_.Start("a", start), "a");
  unsigned long servers = 0;
  EXPECT_TRUE(cookie(OnlyServer(), &servers));
  EXPECT_NE(servers, 0u);
  EXPECT_NE(servers, own);
  ExpectEnded({"a"});
}

// Checklist: L25.
TEST_F(StartTest, AFailedStartLeavesNothing) {
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.options = Options("\x1a\x05/none");
  for (bool debug : {false, true}) {
    start.debug = debug;
    HelperResult result = bench_.Start("a", start);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_THAT(result.out, HasSubstr("io.containerd.feather.v2: failed to join cgroup /none"));
    EXPECT_THAT(bench_.Servers(), IsEmpty());
    EXPECT_NE(access(bench_.Socket("a").c_str(), F_OK), 0);
  }
}

// containerd was killed before it could create the container.
TEST_F(StartTest, AShimWhoseCreateNeverComesEndsByItselfUnlessSomebodyIsConnected) {
  if (getenv("FEATHER_TEST_LONG") == nullptr) GTEST_SKIP() << "takes a minute: tests/run --long";
  bench_.MakeBundle("a");
  bench_.MakeBundle("b");
  ExpectStarted(bench_.Start("a"), "a");
  pid_t alone = OnlyServer();
  ExpectStarted(bench_.Start("b"), "b");
  UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, bench_.Socket("b").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  // Eventually gives up after a minute, which is what the shim takes.
  auto left = [this](size_t count) {
    auto done = [this, count] { return bench_.Servers().size() == count; };
    return test::Eventually(done) || test::Eventually(done) || test::Eventually(done);
  };
  EXPECT_TRUE(left(1));
  EXPECT_EQ(bench_.WaitFor(alone), 0);
  EXPECT_NE(access(bench_.Socket("a").c_str(), F_OK), 0);
  // It had a minute like the other.
  pid_t connected = OnlyServer();
  EXPECT_TRUE(Listens(bench_.Socket("b")));
  client.Reset();
  EXPECT_TRUE(left(0));
  EXPECT_EQ(bench_.WaitFor(connected), 0);
  ExpectEnded({"a", "b"});
}

TEST_F(StartTest, RefusesRubbish) {
  bench_.MakeBundle("a");
  test::HelperCommand command = bench_.StartCommand("a", {});
  command.null_input = false;
  command.input = "\xff\xff";
  HelperResult result = test::RunHelper(command);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.out, HasSubstr("cannot parse the options"));
  command = bench_.StartCommand("a", {});
  std::replace(command.argv.begin(), command.argv.end(), std::string("a"), std::string("../a"));
  EXPECT_EQ(test::RunHelper(command).exit_code, 1);
  EXPECT_THAT(bench_.Servers(), IsEmpty());
}

// What is wrong with options is for Create to answer.
TEST_F(StartTest, LeavesOptionsThatItDoesNotUnderstandToCreate) {
  bench_.MakeBundle("a");
  CommandBench::StartOptions start;
  start.options = Options("\xff");
  start.options->set_type_url("some.other.Options");
  ExpectStarted(bench_.Start("a", start), "a");
  ExpectEnded({"a"});
}

// Checklist: G2, G3, S4.
TEST_F(StartTest, SignalsEndTheServerOrAskForItsState) {
  bench_.MakeBundle("a");
  for (int signal : {SIGTERM, SIGINT}) {
    ExpectStarted(bench_.Start("a"), "a");
    pid_t pid = OnlyServer();
    EXPECT_TRUE(test::Eventually([&] {
      return bench_.Log().find("shim started") != std::string::npos && ProcLink(pid, "cwd") == "/";
    }));
    kill(pid, SIGUSR1);
    EXPECT_TRUE(
        test::Eventually([&] { return bench_.Log().find("msg=state") != std::string::npos; }));
    EXPECT_TRUE(Listens(bench_.Socket("a")));
    kill(pid, signal);
    EXPECT_EQ(bench_.WaitFor(pid), 0);
    EXPECT_NE(access(bench_.Socket("a").c_str(), F_OK), 0);
  }
}

// Checklist: G4.
TEST_F(StartTest, TheServerOutlivesItsBundle) {
  bench_.MakeBundle("a");
  ExpectStarted(bench_.Start("a"), "a");
  EXPECT_TRUE(test::Eventually([&] { return ProcLink(OnlyServer(), "cwd") == "/"; }));
  fs::remove_all(bench_.bundle("a"));
  EXPECT_TRUE(Listens(bench_.Socket("a")));
  ExpectEnded({"a"});
}

TEST_F(StartTest, ASocketThatAnotherHasTakenOverStaysWhenTheServerEnds) {
  bench_.MakeBundle("a");
  ExpectStarted(bench_.Start("a"), "a");
  EXPECT_TRUE(test::Eventually([&] { return ProcLink(OnlyServer(), "cwd") == "/"; }));
  unlink(bench_.Socket("a").c_str());
  ASSERT_TRUE(WriteFile(bench_.Socket("a"), "", 0600).ok());
  EXPECT_THAT(bench_.EndServers(), IsEmpty());
  EXPECT_EQ(unlink(bench_.Socket("a").c_str()), 0);
}

}  // namespace
}  // namespace feather
