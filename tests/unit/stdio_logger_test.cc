#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/io/stdio_uri.h"
#include "tests/support/stdio_fixture.h"

namespace feather::test {
namespace {

using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class StdioLogger : public StdioTest {
 protected:
  // A logger of /bin/sh in the test's directory; like every logger it has no PATH.
  void Logger(const std::string& script) {
    WriteScript("logger", absl::StrCat("#!/bin/sh\ncd ", directory_, "\n", script));
  }
  StdioRequest To(const std::string& scheme, const std::string& query = "") {
    std::string uri = absl::StrCat(scheme, "://", Path("logger"), query);
    return Streams("", uri, uri);
  }
};

constexpr char kReadBoth[] =
    "exec 5>&-\n/bin/cat <&3 > log.out &\n/bin/cat <&4 > log.err\nwait\necho end > end\n";

TEST_F(StdioLogger, ReadsBothStreamsWhichTheProcessWritesInto) {
  Logger(kReadBoth);
  auto stdio = Prepare(To("binary"));
  EXPECT_EQ(stdio->child_fds()[0], -1);
  pid_t pid = StartContainer(*stdio, "echo out; echo err >&2");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->CloseStdin();
  EXPECT_TRUE(RunUntil([&] { return Read("log.out") == "out\n" && Read("log.err") == "err\n"; }));
  // EOF comes only with Close, whatever the process does.
  EXPECT_NE(access(Path("end").c_str(), F_OK), 0);
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: I7.
TEST_F(StdioLogger, GetsExactlyItsArgumentsAndEnvironment) {
  owner_.id = "the id";
  Logger(
      absl::StrCat("for a in \"$0\" \"$@\"; do echo \"<$a>\"; done > args\n"
                   "/bin/cat /proc/$$/environ | /usr/bin/tr '\\0' '\\n' > env\n"
                   "/bin/readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2 > null\n",
                   "/bin/grep -E '^Sig(Blk|Ign)' /proc/self/status > signals\n", kReadBoth));
  auto stdio = Prepare(To("binary", "?b=1&a=x%20y&empty&b=2&c="));
  EXPECT_EQ(Read("args"),
            absl::StrCat("<", Path("logger"), ">\n<b>\n<1>\n<a>\n<x y>\n<empty>\n<>\n<c>\n<>\n"));
  EXPECT_EQ(Read("env"), "CONTAINER_ID=the id\nCONTAINER_NAMESPACE=ns\n");
  EXPECT_EQ(Read("signals"), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
  Await(stdio->Close());
}

TEST_F(StdioLogger, GetsExactlyItsDescriptors) {
  // What they are shows in a listing by ls, which adds the directory that it reads as 6.
  std::string list = "exec%20/bin/ls%20-l%20/proc/self/fd%20>%20";
  auto stdio = Prepare(Streams("", absl::StrCat("binary:///bin/sh?-c=", list, Path("fds")), ""));
  EXPECT_TRUE(RunUntil([&] { return absl::StrContains(Read("fds"), " 6 -> "); }));
  std::vector<std::string> fds;
  for (absl::string_view line : absl::StrSplit(Read("fds"), '\n')) {
    size_t arrow = line.find(" -> ");
    if (arrow == absl::string_view::npos) continue;
    fds.push_back(absl::StrCat(line.substr(line.rfind(' ', arrow - 1) + 1, 8)));
    fds.push_back(std::string(line.substr(1, 2)));
  }
  EXPECT_THAT(fds,
              ElementsAre("0 -> /de", _, "1 -> " + Path("fds").substr(0, 3), _, "2 -> /de", _,
                          "3 -> pip", "r-", "4 -> pip", "r-", "5 -> pip", "-w", "6 -> /pr", _));
  Await(stdio->Close());
}

TEST_F(StdioLogger, IsWaitedForUntilItIsReady) {
  Logger(absl::StrCat("until [ -e go ]; do /bin/sleep 0.01; done; echo > went\n", kReadBoth));
  pid_t pid = Shell("sleep 0.1; touch go", {-1, -1, -1});
  auto stdio = Prepare(To("binary"));
  EXPECT_EQ(access(Path("went").c_str(), F_OK), 0);
  EXPECT_EQ(WaitFor(pid), 0u);
  Await(stdio->Close());
}

TEST_F(StdioLogger, IsGivenUpAndKilledWhenItNeverGetsReady) {
  for (const char* scheme : {"binary", "binary-v2"}) {
    Logger("echo $$ > pid\nexec /bin/sleep 1000\n");
    auto failed = TryPrepare(To(scheme), {.open = std::chrono::milliseconds(500)});
    EXPECT_EQ(failed.status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(failed.status().message(), "logging binary does not get ready");
    // On a busy machine it may not have come so far.
    if (!Read("pid").empty()) {
      EXPECT_NE(kill(std::stoi(Read("pid")), 0), 0);
    }
  }
}

// Checklist: I8.
TEST_F(StdioLogger, OfTheSecondVersionMustCallReady) {
  Logger("exit 0\n");
  auto failed = TryPrepare(To("binary-v2"));
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(failed.status().message(),
            "logging binary did not call ready (it may have crashed or exited prematurely)");
  // The first version cannot tell.
  auto stdio = Prepare(To("binary"));
  Await(stdio->Close());

  Logger(absl::StrCat("printf '\\0' >&5\n", kReadBoth));
  stdio = Prepare(To("binary-v2"));
  pid_t pid = StartContainer(*stdio, "echo out");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return Read("log.out") == "out\n"; }));
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioLogger, FailsWhenItCannotBeExecuted) {
  auto stdio = TryPrepare(To("binary"));
  EXPECT_FALSE(stdio.ok());
  EXPECT_THAT(std::string(stdio.status().message()), HasSubstr("logger"));
}

TEST_F(StdioLogger, IsTerminatedByClose) {
  Logger("trap 'echo > term; exit 0' TERM\nexec 5>&-\nwhile :; do /bin/sleep 0.01; done\n");
  auto stdio = Prepare(To("binary"));
  Await(stdio->Close());
  EXPECT_EQ(access(Path("term").c_str(), F_OK), 0);
  Await(stdio->Close());
}

// Checklist: I7.
TEST_F(StdioLogger, IsKilledWhenItIgnoresSigterm) {
  Logger("trap '' TERM\necho $$ > pid\nexec 5>&-\nwhile :; do /bin/sleep 0.01; done\n");
  StdioLimits limits;
  limits.logger_end = std::chrono::milliseconds(100);
  auto stdio = Prepare(To("binary"), limits);
  Await(stdio->Close());
  EXPECT_NE(kill(atoi(Read("pid").c_str()), 0), 0);
}

TEST_F(StdioLogger, HasReadEverythingBeforeItIsTerminated) {
  Logger("exec 5>&-\nuntil [ -e go ]; do /bin/sleep 0.01; done\nexec /bin/cat <&3 > log.out\n");
  auto stdio = Prepare(To("binary"));
  pid_t pid = StartContainer(*stdio, "head -c 60000 /dev/zero");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_FALSE(Await(stdio->Drain(std::chrono::milliseconds(20))));
  WriteScript("go", "");
  EXPECT_TRUE(Await(stdio->Drain(std::chrono::seconds(60))));
  EXPECT_TRUE(RunUntil([&] { return Read("log.out").size() == 60000; }));
  Await(stdio->Close());
}

TEST_F(StdioLogger, MayReadOneStreamToItsEndBeforeItLooksAtTheOther) {
  Logger(
      "trap '' TERM\nexec 5>&-\n/bin/cat <&3 > log.out\n/bin/cat <&4 > log.err\necho end > end\n");
  auto stdio = Prepare(To("binary"));
  pid_t pid = StartContainer(*stdio, "echo out; echo err >&2");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(Await(stdio->Drain(std::chrono::seconds(30))));
  Await(stdio->Close());
  EXPECT_EQ(Read("log.out"), "out\n");
  EXPECT_EQ(Read("log.err"), "err\n");
  EXPECT_EQ(Read("end"), "end\n");
}

TEST_F(StdioLogger, ItsDeathBreaksTheProcessPipe) {
  Logger("exec 5>&-\nexit 0\n");
  auto stdio = Prepare(To("binary"));
  pid_t pid = StartContainer(*stdio, "yes");
  EXPECT_EQ(WaitFor(pid), 128u + SIGPIPE);
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioLogger, GivesTheContainersUserItsPipes) {
  owner_.uid = 1234;
  owner_.gid = 5678;
  Logger(kReadBoth);
  auto stdio = Prepare(To("binary"));
  for (int fd : {stdio->child_fds()[1], stdio->child_fds()[2]}) {
    struct stat status;
    ASSERT_EQ(fstat(fd, &status), 0);
    EXPECT_EQ(status.st_uid, 1234u);
    EXPECT_EQ(status.st_gid, 5678u);
    EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  }
  Await(stdio->Close());
}

TEST(StdioUri, IsTakenApartAsGoDoes) {
  auto uri = ParseStdioUri("/run/a:b?c=%zz");
  ASSERT_TRUE(uri.ok());
  EXPECT_EQ(uri->scheme, "");
  EXPECT_EQ(uri->path, "/run/a:b?c=%zz");
  uri = ParseStdioUri("BINARY-v2://host/x%2Fy?k=a+b&bad=%z&=v&k=2#fragment");
  ASSERT_TRUE(uri.ok());
  EXPECT_EQ(uri->scheme, "binary-v2");
  EXPECT_EQ(uri->path, "/x/y");
  EXPECT_THAT(uri->query, ElementsAre(Pair("k", "a b"), Pair("", "v")));
  uri = ParseStdioUri("file:");
  ASSERT_TRUE(uri.ok());
  EXPECT_EQ(uri->path, "");
  EXPECT_THAT(uri->query, IsEmpty());
  EXPECT_EQ(ParseStdioUri("file:///%z").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace feather::test
