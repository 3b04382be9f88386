#include "shim/commands/listener.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/base/file.h"

namespace feather {
namespace {

using testing::HasSubstr;

class ListenerTest : public testing::Test {
 protected:
  ListenerTest() {
    std::string pattern = "/tmp/listener-XXXXXX";
    directory_ = mkdtemp(pattern.data());
    path_ = directory_ + "/a/s/socket";
  }
  ~ListenerTest() override { std::filesystem::remove_all(directory_); }

  UniqueFd MustListen() {
    auto fd = ListenOrFind(path_);
    EXPECT_TRUE(fd.ok() && fd->valid()) << fd.status();
    return fd.ok() ? std::move(*fd) : UniqueFd();
  }
  bool Exists() const { return access(path_.c_str(), F_OK) == 0; }

  std::string directory_;
  std::string path_;
};

UniqueFd Connect(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strcpy(address.sun_path, path.c_str());
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0)
    return UniqueFd();
  return fd;
}

mode_t ModeOf(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(lstat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

// Contract L9 and L12.
// Checklist: L12.
TEST_F(ListenerTest, ListensInADirectoryOfItsOwn) {
  mode_t before = umask(0);
  UniqueFd fd = MustListen();
  umask(before);
  EXPECT_TRUE(Connect(path_).valid());
  EXPECT_EQ(ModeOf(path_), 0600u);
  EXPECT_EQ(ModeOf(directory_ + "/a/s"), 0700u);
  EXPECT_EQ(BoundPath(fd.get()), path_);
  EXPECT_EQ(fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(ListenerTest, RefusesADirectoryIntoWhichOthersMayWrite) {
  MustListen().Reset();
  std::string socket_directory = directory_ + "/a/s";
  for (mode_t mode : {0770, 0707, 0777, 01777}) {
    ASSERT_EQ(chmod(socket_directory.c_str(), mode), 0);
    EXPECT_TRUE(absl::IsPermissionDenied(ListenOrFind(path_).status())) << mode;
    EXPECT_TRUE(absl::IsPermissionDenied(ListenAnew(path_).status())) << mode;
  }
  ASSERT_EQ(chmod(socket_directory.c_str(), 0755), 0);
  EXPECT_TRUE(MustListen().valid());
}

TEST_F(ListenerTest, RefusesADirectoryOfAnotherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to give a directory away";
  MustListen().Reset();
  ASSERT_EQ(chown((directory_ + "/a/s").c_str(), 65534, 65534), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(ListenOrFind(path_).status()));
}

// Takes a shared lock on a directory as a user without rights, and keeps it until it is ended.
class Locker {
 public:
  explicit Locker(const std::string& directory) {
    std::array<int, 2> result;
    if (pipe(result.data()) < 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      (void)!setgroups(0, nullptr);
      (void)!setresgid(65534, 65534, 65534);
      (void)!setresuid(65534, 65534, 65534);
      const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY);
      const char has = geteuid() != 0 && fd >= 0 && flock(fd, LOCK_SH) == 0 ? 'y' : 'n';
      (void)!write(result[1], &has, 1);
      while (true) pause();
    }
    close(result[1]);
    char has = 'n';
    has_ = read(result[0], &has, 1) == 1 && has == 'y';
    close(result[0]);
  }
  Locker(const Locker&) = delete;
  Locker& operator=(const Locker&) = delete;
  ~Locker() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  bool has() const { return has_; }

 private:
  pid_t pid_ = 0;
  bool has_ = false;
};

TEST_F(ListenerTest, AnotherUserCannotLockItsDirectoryUnlessHeMayReadIt) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  MustListen().Reset();
  const std::string socket_directory = directory_ + "/a/s";
  for (const std::string& parent : {directory_, directory_ + "/a"})
    ASSERT_EQ(chmod(parent.c_str(), 0755), 0);
  EXPECT_FALSE(Locker(socket_directory).has());
  ASSERT_EQ(chmod(socket_directory.c_str(), 0755), 0);
  EXPECT_TRUE(Locker(socket_directory).has());
}

TEST_F(ListenerTest, ALockThatNobodyReleasesIsNotWaitedForForEver) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to become another user";
  MustListen().Reset();  // leaves a dead socket
  const std::string socket_directory = directory_ + "/a/s";
  for (const std::string& directory : {directory_, directory_ + "/a", socket_directory})
    ASSERT_EQ(chmod(directory.c_str(), 0755), 0);
  {
    Locker locker(socket_directory);
    ASSERT_TRUE(locker.has());
    for (const absl::Status& status : {ListenOrFind(path_).status(), RemoveDeadSocket(path_)}) {
      EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
      EXPECT_EQ(status.message(),
                "socket directory " + socket_directory + " is locked by another process");
    }
    EXPECT_TRUE(Exists());
  }
  EXPECT_TRUE(MustListen().valid());
}

// Contract L13.
TEST_F(ListenerTest, FindsWhoListensAlready) {
  UniqueFd first = MustListen();
  auto second = ListenOrFind(path_);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(second->valid());
  EXPECT_TRUE(Connect(path_).valid());
}

TEST_F(ListenerTest, ABusyListenerIsNotTakenForADeadOne) {
  UniqueFd first = MustListen();
  ASSERT_EQ(listen(first.get(), 0), 0);
  std::vector<UniqueFd> waiting;
  while (true) {
    UniqueFd fd = Connect(path_);
    if (!fd) break;
    waiting.push_back(std::move(fd));
  }
  auto second = ListenOrFind(path_);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(second->valid());
  EXPECT_TRUE(RemoveDeadSocket(path_).ok());
  EXPECT_TRUE(Exists());
}

// Contract L14.
TEST_F(ListenerTest, ReplacesWhatADeadProcessLeft) {
  MustListen().Reset();
  ASSERT_TRUE(Exists());
  UniqueFd fd = MustListen();
  EXPECT_TRUE(Connect(path_).valid());
}

TEST_F(ListenerTest, ReplacesAFileThatIsNoSocket) {
  MustListen().Reset();
  unlink(path_.c_str());
  ASSERT_TRUE(WriteFile(path_, "x", 0600).ok());
  EXPECT_TRUE(MustListen().valid());
}

TEST_F(ListenerTest, ListensAnewWhoeverIsThere) {
  UniqueFd first = MustListen();
  auto second = ListenAnew(path_);
  ASSERT_TRUE(second.ok() && second->valid()) << second.status();
  first.Reset();
  EXPECT_TRUE(Connect(path_).valid());
}

// Checklist: L10.
TEST_F(ListenerTest, TakesAPathAsLongAsTheKernelDoesAndNoLonger) {
  std::string directory = directory_ + "/";
  path_ = directory + std::string(107 - directory.size(), 'x');
  EXPECT_TRUE(MustListen().valid());
  path_ += 'x';
  auto fd = ListenOrFind(path_);
  EXPECT_EQ(fd.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(fd.status().message()), HasSubstr("108 bytes"));
  EXPECT_FALSE(ListenOrFind("").ok());
}

TEST_F(ListenerTest, RemovesOnlyADeadSocket) {
  UniqueFd fd = MustListen();
  EXPECT_TRUE(RemoveDeadSocket(path_).ok());
  EXPECT_TRUE(Exists());
  fd.Reset();
  EXPECT_TRUE(RemoveDeadSocket(path_).ok());
  EXPECT_FALSE(Exists());
  EXPECT_TRUE(RemoveDeadSocket(path_).ok());
  EXPECT_TRUE(RemoveDeadSocket(directory_ + "/none/socket").ok());
  ASSERT_TRUE(WriteFile(path_, "x", 0600).ok());
  EXPECT_FALSE(RemoveDeadSocket(path_).ok());
  EXPECT_TRUE(Exists());
}

// Contract L15: of processes that start at once, over a dead socket or none, one listens and all
// others find it.
TEST_F(ListenerTest, OneOfManyProcessesListens) {
  constexpr int kProcesses = 8;
  for (int round = 0; round < 50; ++round) {
    if (round % 2 == 0) unlink(path_.c_str());
    std::array<int, 2> go;
    std::array<int, 2> done;
    ASSERT_EQ(pipe(go.data()), 0);
    ASSERT_EQ(pipe(done.data()), 0);
    std::vector<pid_t> children;
    for (int i = 0; i < kProcesses; ++i) {
      pid_t pid = fork();
      if (pid == 0) {
        close(go[1]);
        char byte;
        (void)!read(go[0], &byte, 1);  // EOF: go
        auto fd = ListenOrFind(path_);
        byte = !fd.ok() ? 'e' : fd->valid() ? 'l' : 'f';
        (void)!write(done[1], &byte, 1);
        pause();
      }
      children.push_back(pid);
    }
    close(go[0]);
    close(go[1]);
    std::string results;
    while (results.size() < kProcesses) {
      char byte;
      ASSERT_EQ(read(done[0], &byte, 1), 1);
      results += byte;
    }
    EXPECT_EQ(std::count(results.begin(), results.end(), 'l'), 1) << results;
    EXPECT_EQ(std::count(results.begin(), results.end(), 'f'), kProcesses - 1) << results;
    EXPECT_TRUE(Connect(path_).valid());
    for (pid_t child : children) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    close(done[0]);
    close(done[1]);
  }
}

}  // namespace
}  // namespace feather
