// The shim serves without effective capabilities, and yet does everything that needs them, for
// whatever user's files and processes; what it was started with reaches the containers unchanged.

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/proc.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kUser = 12345;
constexpr char kPrivileges[] = "grep -E '^(Cap|NoNewPrivs|Seccomp)' /proc/self/status";

std::string StatusLine(absl::string_view status, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(status, '\n'))
    if (absl::ConsumePrefix(&line, absl::StrCat(name, ":\t"))) return std::string(line);
  return "no such line";
}

// A path that only this user may use, but for the capability.
void GiveAway(const std::string& path, mode_t mode) {
  ASSERT_EQ(chown(path.c_str(), kUser, kUser), 0) << path;
  ASSERT_EQ(chmod(path.c_str(), mode), 0) << path;
}

class Privileges : public ShimTest {
 protected:
  // What the init and an exec of a container print of their own privileges.
  std::string SeenInContainer(Container& c) {
    EXPECT_THAT(c.Run(), IsOk());
    EXPECT_THAT(c.Exec("x", {"sh", "-c", absl::StrCat(kPrivileges, "; echo end")}), IsOk());
    EXPECT_THAT(c.Start("x"), IsOk());
    EXPECT_THAT(c.Wait("x"), IsOk());
    EXPECT_THAT(c.Delete("x"), IsOk());
    EXPECT_THAT(c.KillAndRemove(), IsOk());
    // On a busy machine the stock shim may give no output before Delete.
    for (ClientStdio* stdio : {&c.stdio(), &c.exec_stdio("x")})
      EXPECT_TRUE(RunUntil([&] { return absl::StrContains(stdio->out->data(), "end"); }));
    return absl::StrCat("init:\n", c.stdio().out->data(), "exec:\n", c.exec_stdio("x").out->data());
  }
  void ExpectThatAContainerTalks(Container& c) {
    ASSERT_THAT(c.Run(), IsOk());
    EXPECT_THAT(c.Wait(), IsOk());
    ASSERT_TRUE(WaitForEof(c.stdio()));
    EXPECT_EQ(c.stdio().out->data(), "hello\n");
    EXPECT_THAT(c.Remove(), IsOk());
  }
};

TEST_F(Privileges, ServesWithoutEffectiveCapabilitiesAndKeepsEverythingElse) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  std::string ours = *ReadFile("/proc/self/status");
  // Each thread has its own; the program that speaks gRPC has several.
  const std::string threads = absl::StrCat("/proc/", c.shim_pid(), "/task");
  size_t seen = 0;
  for (const std::string& thread : feather::test::ListDirectory(threads)) {
    // gRPC ends some when it does not need them.
    auto status = ReadFile(absl::StrCat(threads, "/", thread, "/status"));
    if (!status.ok()) continue;
    ++seen;
    EXPECT_EQ(StatusLine(*status, "CapEff"), "0000000000000000") << *status;
    for (const char* kept : {"CapInh", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"})
      EXPECT_EQ(StatusLine(*status, kept), StatusLine(ours, kept)) << kept << "\n" << *status;
  }
  EXPECT_GE(seen, TestsGrpc() ? 3u : 1u);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Privileges, TheRuntimeHasAllCapabilitiesAndDiesWithTheShim) {
  TestDirectory directory;
  std::string seen = directory.path() + "/seen";
  std::string perl = absl::StrCat(
      "open(S, \"/proc/self/status\"); print <S>; $b = pack(\"i\", 0); syscall(", SYS_prctl, ", ",
      PR_GET_PDEATHSIG, ", $b, 0, 0, 0); print \"PDEATHSIG:\\t\", unpack(\"i\", $b), \"\\n\"");
  // In the place of `start`, and in the same process.
  settings_.runtime =
      WriteRuntime("runtime", absl::StrCat("case \" $* \" in *' start '*) exec perl -e '", perl,
                                           "' >", seen, " ;; *) exec runc \"$@\" ;; esac\n"));
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  std::string ours = *ReadFile("/proc/self/status");
  std::string child = *ReadFile(seen);
  EXPECT_EQ(StatusLine(child, "CapEff"), StatusLine(ours, "CapEff"));
  EXPECT_EQ(StatusLine(child, "CapPrm"), StatusLine(ours, "CapPrm"));
  EXPECT_EQ(StatusLine(child, "PDEATHSIG"), absl::StrCat(SIGKILL));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Privileges, AContainerSeesWhatItSeesUnderTheStockShim) {
  std::string stock_shim = DebianBinary("bookworm", "containerd-shim-runc-v2");
  if (stock_shim.empty()) GTEST_SKIP() << "containerd is not installed";
  for (const char* patch :
       {"", R"({"process": {"noNewPrivileges": false, "capabilities": {"ambient": ["CAP_KILL"],
                 "inheritable": ["CAP_KILL"]}}})",
        R"({"process": {"user": {"uid": 1000}},
            "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
              {"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]}}})"}) {
    ContainerOptions options = Shell(absl::StrCat(kPrivileges, "; echo end; exec sleep 1000"));
    options.spec.patch = patch;
    Settings stock = settings_;
    stock.shim = stock_shim;
    stock.daemon = Series::k1_6;
    std::string expected;
    {
      FakeContainerd theirs(stock);
      expected = SeenInContainer(theirs.New("a", options));
      for (const std::string& left : theirs.FindLeftovers())
        EXPECT_THAT(left, HasSubstr("socket")) << "of the stock shim";
    }
    EXPECT_THAT(expected, HasSubstr("CapBnd")) << patch;
    EXPECT_EQ(SeenInContainer(New("a", options)), expected) << patch;
  }
}

// A bounding set without CAP_SYS_TIME, no_new_privs and a filter that allows everything, as a
// service manager gives them to containerd.
TEST_F(Privileges, WhatTheShimIsConfinedToConfinesItsContainers) {
  const std::string confine =
      absl::StrCat("$f = pack(\"S C C L\", ", BPF_RET | BPF_K, ", 0, 0, ", SECCOMP_RET_ALLOW,
                   "); $p = pack(\"S x6 P\", 1, $f); for ([", PR_CAPBSET_DROP, ", ", CAP_SYS_TIME,
                   "], [", PR_SET_NO_NEW_PRIVS, ", 1], [", PR_SET_SECCOMP, ", ",
                   SECCOMP_MODE_FILTER, ", $p]) { syscall(", SYS_prctl,
                   ", $_->[0], $_->[1], $_->[2] // 0, 0, 0) == 0 or die $! } exec @ARGV");
  settings_.shim = WriteRuntime(
      "confined", absl::StrCat("exec perl -e '", confine, "' ", ShimUnderTest(), " \"$@\"\n"));
  ContainerOptions options = Shell(absl::StrCat(kPrivileges, "; echo end; exec sleep 1000"));
  options.spec.patch = R"({"process": {"noNewPrivileges": false, "capabilities": {
      "bounding": ["CAP_KILL", "CAP_SYS_TIME"]}}})";
  Container& first = New("first");
  ASSERT_THAT(first.Run(), IsOk());
  task::ConnectRequest connect;
  connect.set_id(first.id());
  auto connected = first.Call<task::ConnectResponse>("Connect", connect);
  ASSERT_THAT(connected, IsOk());
  const std::string shim = *ReadFile(absl::StrCat("/proc/", connected->shim_pid(), "/status"));
  EXPECT_THAT(first.KillAndRemove(), IsOk());
  const std::string container = SeenInContainer(New("a", options));
  constexpr uint64_t kSysTime = uint64_t{1} << CAP_SYS_TIME;
  for (const std::string& status : {shim, container, container.substr(container.find("exec:"))}) {
    EXPECT_EQ(StatusLine(status, "NoNewPrivs"), "1") << status;
    EXPECT_EQ(StatusLine(status, "Seccomp_filters"), "1") << status;
    const uint64_t bounding = std::stoull(StatusLine(status, "CapBnd"), nullptr, 16);
    EXPECT_EQ(bounding & kSysTime, 0u) << status;
    EXPECT_NE(bounding & (uint64_t{1} << CAP_KILL), 0u) << status;
  }
}

TEST_F(Privileges, KillsAnExecOfAnotherUser) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  auto request = c.ExecRequest("x", {"sleep", "1000"});
  std::string spec =
      absl::StrReplaceAll(request.spec().value(), {{"\"uid\":0", absl::StrCat("\"uid\":", kUser)}});
  ASSERT_NE(spec, request.spec().value());
  request.mutable_spec()->set_value(spec);
  ASSERT_THAT(c.Exec(request), IsOk());
  auto pid = c.Start("x");
  ASSERT_THAT(pid, IsOk());
  EXPECT_THAT(StatusLine(*ReadFile(absl::StrCat("/proc/", *pid, "/status")), "Uid"),
              HasSubstr(absl::StrCat(kUser)));
  EXPECT_THAT(c.Kill(SIGKILL, "x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 128u + SIGKILL);
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Privileges, ServesTheFifosOfAnotherUser) {
  Container& c = New("a", Shell("echo hello"));
  auto request = c.CreateRequest();
  GiveAway(request.stdout(), 0600);
  GiveAway(request.stderr(), 0600);
  ASSERT_THAT(c.Create(request), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_EQ(c.stdio().out->data(), "hello\n");
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Privileges, AppendsToALogInADirectoryOfAnotherUser) {
  std::string directory = ctrd().directory() + "/logs";
  ASSERT_EQ(mkdir(directory.c_str(), 0700), 0);
  GiveAway(directory, 0700);
  Container& c = New("a", Shell("echo hello"));
  auto request = c.CreateRequest();
  request.set_stdout(absl::StrCat("file://", directory, "/deep/log"));
  request.clear_stderr();
  ASSERT_THAT(c.Create(request), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
  EXPECT_EQ(ReadFile(directory + "/deep/log").value_or("none"), "hello\n");
}

TEST_F(Privileges, GivesTheStreamsToTheOwnerThatTheOptionsName) {
  Container& c = New("a", Shell("stat -L -c %g /proc/self/fd/1; echo hello"));
  auto request = c.CreateRequest();
  containerd::runc::v1::Options options = ctrd().RuncOptions();
  options.set_io_uid(kUser);
  options.set_io_gid(kUser + 1);
  request.mutable_options()->set_value(options.SerializeAsString());
  ASSERT_THAT(c.Create(request), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  ASSERT_TRUE(WaitForEof(c.stdio()));
  // The OCI runtime has given them to its user since.
  EXPECT_EQ(c.stdio().out->data(), absl::StrCat(kUser + 1, "\nhello\n"));
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Privileges, MakesATerminalInARuntimeDirectoryOfAnotherUser) {
  TestDirectory directory;
  GiveAway(directory.path(), 0700);
  settings_.env = {"XDG_RUNTIME_DIR=" + directory.path()};
  ContainerOptions options = Shell("test -t 0 && echo hello");
  options.spec.terminal = true;
  options.err = false;
  Container& c = New("a", options);
  auto request = c.CreateRequest();
  request.set_terminal(true);
  ASSERT_THAT(c.Create(request), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_EQ(c.stdio().out->data(), "hello\r\n");
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Privileges, SendsEventsToASocketOfAnotherUser) {
  GiveAway(ctrd().events().path(), 0600);
  Container& c = New("a", Shell("echo hello"));
  ExpectThatAContainerTalks(c);
  EXPECT_TRUE(ctrd().WaitForDelete("a"));
}

}  // namespace
}  // namespace feather::test
