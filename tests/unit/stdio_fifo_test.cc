#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/unique_fd.h"
#include "runtime/io/fifo.h"
#include "tests/support/stdio_fixture.h"

namespace feather::test {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

using StdioFifo = StdioTest;

// Ends when the client's checksum has been written to `sum`.
std::string SumOf(const std::string& fifo, const std::string& sum) {
  return absl::StrCat("md5sum < ", fifo, " > $DIR/", sum);
}

TEST_F(StdioFifo, GivesDevNullWhereNothingIsNamed) {
  auto stdio = Prepare({});
  std::array<int, 3> fds = stdio->child_fds();
  EXPECT_EQ(fds[0], -1);
  struct stat null, out, err;
  ASSERT_EQ(stat("/dev/null", &null), 0);
  ASSERT_EQ(fstat(fds[1], &out), 0);
  ASSERT_EQ(fstat(fds[2], &err), 0);
  EXPECT_EQ(out.st_rdev, null.st_rdev);
  EXPECT_EQ(err.st_rdev, null.st_rdev);
  pid_t pid = StartContainer(*stdio, "echo out && echo err >&2");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->CloseStdin();
  EXPECT_TRUE(stdio->Resize(80, 24).ok());
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, CopiesBothOutputsAndEndsThemWithTheProcess) {
  auto stdio = Prepare(Streams("", Fifo("out"), Fifo("err")));
  FifoReader out(io(), Path("out")), err(io(), Path("err"));
  pid_t pid = StartContainer(*stdio, "echo out; echo err >&2; printf rest");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return out.eof() && err.eof(); }));
  EXPECT_EQ(out.data(), "out\nrest");
  EXPECT_EQ(err.data(), "err\n");
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: I15.
TEST_F(StdioFifo, TreatsOneEmptyOutputAsNull) {
  auto stdio = Prepare(Streams("", "", Fifo("err")));
  FifoReader err(io(), Path("err"));
  pid_t pid = StartContainer(*stdio, "echo out && echo err >&2");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return err.eof(); }));
  EXPECT_EQ(err.data(), "err\n");
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: C17.
TEST_F(StdioFifo, GivesTheContainersUserItsPipes) {
  owner_.uid = 1234;
  owner_.gid = 5678;
  auto stdio = Prepare(Streams(Fifo("in"), Fifo("out"), Fifo("err")));
  for (int fd : stdio->child_fds()) {
    struct stat status;
    ASSERT_EQ(fstat(fd, &status), 0);
    EXPECT_TRUE(S_ISFIFO(status.st_mode));
    EXPECT_EQ(status.st_uid, 1234u);
    EXPECT_EQ(status.st_gid, 5678u);
    EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
    EXPECT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  }
  Await(stdio->Close());
}

// Checklist: I1.
TEST_F(StdioFifo, WaitsForAClientThatComesLate) {
  auto stdio = Prepare(Streams("", Fifo("out"), Fifo("err")));
  pid_t pid = Shell("echo out; echo err >&2", stdio->child_fds());
  stdio->RuntimeStarted();
  EXPECT_EQ(WaitFor(pid), 0u);
  bool attached = false;
  Spawn(io(), [](std::shared_ptr<Stdio> streams, bool* done) -> Async<> {
    absl::Status status = co_await streams->Attach();
    *done = status.ok();
  }(stdio, &attached));
  RunUntil([start = Clock::now()] { return Clock::now() > start + std::chrono::milliseconds(30); });
  FifoReader out(io(), Path("out"));
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_FALSE(attached);
  FifoReader err(io(), Path("err"));
  EXPECT_TRUE(RunUntil([&] { return attached && err.eof(); }));
  EXPECT_EQ(out.data(), "out\n");
  EXPECT_EQ(err.data(), "err\n");
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: I1.
TEST_F(StdioFifo, GivesUpAClientThatNeverComes) {
  StdioLimits limits;
  limits.open = std::chrono::milliseconds(100);
  auto stdio = Prepare(Streams(Fifo("in"), Fifo("out"), ""), limits);
  stdio->RuntimeStarted();
  absl::Status status = Await(stdio->Attach());
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "context deadline exceeded");
  Await(stdio->Close());
}

TEST_F(StdioFifo, CloseEndsAnAttachThatWaits) {
  auto stdio = Prepare(Streams(Fifo("in"), Fifo("out"), ""));
  absl::Status status;
  bool ended = false;
  Spawn(io(), [](std::shared_ptr<Stdio> streams, absl::Status* result, bool* done) -> Async<> {
    *result = co_await streams->Attach();
    *done = true;
  }(stdio, &status, &ended));
  io().restart();
  io().poll();
  EXPECT_FALSE(ended);
  Await(stdio->Close());
  EXPECT_TRUE(RunUntil([&] { return ended; }));
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST_F(StdioFifo, FailsForAFifoThatDoesNotExist) {
  auto stdio = TryPrepare(Streams("", Path("none"), ""));
  EXPECT_EQ(stdio.status().code(), absl::StatusCode::kUnknown);
  EXPECT_THAT(std::string(stdio.status().message()), HasSubstr("no such file or directory"));
  stdio = TryPrepare(Streams("", "ttrpc+unix:///run/x?streaming_id=y", ""));
  EXPECT_EQ(stdio.status().message(), "unknown STDIO scheme ttrpc+unix");
}

// Checklist: I16.
TEST_F(StdioFifo, GoesOnWithAFifoThatIsRenamedOrRemoved) {
  auto stdio = Prepare(Streams(Fifo("in"), Fifo("out"), Fifo("err")));
  FifoReader out(io(), Path("out")), err(io(), Path("err"));
  ASSERT_EQ(rename(Path("out").c_str(), Path("moved").c_str()), 0);
  ASSERT_EQ(unlink(Path("err").c_str()), 0);
  ASSERT_EQ(rename(Path("in").c_str(), Path("moved-in").c_str()), 0);
  pid_t pid = StartContainer(*stdio, "cat; echo err >&2");
  FifoWriter in(io(), Path("moved-in"));
  in.Write("typed");
  EXPECT_TRUE(RunUntil([&] { return out.data() == "typed"; }));
  in.Close();
  stdio->CloseStdin();
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return out.eof() && err.eof(); }));
  EXPECT_EQ(err.data(), "err\n");
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, GoesOnWhenAClientGoesAndAnotherComes) {
  auto stdio = Prepare(Streams("", Fifo("out"), ""));
  FifoReader out(io(), Path("out"));
  pid_t pid = StartContainer(*stdio, "echo one; until [ -e go ]; do sleep 0.01; done; echo two");
  EXPECT_TRUE(RunUntil([&] { return out.data() == "one\n"; }));
  out.Close();
  WriteScript("go", "");
  EXPECT_EQ(WaitFor(pid), 0u);
  out.Open();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_EQ(out.data(), "one\ntwo\n");
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, KeepsWhatIsUnreadForAClientThatComesAfterTheEnd) {
  auto stdio = Prepare(Streams("", Fifo("out"), ""));
  auto out = std::make_unique<FifoReader>(io(), Path("out"));
  pid_t pid = StartContainer(*stdio, "until [ -e go ]; do sleep 0.01; done; echo last words");
  out.reset();
  WriteScript("go", "");
  EXPECT_EQ(WaitFor(pid), 0u);
  RunUntil([start = Clock::now()] { return Clock::now() > start + std::chrono::milliseconds(50); });
  out = std::make_unique<FifoReader>(io(), Path("out"));
  EXPECT_TRUE(RunUntil([&] { return out->eof(); }));
  EXPECT_EQ(out->data(), "last words\n");
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, DrainDoesNotWaitForAClientWhenEverythingIsInTheFifo) {
  auto stdio = Prepare(Streams("", Fifo("out"), ""));
  auto out = std::make_unique<FifoReader>(io(), Path("out"));
  pid_t pid = StartContainer(*stdio, "until [ -e go ]; do sleep 0.01; done; echo last words");
  out.reset();
  WriteScript("go", "");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(Delete(*stdio, std::chrono::hours(1)));
}

TEST_F(StdioFifo, AFullFifoHoldsTheProcessWithoutSpinningAndLosesNothing) {
  auto stdio = Prepare(Streams("", Fifo("out"), ""));
  FifoReader out(io(), Path("out"));
  pid_t pid = StartContainer(*stdio, "seq 1 200000 | tee $DIR/written | { cat; touch $DIR/done; }");
  EXPECT_TRUE(RunUntil([&] { return !out.data().empty(); }));
  out.Close();
  // The container's pipe and the FIFO are full when nothing moves any more.
  EXPECT_TRUE(BecomesQuiet());
  EXPECT_LT(access(Path("done").c_str(), F_OK), 0);
  out.Open();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(out.data() == Read("written"));
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, CarriesALargeOutputInOddPieces) {
  auto stdio = Prepare(Streams("", Fifo("out"), Fifo("err")));
  pid_t client = Shell(SumOf(Path("out"), "sum.out"), {-1, -1, -1});
  pid_t other = Shell(SumOf(Path("err"), "sum.err"), {-1, -1, -1});
  pid_t pid = StartContainer(*stdio,
                             "head -c 16777213 /dev/urandom > data\n"
                             "for i in 1 2 3 4 5 6 7 8; do cat data; dd if=data bs=12345; done "
                             "2> /dev/null\n"
                             "dd if=data bs=777 count=9999 >&2 2> /dev/null");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_EQ(WaitFor(client), 0u);
  EXPECT_EQ(WaitFor(other), 0u);
  pid_t check = Shell(
      "for i in 1 2 3 4 5 6 7 8; do cat data data; done | md5sum > right.out\n"
      "head -c 7769223 data | md5sum > right.err",
      {-1, -1, -1});
  EXPECT_EQ(WaitFor(check), 0u);
  EXPECT_EQ(Read("sum.out"), Read("right.out"));
  EXPECT_EQ(Read("sum.err"), Read("right.err"));
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, CarriesShortLines) {
  auto stdio = Prepare(Streams("", Fifo("out"), ""));
  FifoReader out(io(), Path("out"));
  std::string line(99, 'x');
  pid_t pid = StartContainer(
      *stdio, absl::StrCat("i=0; while [ $i -lt 20000 ]; do echo ", line, "; i=$((i+1)); done"));
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_EQ(out.size(), 2000000u);
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, DeliversAllOfStdinBeforeItsEnd) {
  auto stdio = Prepare(Streams(Fifo("in"), "", ""));
  pid_t pid = StartContainer(*stdio, "md5sum > sum");
  pid_t client = Shell(
      "head -c 16777213 /dev/urandom > data\n"
      "for i in 1 2 3 4 5 6 7 8; do cat data; dd if=data bs=12345; done 2> /dev/null > in",
      {-1, -1, -1});
  EXPECT_EQ(WaitFor(client), 0u);
  stdio->CloseStdin();
  stdio->CloseStdin();
  EXPECT_EQ(WaitFor(pid), 0u);
  pid_t check =
      Shell("for i in 1 2 3 4 5 6 7 8; do cat data data; done | md5sum > right", {-1, -1, -1});
  EXPECT_EQ(WaitFor(check), 0u);
  EXPECT_EQ(Read("sum"), Read("right"));
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, DeliversEverySizeOfStdin) {
  for (size_t size : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{4097}, size_t{65536},
                      size_t{65537}, size_t{192} << 10}) {
    std::string name = absl::StrCat("in", size);
    auto stdio = Prepare(Streams(Fifo(name), "", ""));
    pid_t pid = StartContainer(*stdio, absl::StrCat("wc -c > size", size));
    FifoWriter in(io(), Path(name));
    in.Write(std::string(size, 'x'));
    in.Close();
    EXPECT_TRUE(RunUntil([&] { return in.closed(); }));
    stdio->CloseStdin();
    EXPECT_EQ(WaitFor(pid), 0u);
    EXPECT_EQ(Read(absl::StrCat("size", size)), absl::StrCat(size, "\n"));
    EXPECT_TRUE(Delete(*stdio));
  }
}

TEST_F(StdioFifo, AStdinClientMayGoAndComeBack) {
  auto stdio = Prepare(Streams(Fifo("in"), Fifo("out"), ""));
  FifoReader out(io(), Path("out"));
  pid_t pid = StartContainer(*stdio, "exec cat");
  for (const char* text : {"one ", "two ", "three"}) {
    FifoWriter in(io(), Path("in"));
    in.Write(text);
    in.Close();
    EXPECT_TRUE(RunUntil([&] { return in.closed(); }));
  }
  EXPECT_TRUE(RunUntil([&] { return out.data() == "one two three"; }));
  stdio->CloseStdin();
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, AStdinThatCannotBeReadIsNamedInTheLog) {
  // Nothing is mapped at the address 0.
  auto stdio = Prepare(Streams("/proc/self/mem", "", ""));
  const uint64_t before = ProblemCount();
  pid_t pid = StartContainer(*stdio, "exec cat");
  EXPECT_EQ(WaitFor(pid), 0u) << "it gets the end of the file";
  ASSERT_EQ(ProblemCount(), before + 1);
  EXPECT_THAT(LastProblems().back().text, HasSubstr("path=/proc/self/mem"));
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: R9.
TEST_F(StdioFifo, CloseStdinBeforeAttachEndsStdinAtOnce) {
  auto stdio = Prepare(Streams(Fifo("in"), "", ""));
  stdio->CloseStdin();
  pid_t pid = StartContainer(*stdio, "exec cat");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, AReaderOfStdinThatNeverReadsHoldsOnlyItsClient) {
  auto stdio = Prepare(Streams(Fifo("in"), "", ""));
  pid_t pid = StartContainer(*stdio, "exec sleep 1000");
  pid_t client = Shell("exec cat /dev/zero > in", {-1, -1, -1});
  EXPECT_TRUE(BecomesQuiet());
  stdio->CloseStdin();
  kill(pid, SIGKILL);
  EXPECT_EQ(WaitFor(pid), 137u);
  // Nobody reads any more, and the client is told.
  EXPECT_EQ(WaitFor(client), 128u + SIGPIPE);
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, AppendsToAFileGivenAsAPathThatMustExist) {
  WriteScript("log", "before\n");
  auto stdio = Prepare(Streams("", Path("log"), Path("log")));
  pid_t pid = StartContainer(*stdio, "echo out; echo err >&2");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(Delete(*stdio));
  EXPECT_THAT(Read("log"), AnyOf("before\nout\nerr\n", "before\nerr\nout\n"));
}

// Checklist: I6.
TEST_F(StdioFifo, AFileUriMakesItsFileAndDirectories) {
  std::string uri = absl::StrCat("file://", Path("new/er/log%20file"));
  for (int i = 0; i < 2; ++i) {
    auto stdio = Prepare(Streams("", uri, uri));
    pid_t pid = StartContainer(*stdio, "printf 123");
    EXPECT_EQ(WaitFor(pid), 0u);
    EXPECT_TRUE(Delete(*stdio));
  }
  EXPECT_EQ(Read("new/er/log file"), "123123");
}

TEST_F(StdioFifo, AFileTakesEverythingThatWasWritten) {
  auto stdio = Prepare(Streams("", absl::StrCat("file://", Path("log")), ""));
  pid_t pid = StartContainer(*stdio, "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(Delete(*stdio));
  std::string expected;
  for (int i = 0; i < 3000; ++i) absl::StrAppend(&expected, i, "\n");
  EXPECT_EQ(Read("log"), expected);
}

TEST_F(StdioFifo, ABackgroundChildDoesNotKeepAFilesWriter) {
  auto stdio = Prepare(Streams("", absl::StrCat("file://", Path("log")), ""));
  pid_t pid = StartContainer(*stdio, "sleep 1000 & echo $! > child; echo started");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return Read("log") == "started\n"; }));
  EXPECT_FALSE(Await(stdio->Drain(std::chrono::milliseconds(50))));
  Await(stdio->Close());
  kill(atoi(Read("child").c_str()), SIGKILL);
}

// Clients of containerd close their FIFOs when they hear of an exit.
TEST_F(StdioFifo, WhatWasWrittenLastIsHandedOnBeforeTheExitIsTold) {
  auto stdio = Prepare(Streams("", Fifo("out"), ""));
  UniqueFd client(open(Path("out").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_TRUE(client.valid());
  pid_t pid = StartContainer(*stdio, "while [ ! -e go ]; do sleep 0.01; done; echo last");
  WriteScript("go", "");
  // The loop, and with it every copy, stands still until the process has ended.
  siginfo_t info = {};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  stdio->ProcessExited();
  char buffer[16];
  EXPECT_EQ(read(client.get(), buffer, sizeof buffer), 5);
  EXPECT_EQ(absl::string_view(buffer, 5), "last\n");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, ABackgroundChildDelaysTheEndUntilClose) {
  auto stdio = Prepare(Streams("", Fifo("out"), ""));
  FifoReader out(io(), Path("out"));
  pid_t pid = StartContainer(*stdio, "sleep 1000 & echo $! > child; echo started");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->ProcessExited();
  EXPECT_TRUE(RunUntil([&] { return out.data() == "started\n"; }));
  EXPECT_FALSE(Await(stdio->Drain(std::chrono::milliseconds(50))));
  EXPECT_FALSE(out.eof());
  Await(stdio->Close());
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  kill(atoi(Read("child").c_str()), SIGKILL);
}

TEST_F(StdioFifo, AnIdleProcessCostsNoTurnsOfTheLoop) {
  auto stdio = Prepare(Streams(Fifo("in"), Fifo("out"), Fifo("err")));
  FifoReader out(io(), Path("out")), err(io(), Path("err"));
  pid_t pid = StartContainer(*stdio, "echo ready; exec sleep 1000");
  EXPECT_TRUE(RunUntil([&] { return out.data() == "ready\n"; }));
  EXPECT_TRUE(BecomesQuiet());
  kill(pid, SIGKILL);
  EXPECT_EQ(WaitFor(pid), 137u);
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioFifo, HoldsThreeDescriptorsForEachStream) {
  auto stdio = Prepare(Streams(Fifo("in"), Fifo("out"), Fifo("err")));
  FifoReader out(io(), Path("out")), err(io(), Path("err"));
  size_t before = OpenDescriptors().size() - 9;  // handles, pipes and their other ends
  pid_t pid = StartContainer(*stdio, "exec sleep 1000");
  EXPECT_EQ(OpenDescriptors().size(), before + 9);
  kill(pid, SIGKILL);
  WaitFor(pid);
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: I13.
TEST_F(StdioFifo, CloseIsIdempotentInEveryState) {
  auto prepared = Prepare(Streams(Fifo("in"), Fifo("out"), ""));
  Await(prepared->Close());
  Await(prepared->Close());
  EXPECT_FALSE(Await(prepared->Attach()).ok());

  auto running = Prepare(Streams(Path("in"), Path("out"), ""));
  FifoReader out(io(), Path("out"));
  pid_t pid = StartContainer(*running, "yes");
  EXPECT_TRUE(RunUntil([&] { return out.size() > 100000; }));
  Await(running->Close());
  Await(running->Close());
  EXPECT_NE(WaitFor(pid), 0u);  // SIGPIPE
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
}

}  // namespace
}  // namespace feather::test
