#include "tests/support/memory_cgroup.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"

namespace feather::test {
namespace {

std::string ReadAll(const std::string& path) {
  auto data = ReadFile(path);
  return data.ok() ? *data : std::string();
}

bool Contains(const std::string& words, absl::string_view word) {
  for (absl::string_view w : absl::StrSplit(words, absl::ByAnyChar(" ,\n")))
    if (w == word) return true;
  return false;
}

// The mount point of the first mount of `type` that `wanted` accepts, called with its super
// options.
std::optional<std::string> FindMount(absl::string_view type,
                                     const std::function<bool(const std::string&)>& wanted) {
  for (absl::string_view line : absl::StrSplit(ReadAll("/proc/self/mountinfo"), '\n')) {
    std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    std::vector<std::string> left = absl::StrSplit(halves[0], ' ');
    std::vector<std::string> right = absl::StrSplit(halves[1], ' ');
    if (left.size() > 4 && right.size() > 2 && right[0] == type && wanted(right[2])) return left[4];
  }
  return std::nullopt;
}

// Writes without allocating, for use after fork(2).
bool WriteRaw(const char* path, const char* text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  bool written = fd >= 0 && write(fd, text, strlen(text)) > 0;
  if (fd >= 0) close(fd);
  return written;
}

}  // namespace

std::optional<std::string> Cgroup1MemoryRoot() {
  return FindMount("cgroup",
                   [](const std::string& options) { return Contains(options, "memory"); });
}

std::optional<std::string> Cgroup2MemoryRoot() {
  auto root = FindMount("cgroup2", [](const std::string&) { return true; });
  if (!root || !Contains(ReadAll(*root + "/cgroup.controllers"), "memory")) return std::nullopt;
  return root;
}

MemoryCgroup::MemoryCgroup(const std::string& parent, absl::string_view name)
    : path_(absl::StrCat(parent, "/", name)) {
  const std::string control = parent + "/cgroup.subtree_control";
  if (access(control.c_str(), F_OK) == 0 && !Contains(ReadAll(control), "memory")) {
    EXPECT_TRUE(WriteRaw(control.c_str(), "+memory")) << control << ": " << strerror(errno);
  }
  EXPECT_EQ(mkdir(path_.c_str(), 0755), 0) << path_ << ": " << strerror(errno);
}

MemoryCgroup::~MemoryCgroup() {
  for (int attempt = 0; attempt < 1000 && !Remove() && errno == EBUSY; ++attempt) {
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      if (entry.is_directory()) rmdir(entry.path().c_str());
    for (absl::string_view pid : absl::StrSplit(ReadAll(path_ + "/cgroup.procs"), '\n'))
      if (int number = atoi(std::string(pid).c_str()); number > 1) kill(number, SIGKILL);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    usleep(10'000);
  }
  EXPECT_NE(access(path_.c_str(), F_OK), 0) << path_ << " is left behind";
}

void MemoryCgroup::Limit(uint64_t bytes) {
  const std::string value = absl::StrCat(bytes);
  if (access((path_ + "/memory.max").c_str(), F_OK) == 0) {
    Write("memory.max", value);
    WriteRaw((path_ + "/memory.swap.max").c_str(), "0");
  } else {
    // Never below the other one.
    const std::string with_swap = path_ + "/memory.memsw.limit_in_bytes";
    WriteRaw(with_swap.c_str(), "-1");
    Write("memory.limit_in_bytes", value);
    WriteRaw(with_swap.c_str(), value.c_str());
  }
}

void MemoryCgroup::Write(absl::string_view file, absl::string_view value) {
  const std::string path = absl::StrCat(path_, "/", file);
  EXPECT_TRUE(WriteRaw(path.c_str(), std::string(value).c_str()))
      << path << ": " << strerror(errno);
}

std::string MemoryCgroup::Read(absl::string_view file) const {
  return ReadAll(absl::StrCat(path_, "/", file));
}

uint64_t MemoryCgroup::Value(absl::string_view file, absl::string_view key) const {
  std::istringstream text(Read(file));
  std::string word;
  uint64_t value = 0;
  while (text >> word >> value)
    if (word == key) return value;
  return 0;
}

bool MemoryCgroup::Remove() { return rmdir(path_.c_str()) == 0; }

Member::Member(const std::string& directory, std::function<void()> body) {
  const std::string procs = directory + "/cgroup.procs";
  std::array<int, 2> gate;
  std::array<int, 2> ready;
  EXPECT_EQ(pipe2(gate.data(), O_CLOEXEC), 0);
  EXPECT_EQ(pipe2(ready.data(), O_CLOEXEC), 0);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(gate[1]);
    char byte = WriteRaw(procs.c_str(), "0") ? 'y' : 'n';
    if (write(ready[1], &byte, 1) != 1 || read(gate[0], &byte, 1) != 1) _exit(120);
    body();
    _exit(0);
  }
  close(gate[0]);
  close(ready[1]);
  gate_ = gate[1];
  char byte = 'n';
  EXPECT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y') << procs;
  close(ready[0]);
}

Member::~Member() {
  close(gate_);
  if (pid_ > 0) {
    Kill(SIGKILL);
    Wait();
  }
}

void Member::Go() { EXPECT_EQ(write(gate_, "g", 1), 1); }

void Member::Kill(int signal) {
  if (pid_ > 0) kill(pid_, signal);
}

bool Member::Ended() const {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == pid_;
}

int Member::Wait() {
  int status = -1;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  return status;
}

bool Member::RunToItsKill() {
  Go();
  int status = Wait();
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

void EatMemory(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) _exit(121);
  char* byte = static_cast<char*>(memory);
  for (size_t i = 0; i < bytes; i += 4096) byte[i] = 1;
  munmap(memory, bytes);
}

void EatMemoryInAChild(size_t bytes) {
  pid_t child = fork();
  if (child == 0) {
    // The larger badness of the two.
    WriteRaw("/proc/self/oom_score_adj", "500");
    EatMemory(bytes);
    _exit(0);
  }
  waitpid(child, nullptr, 0);
}

PageCache::PageCache() : path_("/usr/bin/linux.uml") {
  if (getenv("FEATHER_GUEST") != nullptr) return;
  made_ = true;
  path_ = "/var/tmp/feather-XXXXXX";
  UniqueFd fd(mkstemp(path_.data()));
  EXPECT_TRUE(fd.valid()) << strerror(errno);
}

PageCache::~PageCache() {
  if (made_) unlink(path_.c_str());
}

void PageCache::Fill() const {
  static std::array<char, 65536> block;
  int fd = open(path_.c_str(), (made_ ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
  if (fd < 0) _exit(122);
  while (!made_ && read(fd, block.data(), block.size()) > 0) {
  }
  for (int i = 0; made_ && i < 16 * 24; ++i) {
    if (write(fd, block.data(), block.size()) < 0) _exit(123);
    if (i % 16 == 15) fdatasync(fd);
  }
  close(fd);
}

namespace {

// Of the file system; those of the mount stay.
bool SetOptions(const std::string& root, const std::string& options) {
  struct statvfs info {};
  if (statvfs(root.c_str(), &info) < 0) return false;
  const unsigned long kept = info.f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC);
  return mount(nullptr, root.c_str(), nullptr, MS_REMOUNT | kept, options.c_str()) == 0;
}

}  // namespace

LocalEvents::LocalEvents() {
  const auto root = FindMount("cgroup2", [this](const std::string& options) {
    std::vector<std::string> own = absl::StrSplit(options, ',');
    std::erase_if(own, [](const std::string& option) { return option == "rw" || option == "ro"; });
    options_ = absl::StrJoin(own, ",");
    return true;
  });
  errno = ENOENT;
  if (!root) return;
  root_ = *root;
  mounted_ =
      SetOptions(root_, absl::StrCat(options_, options_.empty() ? "" : ",", "memory_localevents"));
}

LocalEvents::~LocalEvents() {
  if (!mounted_) return;
  EXPECT_TRUE(SetOptions(root_, options_)) << root_ << ": " << strerror(errno);
}

std::vector<int> OpenDescriptors() {
  std::vector<int> numbers;
  for (int fd = 0; fd < 4096; ++fd)
    if (fcntl(fd, F_GETFD) >= 0) numbers.push_back(fd);
  return numbers;
}

bool RunUntil(asio::io_context& io, const std::function<bool()>& done, std::chrono::seconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    io.restart();
    io.run_one_for(std::chrono::milliseconds(50));
  }
  return true;
}

}  // namespace feather::test
