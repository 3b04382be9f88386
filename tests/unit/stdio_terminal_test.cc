#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "runtime/base/file.h"
#include "tests/support/stdio_fixture.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

UniqueFd Connect(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0)
    ADD_FAILURE() << path << ": " << strerror(errno);
  return fd;
}

// One message with `fds`, as runc sends it.
void Send(int socket, const std::vector<int>& fds) {
  std::string name = "/dev/pts/0";
  iovec data = {name.data(), name.size()};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr header = {};
    header.cmsg_level = SOL_SOCKET;
    header.cmsg_type = SCM_RIGHTS;
    header.cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    memcpy(control.data(), &header, sizeof(header));
    memcpy(control.data() + CMSG_LEN(0), fds.data(), fds.size() * sizeof(int));
  }
  EXPECT_GT(sendmsg(socket, &message, 0), 0) << strerror(errno);
}

class StdioTerminal : public StdioTest {
 protected:
  static StdioRequest Terminal(const std::string& in, const std::string& out) {
    StdioRequest request = Streams(in, out, "");
    request.terminal = true;
    return request;
  }

  // What runc does: opens a terminal, gives the process its slave, sends the master and is gone.
  pid_t RunContainer(Stdio& stdio, const std::string& script) {
    UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    EXPECT_EQ(unlockpt(master.get()), 0);
    std::array<char, 64> name;
    EXPECT_EQ(ptsname_r(master.get(), name.data(), name.size()), 0);
    slave_path_ = name.data();
    UniqueFd slave(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    pid_t pid = Shell(script, {slave.get(), slave.get(), slave.get()});
    UniqueFd connection = Connect(stdio.console_socket());
    Send(connection.get(), {master.get()});
    return pid;
  }
  pid_t Start(Stdio& stdio, const std::string& script) {
    pid_t pid = RunContainer(stdio, script);
    stdio.RuntimeStarted();
    absl::Status attached = Await(stdio.Attach());
    EXPECT_TRUE(attached.ok()) << attached;
    return pid;
  }
  std::string slave_path_;
};

// Checklist: I10.
TEST_F(StdioTerminal, ListensInADirectoryOfItsOwnAndRemovesIt) {
  auto stdio = Prepare(Terminal("", Fifo("out")));
  std::string path = stdio->console_socket();
  EXPECT_THAT(path, HasSubstr(directory_ + "/pty"));
  EXPECT_THAT(path, HasSubstr("/pty.sock"));
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  EXPECT_EQ(status.st_mode & 07777, 01755u);
  ASSERT_EQ(stat(path.substr(0, path.rfind('/')).c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  Await(stdio->Close());
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST_F(StdioTerminal, CopiesBothWaysAndEndsWhenTheExitWasProcessed) {
  auto stdio = Prepare(Terminal(Fifo("in"), Fifo("out")));
  FifoReader out(io(), Path("out"));
  FifoWriter in(io(), Path("in"));
  pid_t pid = Start(*stdio, "test -t 0 && test -t 1 && read x && echo \"got $x\"");
  in.Write("hello\n");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return out.data() == "hello\r\ngot hello\r\n"; }));
  EXPECT_FALSE(out.eof());
  EXPECT_EQ(stdio->console_socket(), "");
  stdio->ProcessExited();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioTerminal, SurvivesThatNobodyHasTheTerminalOpenAndDoesNotSpin) {
  auto stdio = Prepare(Terminal("", Fifo("out")));
  FifoReader out(io(), Path("out"));
  pid_t pid = Start(*stdio, absl::StrCat("echo one; exec < /dev/null > /dev/null 2>&1\n",
                                         "until [ -e go ]; do sleep 0.01; done\n"
                                         "exec > $(cat go); echo two"));
  EXPECT_TRUE(RunUntil([&] { return out.data() == "one\r\n"; }));
  EXPECT_TRUE(BecomesQuiet());
  EXPECT_FALSE(out.eof());
  ASSERT_TRUE(WriteFileAtomically(Path("go"), slave_path_, 0644).ok());
  EXPECT_TRUE(RunUntil([&] { return out.data() == "one\r\ntwo\r\n"; }));
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->ProcessExited();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: I11.
TEST_F(StdioTerminal, CopiesALargeOutputWholly) {
  auto stdio = Prepare(Terminal("", Fifo("out")));
  FifoReader out(io(), Path("out"));
  pid_t pid = Start(*stdio, "seq 1 200000 > right; cat right; printf end");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->ProcessExited();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_TRUE(absl::StrReplaceAll(out.data(), {{"\r\n", "\n"}}) == Read("right") + "end");
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioTerminal, ASlowClientLosesNothingOfTheLastOutput) {
  auto stdio = Prepare(Terminal("", Fifo("out")));
  FifoReader out(io(), Path("out"));
  // More than the FIFO holds, less than FIFO and terminal together: little more, since the FIFO
  // holds less than its 64 KiB if it is not filled by whole pages.
  pid_t pid = Start(*stdio,
                    "echo ready; until [ -e go ]; do sleep 0.01; done\n"
                    "head -c 65700 /dev/zero | tr '\\0' x");
  EXPECT_TRUE(RunUntil([&] { return out.data() == "ready\r\n"; }));
  out.Pause();
  WriteScript("go", "");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->ProcessExited();
  EXPECT_TRUE(BecomesQuiet());
  EXPECT_FALSE(Await(stdio->Drain(std::chrono::milliseconds(20))));
  out.Resume();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_EQ(out.size(), 65707u);
  EXPECT_TRUE(Delete(*stdio));
}

// Checklist: I12.
TEST_F(StdioTerminal, ABackgroundChildDoesNotKeepTheClientAfterTheExit) {
  auto stdio = Prepare(Terminal("", Fifo("out")));
  FifoReader out(io(), Path("out"));
  pid_t pid = Start(*stdio, "trap '' HUP; sleep 1000 & echo $! > child; echo started");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->ProcessExited();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_EQ(out.data(), "started\r\n");
  EXPECT_TRUE(Delete(*stdio));
  kill(atoi(Read("child").c_str()), SIGKILL);
}

TEST_F(StdioTerminal, TheEndOfStdinHangsTheTerminalUpAfterItsOutput) {
  auto stdio = Prepare(Terminal(Fifo("in"), Fifo("out")));
  FifoReader out(io(), Path("out"));
  pid_t pid = Start(*stdio, "stty -echo; echo ready; cat > typed");
  EXPECT_TRUE(RunUntil([&] { return out.data() == "ready\r\n"; }));
  FifoWriter in(io(), Path("in"));
  in.Write("text\n");
  EXPECT_TRUE(RunUntil([&] { return Read("typed") == "text\n"; }));
  in.Close();
  EXPECT_TRUE(RunUntil([&] { return in.closed(); }));
  stdio->CloseStdin();
  stdio->CloseStdin();
  WaitFor(pid);
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  stdio->ProcessExited();
  EXPECT_TRUE(stdio->Resize(1, 1).ok());
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioTerminal, TakesMoreStdinThanTheTerminalHolds) {
  auto stdio = Prepare(Terminal(Fifo("in"), Fifo("out")));
  FifoReader out(io(), Path("out"));
  pid_t pid = Start(*stdio, "stty raw -echo; echo ready; head -c 1000000 | md5sum > sum");
  EXPECT_TRUE(RunUntil([&] { return out.data() == "ready\n"; }));
  pid_t client = Shell("head -c 1000000 /dev/urandom > data; cat data > in; md5sum < data > right",
                       {-1, -1, -1});
  EXPECT_EQ(WaitFor(client), 0u);
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_EQ(Read("sum"), Read("right"));
  stdio->ProcessExited();
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioTerminal, AStdinThatNobodyReadsIsLeftAtTheExit) {
  auto stdio = Prepare(Terminal(Fifo("in"), Fifo("out")));
  FifoReader out(io(), Path("out"));
  pid_t pid = Start(*stdio, "stty raw -echo; echo ready; exec sleep 1000");
  EXPECT_TRUE(RunUntil([&] { return out.data() == "ready\n"; }));
  pid_t client = Shell("exec cat /dev/zero > in", {-1, -1, -1});
  EXPECT_TRUE(BecomesQuiet());
  kill(pid, SIGKILL);
  EXPECT_EQ(WaitFor(pid), 137u);
  stdio->ProcessExited();
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
  EXPECT_TRUE(Delete(*stdio));
  EXPECT_EQ(WaitFor(client), 128u + SIGPIPE);
}

// Checklist: R10.
TEST_F(StdioTerminal, Resizes) {
  auto stdio = Prepare(Terminal("", Fifo("out")));
  FifoReader out(io(), Path("out"));
  EXPECT_TRUE(stdio->Resize(1, 1).ok());
  pid_t pid = Start(*stdio, "until [ -e go ]; do sleep 0.01; done; stty size");
  EXPECT_TRUE(stdio->Resize(120, 50).ok());
  WriteScript("go", "");
  EXPECT_EQ(WaitFor(pid), 0u);
  EXPECT_TRUE(RunUntil([&] { return out.data() == "50 120\r\n"; }));
  stdio->ProcessExited();
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioTerminal, WithoutAnOutputDiscards) {
  auto stdio = Prepare(Terminal("", ""));
  pid_t pid = Start(*stdio, "seq 1 20000");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->ProcessExited();
  EXPECT_TRUE(Delete(*stdio));
}

TEST_F(StdioTerminal, GivesUpARuntimeThatSendsNothing) {
  StdioLimits limits;
  limits.console = std::chrono::milliseconds(50);
  auto stdio = Prepare(Terminal("", Fifo("out")), limits);
  EXPECT_EQ(Await(stdio->Attach()).code(), absl::StatusCode::kDeadlineExceeded);
  Await(stdio->Close());

  stdio = Prepare(Terminal("", Path("out")), limits);
  UniqueFd connection = Connect(stdio->console_socket());
  EXPECT_EQ(Await(stdio->Attach()).code(), absl::StatusCode::kDeadlineExceeded);
  Await(stdio->Close());
}

TEST_F(StdioTerminal, RefusesWhatIsNotOneTerminal) {
  Fifo("out");
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  std::vector<std::vector<int>> messages = {
      {}, {null.get()}, {master.get(), master.get()}, std::vector<int>(20, null.get())};
  for (const std::vector<int>& fds : messages) {
    auto stdio = Prepare(Terminal("", Path("out")));
    Send(Connect(stdio->console_socket()).get(), fds);
    EXPECT_EQ(Await(stdio->Attach()).code(), absl::StatusCode::kUnknown) << fds.size();
    Await(stdio->Close());
  }
  auto stdio = Prepare(Terminal("", Path("out")));
  Connect(stdio->console_socket()).Reset();  // gone without a word
  EXPECT_EQ(Await(stdio->Attach()).code(), absl::StatusCode::kUnknown);
  Await(stdio->Close());
}

TEST_F(StdioTerminal, CloseEndsItInEveryState) {
  Fifo("in");
  Fifo("out");
  // While it waits for the runtime, and while it waits for the client.
  for (bool sent : {false, true}) {
    auto stdio = Prepare(Terminal(Path("in"), Path("out")));
    pid_t pid = sent ? RunContainer(*stdio, "exec cat") : -1;
    bool ended = false;
    Spawn(io(), [](std::shared_ptr<Stdio> streams, bool* done) -> Async<> {
      absl::Status status = co_await streams->Attach();
      *done = !status.ok();
    }(stdio, &ended));
    EXPECT_TRUE(RunUntil([&] { return !sent || stdio->console_socket().empty(); }));
    Await(stdio->Close());
    EXPECT_TRUE(RunUntil([&] { return ended; }));
    if (pid > 0) WaitFor(pid);
  }
  auto stdio = Prepare(Terminal(Path("in"), Path("out")));
  FifoReader out(io(), Path("out"));
  pid_t pid = Start(*stdio, "exec yes");
  EXPECT_TRUE(RunUntil([&] { return out.size() > 1000; }));
  Await(stdio->Close());
  Await(stdio->Close());
  WaitFor(pid);
  EXPECT_TRUE(RunUntil([&] { return out.eof(); }));
}

TEST_F(StdioTerminal, FailsForAFileUri) {
  WriteScript("log", "");
  EXPECT_FALSE(TryPrepare(Terminal("", absl::StrCat("file://", Path("log")))).ok());
}

// Checklist: I9.
TEST_F(StdioTerminal, WritesIntoALoggerThatEndsByEofUnsignalled) {
  WriteScript("logger", absl::StrCat("#!/bin/sh\ncd ", directory_,
                                     "\ntrap 'echo TERM > term' TERM\nexec 5>&-\n"
                                     "/bin/cat <&3 > log\n/bin/cat <&4 >> log\necho end >> log\n"));
  auto stdio = Prepare(Terminal("", absl::StrCat("binary://", Path("logger"))));
  pid_t pid = Start(*stdio, "echo said");
  EXPECT_EQ(WaitFor(pid), 0u);
  stdio->ProcessExited();
  EXPECT_TRUE(Delete(*stdio));
  EXPECT_EQ(Read("log"), "said\r\nend\n");
  EXPECT_NE(access(Path("term").c_str(), F_OK), 0);
}

}  // namespace
}  // namespace feather::test
