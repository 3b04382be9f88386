#include "runtime/child.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/base/unique_fd.h"

namespace feather {
namespace {

using testing::HasSubstr;

Async<> Store(Reaper& reaper, std::function<absl::Status()> work, ChildOptions options,
              std::optional<absl::Status>& result) {
  result = co_await RunInChild(reaper, std::move(work), std::move(options));
}

class Child : public testing::Test {
 protected:
  absl::Status Run(std::function<absl::Status()> work, ChildOptions options = ChildOptions()) {
    std::optional<absl::Status> result;
    Spawn(io_, Store(reaper_, std::move(work), std::move(options), result));
    while (!result && io_.run_one_for(std::chrono::seconds(60)) > 0) continue;
    return result.value_or(absl::DeadlineExceededError("nothing for 60 s"));
  }

  asio::io_context io_{1};
  Reaper reaper_{io_};
};

TEST_F(Child, SendsItsStatusBack) {
  EXPECT_TRUE(Run([] { return absl::OkStatus(); }).ok());
  absl::Status status = Run([] { return absl::NotFoundError("no such thing"); });
  EXPECT_EQ(status, absl::NotFoundError("no such thing"));
}

TEST_F(Child, SendsTextsOfAnyLength) {
  std::string text(1 << 20, 'x');
  EXPECT_EQ(Run([&] { return absl::UnknownError(text); }).message(), text);
}

TEST_F(Child, IsReapedAndItsChangesStayItsOwn) {
  int value = 1;
  std::string here = std::filesystem::current_path();
  EXPECT_TRUE(Run([&] {
                value = 2;
                return chdir("/proc") == 0 ? absl::OkStatus() : absl::UnknownError("chdir");
              }).ok());
  EXPECT_EQ(value, 1);
  EXPECT_EQ(std::filesystem::current_path(), here);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

// What stands where they are to be is the parent's own.
TEST_F(Child, HasItsDescriptorsThoughTheParentHasAsManyAsItCan) {
  struct rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const struct rlimit few = {.rlim_cur = 64, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<UniqueFd> others;
  do {
    others.emplace_back(memfd_create("other", MFD_CLOEXEC));
  } while (others.back());
  others.resize(others.size() - 2);
  UniqueFd mine(memfd_create("mine", MFD_CLOEXEC));
  ASSERT_TRUE(mine);
  ChildOptions options;
  // Also where another is to be.
  options.descriptors = {mine.get(), others.front().get()};
  // Leaves room for the report.
  others.pop_back();
  absl::Status status = Run(
      [] {
        std::string names;
        for (int fd = 4; fd < 64; ++fd) {
          std::error_code none;
          const std::string path = absl::StrCat("/proc/self/fd/", fd);
          if (fcntl(fd, F_GETFD) >= 0)
            absl::StrAppend(&names, std::filesystem::read_symlink(path, none).string(), "|");
        }
        return absl::UnknownError(names);
      },
      std::move(options));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(status.message(), "/memfd:mine (deleted)|/memfd:other (deleted)|");
}

TEST_F(Child, HasNoneOfOurDescriptors) {
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);  // not even those that exec would inherit
  UniqueFd reader(pipes[0]), writer(pipes[1]);
  absl::Status status = Run([] {
    std::string open;
    for (int fd = 3; fd < 1024; ++fd)
      if (fcntl(fd, F_GETFD) >= 0) absl::StrAppend(&open, fd, " ");
    return absl::UnknownError(open);
  });
  EXPECT_EQ(status.message(), "3 ");
}

TEST_F(Child, HasItsSignalsAtTheirDefaults) {
  signal(SIGPIPE, SIG_IGN);
  absl::Status status = Run([] {
    raise(SIGPIPE);
    return absl::OkStatus();
  });
  signal(SIGPIPE, SIG_DFL);
  EXPECT_EQ(status.message(), "child process ended with status 141");
}

TEST_F(Child, ThatEndsWithoutAStatusIsAnError) {
  EXPECT_EQ(Run([]() -> absl::Status { _exit(0); }).message(), "child process ended with status 0");
  EXPECT_EQ(Run([]() -> absl::Status { _exit(7); }).message(), "child process ended with status 7");
}

TEST_F(Child, LeavesTheLoopRunning) {
  int pipes[2];
  ASSERT_EQ(pipe2(pipes, O_CLOEXEC), 0);
  UniqueFd reader(pipes[0]), writer(pipes[1]);
  // The child ends only after something has happened on our loop.
  asio::steady_timer timer(io_, std::chrono::milliseconds(1));
  UniqueFd flag(memfd_create("flag", MFD_CLOEXEC));
  std::string path = absl::StrCat("/proc/", getpid(), "/fd/", flag.get());
  timer.async_wait([&](auto) { EXPECT_EQ(ftruncate(flag.get(), 1), 0); });
  EXPECT_TRUE(Run([&] {
                while (std::filesystem::file_size(path) == 0) usleep(1000);
                return absl::OkStatus();
              }).ok());
}

TEST_F(Child, RunsProgramsAndTellsWhatTheySaid) {
  EXPECT_TRUE(Run([] { return RunProgram({"true"}); }).ok());
  EXPECT_EQ(Run([] {
              return RunProgram({"sh", "-c", "echo out; echo err >&2; exit 3"});
            }).message(),
            "[sh -c echo out; echo err >&2; exit 3] failed: \"out\\nerr\\n\": exit status 3");
  EXPECT_THAT(std::string(Run([] {
                            return RunProgram({"sh", "-c", "kill -9 $$"});
                          }).message()),
              HasSubstr(": signal 9"));
  EXPECT_THAT(std::string(Run([] { return RunProgram({"no-such-program"}); }).message()),
              HasSubstr("no such file or directory"));
}

// A process whose child (RunInChild's) holds `alive` open; it is killed, and the test sees the
// child's end as the end of `alive`.
void KillParentOf(const std::function<absl::Status()>& work, const UniqueFd& ready) {
  pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    asio::io_context io(1);
    Reaper reaper(io);
    std::optional<absl::Status> result;
    Spawn(io, Store(reaper, work, ChildOptions(), result));
    io.run();
    _exit(0);
  }
  char byte;
  ASSERT_EQ(read(ready.get(), &byte, 1), 1);
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
}

class OrphanedChild : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    std::string pattern = absl::StrCat(testing::TempDir(), "child-XXXXXX");
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    fifo_ = directory_ + "/fifo";
    ASSERT_EQ(mkfifo(fifo_.c_str(), 0600), 0);
    // Also a writer, so that opening does not wait; closed below, when the child has it open.
    ready_.Reset(open(fifo_.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(ready_.valid());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // Waits for the orphan, which is ours as we are its subreaper, and returns how it ended.
  int Collect() {
    int status = 0;
    EXPECT_GT(waitpid(-1, &status, 0), 0);
    return status;
  }

  std::string directory_;
  std::string fifo_;
  UniqueFd ready_;
};

TEST_F(OrphanedChild, IsKilled) {
  KillParentOf(
      [this]() -> absl::Status {
        UniqueFd ready(open(fifo_.c_str(), O_WRONLY | O_CLOEXEC));
        (void)!write(ready.get(), "x", 1);
        while (true) pause();
      },
      ready_);
  int status = Collect();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

TEST_F(OrphanedChild, FinishesFirstWhatItMustNotLeaveHalfDone) {
  std::string done = directory_ + "/done";
  KillParentOf(
      [&, this]() -> absl::Status {
        {
          LetLive let_live;
          pid_t parent = getppid();
          UniqueFd ready(open(fifo_.c_str(), O_WRONLY | O_CLOEXEC));
          (void)!write(ready.get(), "x", 1);
          while (getppid() == parent) usleep(1000);
          UniqueFd file(open(done.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        }
        UniqueFd file(open((done + "-too-much").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        return absl::OkStatus();
      },
      ready_);
  Collect();
  EXPECT_TRUE(std::filesystem::exists(done));
  EXPECT_FALSE(std::filesystem::exists(done + "-too-much"));
}

}  // namespace
}  // namespace feather
