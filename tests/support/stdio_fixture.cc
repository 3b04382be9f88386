#include "tests/support/stdio_fixture.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/spawn.h"

namespace feather::test {

std::map<int, std::string> OpenDescriptors() {
  std::map<int, std::string> result;
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return result;
  while (dirent* entry = readdir(directory)) {
    int fd = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || fd == dirfd(directory)) continue;
    std::array<char, 256> target = {};
    if (readlinkat(dirfd(directory), entry->d_name, target.data(), target.size() - 1) >= 0)
      result[fd] = target.data();
  }
  closedir(directory);
  return result;
}

void StdioTest::SetUp() {
  signal(SIGPIPE, SIG_IGN);
  std::string name = absl::StrCat(testing::TempDir(), "/feather-stdio-XXXXXX");
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  directory_ = std::filesystem::canonical(name).string();
  setenv("XDG_RUNTIME_DIR", directory_.c_str(), 1);
  owner_.id = "c1";
  owner_.name_space = "ns";
  reaper_ = std::make_unique<Reaper>(io());
  loop_.RunFor(std::chrono::milliseconds(1));
  before_ = OpenDescriptors();
}

void StdioTest::TearDown() {
  for (const auto& entry : exits_) {
    if (entry.second->has_value()) continue;
    kill(entry.first, SIGKILL);
    WaitFor(entry.first);
  }
  EXPECT_EQ(OpenDescriptors(), before_);
  for (const auto& entry : std::filesystem::directory_iterator(directory_))
    EXPECT_NE(entry.path().filename().string().substr(0, 3), "pty");
  std::filesystem::remove_all(directory_);
}

std::string StdioTest::Fifo(const std::string& name) {
  MakeFifo(Path(name));
  return Path(name);
}

void StdioTest::WriteScript(const std::string& name, const std::string& text) {
  ASSERT_TRUE(WriteFile(Path(name), text, 0755).ok());
}

std::string StdioTest::Read(const std::string& name) const {
  return ReadFile(Path(name)).value_or("(no file)");
}

absl::StatusOr<std::shared_ptr<Stdio>> StdioTest::TryPrepare(StdioRequest request,
                                                             StdioLimits limits) {
  return Await(Stdio::Prepare(io(), *reaper_, std::move(request), owner_, limits));
}

std::shared_ptr<Stdio> StdioTest::Prepare(StdioRequest request, StdioLimits limits) {
  absl::StatusOr<std::shared_ptr<Stdio>> stdio = TryPrepare(std::move(request), limits);
  EXPECT_TRUE(stdio.ok()) << stdio.status();
  return stdio.ok() ? *std::move(stdio) : nullptr;
}

bool StdioTest::BecomesQuiet() {
  auto deadline = Clock::now() + kLimit;
  while (Clock::now() < deadline) {
    io().restart();
    if (io().run_for(std::chrono::milliseconds(200)) == 0) return true;
  }
  return false;
}

pid_t StdioTest::Shell(const std::string& script, const std::array<int, 3>& fds,
                       std::vector<std::pair<int, int>> more) {
  Command command;
  command.argv = {"/bin/sh", "-c", script};
  command.env = {"PATH=/usr/bin:/bin", absl::StrCat("DIR=", directory_)};
  command.working_directory = directory_;
  command.fds = std::move(more);
  for (int i = 0; i < 3; ++i)
    if (fds[static_cast<size_t>(i)] >= 0) command.fds.emplace_back(fds[static_cast<size_t>(i)], i);
  absl::StatusOr<pid_t> pid = SpawnProcess(command);
  EXPECT_TRUE(pid.ok()) << pid.status();
  if (!pid.ok()) return -1;
  auto exit = std::make_shared<std::optional<uint32_t>>();
  exits_[*pid] = exit;
  reaper_->Watch(*pid, [exit](const Exit& e) { *exit = e.status; });
  return *pid;
}

pid_t StdioTest::StartContainer(Stdio& stdio, const std::string& script) {
  pid_t pid = Shell(script, stdio.child_fds());
  stdio.RuntimeStarted();
  absl::Status attached = Await(stdio.Attach());
  EXPECT_TRUE(attached.ok()) << attached;
  return pid;
}

uint32_t StdioTest::WaitFor(pid_t pid) {
  auto exit = exits_.at(pid);
  EXPECT_TRUE(RunUntil([&exit] { return exit->has_value(); })) << pid << " did not end";
  return exit->value_or(999);
}

bool StdioTest::Delete(Stdio& stdio, Clock::duration limit) {
  bool drained = Await(stdio.Drain(limit));
  Await(stdio.Close());
  return drained;
}

}  // namespace feather::test
