// Output into programs and files, as a client of containerd asks for it: of containers and execs,
// with a terminal and without.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/proc.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

// For whatever is called $CONTAINER_ID: its environment, arguments and two streams into a file
// each, and at their ends an empty one. What it reads comes before the SIGTERM that ends a logger.
constexpr char kLogger[] = R"(trap '' TERM
echo "$@" >$CONTAINER_ID.args
/usr/bin/env >$CONTAINER_ID.env
/bin/cat <&3 >$CONTAINER_ID.out 3<&- 4<&- 5>&- &
/bin/cat <&4 >$CONTAINER_ID.err 3<&- 4<&- 5>&- &
exec 3<&- 4<&-
printf x >&5
exec 5>&-
wait
>$CONTAINER_ID.end
)";

class Logged : public ShimTest {
 protected:
  void SetUp() override {
    logger_ = WriteRuntime("logger", absl::StrCat("cd ", files_.path(), "\n", kLogger));
  }
  std::string Path(const std::string& name) { return files_.path() + "/" + name; }
  std::string Read(const std::string& name) { return ReadFile(Path(name)).value_or("none"); }
  bool Exists(const std::string& name) { return access(Path(name).c_str(), F_OK) == 0; }
  static ContainerOptions WithoutFifos(ContainerOptions options) {
    options.out = options.err = false;
    return options;
  }
  absl::Status Run(Container& c, const std::string& out, bool terminal = false) {
    auto request = c.CreateRequest();
    request.set_stdout(out);
    if (!terminal) request.set_stderr(out);
    request.set_terminal(terminal);
    if (absl::Status status = c.Create(request).status(); !status.ok()) return status;
    return c.Start().status();
  }
  absl::Status RunExec(Container& c, const std::string& exec, const std::string& script,
                       const std::string& out, ContainerOptions options = {}) {
    auto request = c.ExecRequest(exec, {"sh", "-c", script}, WithoutFifos(options));
    request.set_stdout(out);
    if (!options.spec.terminal) request.set_stderr(out);
    request.set_terminal(options.spec.terminal);
    if (absl::Status status = c.Exec(request); !status.ok()) return status;
    return c.Start(exec).status();
  }

  TestDirectory files_;
  std::string logger_;
};

// Checklist: I7, I8, I9, R11.
TEST_F(Logged, AContainerAndItsExecHaveALoggerEach) {
  Container& c = New("a", WithoutFifos(Shell("echo out; echo err >&2; read x; sleep 1000")));
  const std::string uri = absl::StrCat("binary://", logger_, "?b=1&a=2&c");
  ASSERT_THAT(Run(c, uri), IsOk());
  EXPECT_EQ(c.State()->stdout(), uri);
  EXPECT_EQ(Read("a.args"), "b 1 a 2 c \n");
  EXPECT_EQ(Read("a.env").find("PATH="), std::string::npos);
  EXPECT_THAT(Read("a.env"), HasSubstr("CONTAINER_ID=a\n"));
  EXPECT_THAT(Read("a.env"), HasSubstr(absl::StrCat("CONTAINER_NAMESPACE=", ctrd().name_space())));

  ASSERT_THAT(RunExec(c, "x", "echo x; echo xerr >&2; exit 3", "binary-v2://" + logger_), IsOk());
  EXPECT_EQ(c.State("x")->stdout(), "binary-v2://" + logger_);
  EXPECT_EQ(c.Wait("x")->exit_status(), 3u);
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_TRUE(Exists("x.end")) << "the deletion waits for the logger's end";
  EXPECT_EQ(Read("x.out"), "x\n");
  EXPECT_EQ(Read("x.err"), "xerr\n");
  EXPECT_THAT(Read("x.env"), HasSubstr("CONTAINER_ID=x\n"));

  EXPECT_FALSE(Exists("a.end"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_TRUE(Exists("a.end"));
  EXPECT_EQ(Read("a.out"), "out\n");
  EXPECT_EQ(Read("a.err"), "err\n");
}

// Checklist: I9.
TEST_F(Logged, ATerminalHasALoggerToo) {
  ContainerOptions options = WithoutFifos(Shell("read x; echo $x; stty size; sleep 1000"));
  options.in = true;
  options.spec.terminal = true;
  Container& c = New("a", options);
  ASSERT_THAT(Run(c, "binary://" + logger_, /*terminal=*/true), IsOk());
  ASSERT_THAT(c.ResizePty(101, 42), IsOk());
  c.stdio().in->Write("word\n");
  EXPECT_TRUE(RunUntil([&] { return Read("a.out") == "word\r\nword\r\n42 101\r\n"; }))
      << Read("a.out");

  ASSERT_THAT(RunExec(c, "x", "tty; exit 4", "binary-v2://" + logger_, options), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 4u);
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_TRUE(Exists("x.end"));
  EXPECT_THAT(Read("x.out"), HasSubstr("/dev/pts/"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_TRUE(Exists("a.end"));
}

// The shim itself writes into its pipe then.
TEST_F(Logged, ADeadLoggerOfATerminalEndsTheTerminalAndNothingElse) {
  // It ends with the first line.
  logger_ = WriteRuntime("mortal", absl::StrCat("echo $$ >", Path("pid"),
                                                "\nprintf x >&5\nexec 5>&-\n"
                                                "read line <&3\necho \"$line\" >",
                                                Path("line"), "\n"));
  ContainerOptions options =
      WithoutFifos(Shell("trap '' HUP; echo one; read x; echo two; exec sleep 1000"));
  options.in = true;
  options.spec.terminal = true;
  options.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
  Container& c = New("a", options);
  ASSERT_THAT(Run(c, "binary://" + logger_, /*terminal=*/true), IsOk());
  const pid_t init = static_cast<pid_t>(c.State()->pid());
  const std::string logger = "/proc/" + std::string(absl::StripAsciiWhitespace(Read("pid")));
  ASSERT_TRUE(RunUntil([&] { return access(logger.c_str(), F_OK) != 0; }));
  EXPECT_EQ(Read("line"), "one\r\n");
  // The terminal's echo alone would do.
  c.stdio().in->Write("go\n");
  EXPECT_TRUE(RunUntil([&] { return CommandLine(init) == "sleep 1000"; })) << CommandLine(init);
  EXPECT_TRUE(RunUntil([&] { return absl::StrContains(ctrd().log(), "broken pipe"); }))
      << ctrd().log();
  auto state = c.State();
  ASSERT_THAT(state, IsOk());
  EXPECT_EQ(state->status(), containerd::v1::types::RUNNING);
  EXPECT_THAT(c.ResizePty(101, 42), IsOk());
  EXPECT_THAT(c.CloseIO(), IsOk());
  logger_ = WriteRuntime("logger", absl::StrCat("cd ", files_.path(), "\n", kLogger));
  ASSERT_THAT(RunExec(c, "x", "tty", "binary://" + logger_, options), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(Read("x.out"), HasSubstr("/dev/pts/"));

  ContainerOptions pod = Shell("echo hello");
  pod.spec.patch = options.spec.patch;
  Container& other = New("other", pod);
  EXPECT_EQ(other.shim_pid(), 0) << "the same shim";
  ASSERT_THAT(other.Run(), IsOk());
  EXPECT_THAT(other.Wait(), IsOk());
  ASSERT_TRUE(WaitForEof(other.stdio()));
  EXPECT_EQ(other.stdio().out->data(), "hello\n");
  EXPECT_THAT(other.Remove(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: I6.
TEST_F(Logged, AFileIsMadeWithItsDirectoriesAndAppendedTo) {
  const std::string uri = "file://" + Path("new/below/log");
  Container& c = New("a", WithoutFifos(Shell("echo out; echo err >&2; sleep 1000")));
  ASSERT_THAT(Run(c, uri), IsOk());
  EXPECT_TRUE(RunUntil([&] { return Read("new/below/log").size() == 8; }));
  EXPECT_EQ(c.State()->stderr(), uri);
  ASSERT_THAT(RunExec(c, "x", "echo x; echo y >&2", uri), IsOk());
  EXPECT_THAT(c.Wait("x"), IsOk());
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  const std::string log = Read("new/below/log");
  for (const char* line : {"out\n", "err\n", "x\n", "y\n"}) EXPECT_THAT(log, HasSubstr(line));
  EXPECT_EQ(log.size(), 12u);
}

int Capacity(int fd) { return fcntl(fd, F_GETPIPE_SZ); }
int Capacity(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  return Capacity(fd.get());
}

// The kernel counts all of a user's pipes against one limit, above which those that are made
// without privileges shrink: a node with many containers is above it.
TEST_F(Logged, PipesAndFifosHaveTheDefaultCapacityHoweverManyThereAre) {
  constexpr int kDefault = 65536;
  constexpr int kLargest = 1 << 20;
  std::vector<UniqueFd> many;
  const int limit = atoi(ReadFile("/proc/sys/fs/pipe-user-pages-soft").value_or("0").c_str());
  for (int pages = 0; pages <= limit; pages += kLargest / getpagesize()) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    many.emplace_back(ends[0]);
    many.emplace_back(ends[1]);
    ASSERT_EQ(fcntl(ends[0], F_SETPIPE_SZ, kLargest), kLargest);
  }
  ContainerOptions options;
  options.in = true;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(Capacity(c.stdio().in->path()), kDefault);
  EXPECT_EQ(Capacity(c.stdio().out->path()), kDefault);
  EXPECT_EQ(Capacity(c.stdio().err->path()), kDefault);
  ASSERT_THAT(RunExec(c, "x", "sleep 1000; exit 0", "binary://" + logger_), IsOk());
  for (uint32_t pid : {c.State()->pid(), c.State("x")->pid()})
    for (const char* fd : {"/fd/1", "/fd/2"})
      EXPECT_EQ(Capacity(absl::StrCat("/proc/", pid, fd)), kDefault) << pid << fd;
  EXPECT_EQ(Capacity(absl::StrCat("/proc/", c.State()->pid(), "/fd/0")), kDefault);
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
