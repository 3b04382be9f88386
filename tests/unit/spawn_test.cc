#include "runtime/spawn.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"

namespace feather {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

struct Pipe {
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) abort();
    reader.Reset(ends[0]);
    writer.Reset(ends[1]);
  }
  UniqueFd reader;
  UniqueFd writer;
};

Command Shell(std::string script) {
  Command command;
  command.argv = {"/bin/sh", "-c", std::move(script)};
  command.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  return command;
}

int WaitStatus(pid_t pid) {
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

// What the command writes to stdout, which must end with exit code 0.
std::string Output(Command command) {
  Pipe out;
  command.fds.emplace_back(out.writer.get(), 1);
  auto pid = SpawnProcess(command);
  EXPECT_TRUE(pid.ok()) << pid.status();
  if (!pid.ok()) return "";
  out.writer.Reset();
  auto text = ReadToEof(out.reader.get(), 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(WaitStatus(*pid), 0);
  return text.ok() ? *text : "";
}

bool HasChildren() { return waitpid(-1, nullptr, WNOHANG) == 0 || errno != ECHILD; }

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    if (mkdtemp(path_.data()) == nullptr) abort();
  }
  ~TemporaryDirectory() { EXPECT_EQ(std::system(absl::StrCat("rm -r ", path_).c_str()), 0); }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = "/tmp/feather-spawn-XXXXXX";
};

TEST(Spawn, PassesArgumentsAndEnvironmentAndNothingElse) {
  ASSERT_EQ(setenv("FEATHER_TEST", "not passed", 1), 0);
  Command command;
  command.argv = {"/bin/sh", "-c", "printf '%s|' \"$0\" \"$@\"; cat /proc/$$/environ",
                  "zero",    "",   "a b"};
  command.env = {"A=1", "B=two words"};
  EXPECT_EQ(Output(command), absl::string_view("zero||a b|A=1\0B=two words\0", 26));
}

TEST(Spawn, LooksANameUpInThePathOfTheGivenEnvironment) {
  TemporaryDirectory directory;
  std::string tool = absl::StrCat(directory.path(), "/feather-tool");
  ASSERT_TRUE(WriteFile(tool, "#!/bin/sh\necho found\n", 0755).ok());
  Command command;
  command.argv = {"feather-tool"};
  command.env = {absl::StrCat("PATH=/nowhere::relative:", directory.path())};
  EXPECT_EQ(Output(command), "found\n");
}

TEST(Spawn, NamesAnExecutableThatIsNotInThePathAsGoDoes) {
  Command command;
  command.argv = {"no-such-runtime"};
  command.env = {"PATH=/usr/bin:/bin"};
  auto pid = SpawnProcess(command);
  EXPECT_EQ(pid.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(pid.status().message(),
            "exec: \"no-such-runtime\": executable file not found in $PATH");
}

TEST(Spawn, ReportsAFailedExecAndLeavesNoChild) {
  TemporaryDirectory directory;
  std::string plain = absl::StrCat(directory.path(), "/plain");
  ASSERT_TRUE(WriteFile(plain, "x", 0644).ok());
  std::string garbage = absl::StrCat(directory.path(), "/garbage");
  ASSERT_TRUE(WriteFile(garbage, "x", 0755).ok());
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"/no/such/file", "fork/exec /no/such/file: no such file or directory"},
      {plain, absl::StrCat("fork/exec ", plain, ": permission denied")},
      {garbage, absl::StrCat("fork/exec ", garbage, ": exec format error")}};
  for (const auto& [path, text] : cases) {
    Command command;
    command.argv = {path};
    EXPECT_EQ(SpawnProcess(command).status().message(), text);
    EXPECT_FALSE(HasChildren());
  }
}

TEST(Launch, TellsWhyThereIsNoProgramWhenTheChildHasEnded) {
  const std::vector<std::pair<Command, std::string>> cases = [] {
    std::vector<std::pair<Command, std::string>> result(3);
    result[0].first.argv = {"/no/such/file"};
    result[0].second = "fork/exec /no/such/file: no such file or directory";
    result[1].first.argv = {"no-such-runtime"};
    result[1].first.env = {"PATH=/usr/bin:/bin"};
    result[1].second = "exec: \"no-such-runtime\": executable file not found in $PATH";
    result[2].first = Shell("true");
    result[2].first.working_directory = "/no/such";
    result[2].second = "chdir /no/such: no such file or directory";
    return result;
  }();
  for (const auto& [command, text] : cases) {
    auto launch = Launch::Begin(command);
    ASSERT_TRUE(launch.ok()) << launch.status();
    EXPECT_EQ(WaitStatus((*launch)->pid()), 127 << 8);
    EXPECT_EQ((*launch)->status().message(), text);
  }
}

TEST(Launch, HasNoErrorWhereTheProgramRan) {
  for (const char* script : {"exit 127", "kill -9 $$"}) {
    auto launch = Launch::Begin(Shell(script));
    ASSERT_TRUE(launch.ok()) << launch.status();
    EXPECT_NE(WaitStatus((*launch)->pid()), 0);
    EXPECT_TRUE((*launch)->status().ok()) << (*launch)->status();
  }
}

TEST(Launch, IsRefusedWithoutAChild) {
  EXPECT_EQ(Launch::Begin(Command()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(HasChildren());
}

TEST(Spawn, RefusesAnEmptyCommand) {
  EXPECT_EQ(SpawnProcess(Command()).status().code(), absl::StatusCode::kInvalidArgument);
  Command command;
  command.argv = {""};
  EXPECT_EQ(SpawnProcess(command).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Spawn, StartsInTheWorkingDirectory) {
  TemporaryDirectory directory;
  Command command = Shell("pwd");
  command.working_directory = directory.path();
  EXPECT_EQ(Output(command), absl::StrCat(directory.path(), "\n"));
  command.working_directory = "/no/such";
  EXPECT_EQ(SpawnProcess(command).status().message(), "chdir /no/such: no such file or directory");
  EXPECT_FALSE(HasChildren());
}

// What a child that stands still has open: "number path".
std::vector<std::string> Descriptors(pid_t pid) {
  std::vector<std::string> result;
  std::filesystem::path directory = absl::StrCat("/proc/", pid, "/fd");
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    result.push_back(absl::StrCat(entry.path().filename().string(), " ",
                                  std::filesystem::read_symlink(entry.path()).string()));
  return result;
}

// Checklist: I17.
TEST(Spawn, GivesExactlyTheNamedDescriptorsAndNullForTheStandardOnes) {
  // Not close-on-exec, as a library might leave one.
  UniqueFd stray(open("/dev/zero", O_RDONLY));
  UniqueFd high(fcntl(stray.get(), F_DUPFD, 700));
  UniqueFd zero(open("/dev/zero", O_RDONLY | O_CLOEXEC));
  Pipe pipe;
  Command command = Shell("kill -STOP $$");
  command.fds = {{pipe.writer.get(), 7}, {zero.get(), 5}, {pipe.reader.get(), 3}};
  auto pid = SpawnProcess(command);
  ASSERT_TRUE(pid.ok()) << pid.status();
  int status = 0;
  ASSERT_EQ(waitpid(*pid, &status, WUNTRACED), *pid);
  ASSERT_TRUE(WIFSTOPPED(status));
  EXPECT_THAT(Descriptors(*pid),
              UnorderedElementsAre("0 /dev/null", "1 /dev/null", "2 /dev/null",
                                   StartsWith("3 pipe:"), "5 /dev/zero", StartsWith("7 pipe:")));
  kill(*pid, SIGKILL);
  WaitStatus(*pid);
}

TEST(Spawn, SwapsDescriptorsThatAreEachOthersTargets) {
  Pipe a;
  Pipe b;
  int low = a.writer.get();
  int high = b.writer.get();
  // Both keep their number, and change places.
  Command command =
      Shell(absl::StrCat("echo -n from", high, " >&", high, "; echo -n from", low, " >&", low));
  command.fds = {{low, high}, {high, low}, {low, 1}};
  auto pid = SpawnProcess(command);
  ASSERT_TRUE(pid.ok()) << pid.status();
  a.writer.Reset();
  b.writer.Reset();
  EXPECT_EQ(*ReadToEof(a.reader.get(), 100), absl::StrCat("from", high));
  EXPECT_EQ(*ReadToEof(b.reader.get(), 100), absl::StrCat("from", low));
  EXPECT_EQ(WaitStatus(*pid), 0);
}

TEST(Spawn, KeepsADescriptorThatStaysInItsPlace) {
  Pipe pipe;
  int fd = pipe.writer.get();
  Command command = Shell(absl::StrCat("echo -n here >&", fd));
  command.fds = {{fd, fd}};
  auto pid = SpawnProcess(command);
  ASSERT_TRUE(pid.ok()) << pid.status();
  pipe.writer.Reset();
  EXPECT_EQ(*ReadToEof(pipe.reader.get(), 100), "here");
  EXPECT_EQ(WaitStatus(*pid), 0);
  EXPECT_NE(fcntl(pipe.reader.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Spawn, ReportsADescriptorThatIsNotOpen) {
  Command command = Shell("true");
  command.fds = {{999, 3}};
  EXPECT_THAT(std::string(SpawnProcess(command).status().message()),
              HasSubstr("bad file descriptor"));
  EXPECT_FALSE(HasChildren());
}

void Ignore(int) {}

// Checklist: I14.
TEST(Spawn, ResetsSignalsInTheChildAndKeepsThemHere) {
  ASSERT_NE(signal(SIGPIPE, SIG_IGN), SIG_ERR);
  ASSERT_NE(signal(SIGUSR2, SIG_IGN), SIG_ERR);
  ASSERT_NE(signal(SIGUSR1, Ignore), SIG_ERR);
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGRTMIN + 3);
  ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &blocked, &before), 0);

  Command command;
  command.argv = {"/bin/cat", "/proc/self/status"};
  std::vector<std::string> lines = absl::StrSplit(Output(command), '\n');
  EXPECT_THAT(lines, IsSupersetOf({"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000",
                                   "SigCgt:\t0000000000000000"}));

  sigset_t after;
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, &before, &after), 0);
  EXPECT_EQ(sigismember(&after, SIGTERM), 1);
  EXPECT_EQ(sigismember(&after, SIGUSR1), 0);
  EXPECT_EQ(signal(SIGUSR1, SIG_DFL), Ignore);
  EXPECT_EQ(signal(SIGUSR2, SIG_DFL), SIG_IGN);
  EXPECT_EQ(signal(SIGPIPE, SIG_DFL), SIG_IGN);
}

// A process that spawns `command`, hands its pid back, and ends.
pid_t SpawnByAParentThatEnds(const Command& command) {
  Pipe report;
  pid_t parent = fork();
  if (parent == 0) {
    auto pid = SpawnProcess(command);
    pid_t value = pid.ok() ? *pid : -1;
    _exit(write(report.writer.get(), &value, sizeof(value)) == sizeof(value) ? 0 : 1);
  }
  pid_t value = -1;
  EXPECT_EQ(read(report.reader.get(), &value, sizeof(value)), ssize_t{sizeof(value)});
  EXPECT_EQ(WaitStatus(parent), 0);
  return value;
}

// Checklist: C10.
TEST(Spawn, KillsTheChildWhenThisProcessEnds) {
  Pipe alive;
  Command command = Shell("exec sleep 1000");
  command.fds = {{alive.writer.get(), 1}};
  pid_t pid = SpawnByAParentThatEnds(command);
  ASSERT_GT(pid, 0);
  alive.writer.Reset();
  // EOF comes when the child is gone.
  EXPECT_EQ(*ReadToEof(alive.reader.get(), 100), "");
}

TEST(Spawn, LetsTheChildLiveOnIfAskedTo) {
  Pipe out;
  Pipe in;
  Command command = Shell("read line; echo $line");
  command.fds = {{in.reader.get(), 0}, {out.writer.get(), 1}};
  command.die_with_parent = false;
  ASSERT_GT(SpawnByAParentThatEnds(command), 0);
  out.writer.Reset();
  ASSERT_TRUE(WriteAll(in.writer.get(), "still here\n").ok());
  EXPECT_EQ(*ReadToEof(out.reader.get(), 100), "still here\n");
}

TEST(Spawn, StaysInTheProcessGroup) {
  EXPECT_EQ(Output(Shell("cut -d' ' -f5 /proc/self/stat")), absl::StrCat(getpgrp(), "\n"));
}

TEST(Spawn, ReportsRunningOutOfProcesses) {
  pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // RLIMIT_NPROC does not bind root.
    rlimit none = {0, 0};
    if (setrlimit(RLIMIT_NPROC, &none) < 0 || setuid(65534) < 0) _exit(1);
    absl::Status status = SpawnProcess(Shell("true")).status();
    _exit(absl::IsResourceExhausted(status) &&
                  status.message() == "fork/exec /bin/sh: resource temporarily unavailable"
              ? 0
              : 2);
  }
  EXPECT_EQ(WaitStatus(child), 0);
}

TEST(Spawn, ReportsRunningOutOfDescriptors) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = {3, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  absl::Status status = SpawnProcess(Shell("true")).status();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_FALSE(HasChildren());
}

// Checklist: C9.
TEST(InheritedEnvironment, LeavesOutTheNotifySocket) {
  ASSERT_EQ(setenv("NOTIFY_SOCKET", "/run/notify", 1), 0);
  ASSERT_EQ(setenv("NOTIFY_SOCKETS", "kept", 1), 0);
  EXPECT_THAT(InheritedEnvironment(), Contains("NOTIFY_SOCKETS=kept"));
  EXPECT_THAT(InheritedEnvironment(), Not(Contains("NOTIFY_SOCKET=/run/notify")));
}

}  // namespace
}  // namespace feather
