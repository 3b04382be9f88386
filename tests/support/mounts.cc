#include "tests/support/mounts.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/mount/mountinfo.h"

namespace feather::test {
namespace {

int CountDescriptors() {
  auto entries = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<int>(std::distance(begin(entries), end(entries)));
}

Async<> Store(Async<absl::Status> work, std::optional<absl::Status>& result) {
  result = co_await std::move(work);
}

}  // namespace

void MountTest::SetUpTestSuite() {
  if (geteuid() != 0) return;
  ASSERT_EQ(unshare(CLONE_NEWNS), 0) << strerror(errno);
  ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0) << strerror(errno);
}

void MountTest::SetUp() {
  if (geteuid() != 0) GTEST_SKIP() << "only root may mount";
  std::string pattern = absl::StrCat(testing::TempDir(), "mount test-XXXXXX");
  ASSERT_NE(mkdtemp(pattern.data()), nullptr);
  directory_ = std::filesystem::canonical(pattern);
  ASSERT_EQ(mount("playground", directory_.c_str(), "tmpfs", 0, "mode=0755"), 0);
  MakeDirectory("rootfs");
  descriptors_ = CountDescriptors();
}

void MountTest::TearDown() {
  if (directory_.empty()) return;
  EXPECT_EQ(MountPoints(), std::vector<std::string>());
  while (umount2(directory_.c_str(), MNT_DETACH) == 0) continue;
  rmdir(directory_.c_str());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  EXPECT_EQ(CountDescriptors(), descriptors_);
}

absl::Status MountTest::Run(Async<absl::Status> work) {
  std::optional<absl::Status> result;
  Spawn(io_, Store(std::move(work), result));
  io_.restart();
  while (!result && io_.run_one_for(std::chrono::seconds(60)) > 0) continue;
  return result.value_or(absl::DeadlineExceededError("nothing for 60 s"));
}

absl::Status MountTest::Mounting(std::vector<Mount> mounts) {
  return Run(MountAll(reaper_, std::move(mounts), rootfs()));
}

absl::Status MountTest::Unmounting(std::string directory) {
  return Run(UnmountAll(reaper_, std::move(directory)));
}

std::string MountTest::At(absl::string_view name) const {
  return absl::StrCat(directory_, "/", name);
}

std::string MountTest::MakeDirectory(absl::string_view name) {
  std::filesystem::create_directories(At(name));
  return At(name);
}

void MountTest::MakeFile(absl::string_view name, absl::string_view text) {
  std::filesystem::create_directories(std::filesystem::path(At(name)).parent_path());
  absl::Status status = WriteFile(At(name), text, 0644);
  ASSERT_TRUE(status.ok()) << status;
}

std::string MountTest::Read(absl::string_view name) const {
  absl::StatusOr<std::string> text = ReadFile(At(name));
  return text.ok() ? *text : absl::StrCat("(", text.status().message(), ")");
}

int MountTest::TryWriting(absl::string_view directory) {
  std::string path = absl::StrCat(At(directory), "/written");
  UniqueFd fd(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  return fd.valid() ? 0 : errno;
}

std::vector<std::string> MountTest::MountPoints() const {
  std::vector<std::string> points;
  std::vector<MountInfo> mounts = MountsBelow(directory_).value();
  for (const MountInfo& mount : mounts)
    if (mount.mount_point != directory_)
      points.push_back(mount.mount_point.substr(directory_.size() + 1));
  std::sort(points.begin(), points.end());
  return points;
}

}  // namespace feather::test
