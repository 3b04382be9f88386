#include "tests/support/shim_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"

namespace feather::test {
namespace {

constexpr auto kHelperLimit = std::chrono::seconds(60);

std::pair<UniqueFd, UniqueFd> MakePipe() {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) < 0) throw std::runtime_error("pipe2");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Appends what can be read; false at EOF.
bool ReadSome(int fd, std::string& data) {
  std::array<char, 4096> buffer;
  ssize_t n = read(fd, buffer.data(), buffer.size());
  if (n > 0) data.append(buffer.data(), static_cast<size_t>(n));
  return n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
}

// Reads both until EOF; false when the limit passed first.
bool Collect(UniqueFd& out, UniqueFd& err, HelperResult& result) {
  auto deadline = std::chrono::steady_clock::now() + kHelperLimit;
  while (out || err) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    std::array<pollfd, 2> polled = {pollfd{out.get(), POLLIN, 0}, pollfd{err.get(), POLLIN, 0}};
    if (poll(polled.data(), polled.size(), static_cast<int>(left.count())) <= 0) continue;
    if (out && polled[0].revents != 0 && !ReadSome(out.get(), result.out)) out.Reset();
    if (err && polled[1].revents != 0 && !ReadSome(err.get(), result.err)) err.Reset();
  }
  return true;
}

}  // namespace

HelperResult RunHelper(const HelperCommand& command) {
  auto [in_read, in_write] = MakePipe();
  auto [out_read, out_write] = MakePipe();
  auto [err_read, err_write] = MakePipe();
  UniqueFd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  std::vector<char*> argv = Pointers(command.argv);
  std::vector<char*> env = Pointers(command.env);
  pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork");
  if (pid == 0) {
    setpgid(0, 0);
    dup2(command.null_input ? null.get() : in_read.get(), 0);
    dup2(out_write.get(), 1);
    dup2(command.joined ? out_write.get() : err_write.get(), 2);
    if (!command.cwd.empty() && chdir(command.cwd.c_str()) < 0) _exit(126);
    execve(argv[0], argv.data(), env.data());
    _exit(127);
  }
  out_write.Reset();
  err_write.Reset();
  // Options are far smaller than a pipe. The reading end stays until then: a helper that ends
  // without reading must raise no SIGPIPE here.
  (void)!WriteAll(in_write.get(), command.input).ok();
  in_write.Reset();
  in_read.Reset();

  HelperResult result;
  bool ended = Collect(out_read, err_read, result);
  if (!ended) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (ended) result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

void BecomeSubreaper() { prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }

std::vector<pid_t> Children() {
  std::vector<pid_t> children;
  DIR* proc = opendir("/proc");
  while (dirent* entry = readdir(proc)) {
    int pid = atoi(entry->d_name);
    if (pid <= 0) continue;
    auto stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
    if (!stat.ok() || stat->rfind(')') == std::string::npos) continue;
    std::vector<std::string> fields = absl::StrSplit(stat->substr(stat->rfind(')') + 2), ' ');
    if (fields.size() > 1 && atoi(fields[1].c_str()) == getpid()) children.push_back(pid);
  }
  closedir(proc);
  return children;
}

void ReapChildren(std::map<pid_t, int>& exits) {
  int status = 0;
  pid_t pid = 0;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) exits[pid] = status;
}

std::string DescribeProcess(pid_t pid) {
  auto command = ReadFile(absl::StrCat("/proc/", pid, "/cmdline"));
  auto stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  std::string line = command.ok() ? *command : "";
  std::replace(line.begin(), line.end(), '\0', ' ');
  if (line.empty() && stat.ok()) line = stat->substr(0, stat->rfind(')') + 3);
  return absl::StrCat("pid ", pid, " ", line);
}

bool HideUnifiedCgroup() {
  static bool hidden = false;
  struct statfs fs {};
  if (hidden || statfs("/sys/fs/cgroup/unified", &fs) < 0) return true;
  if (unshare(CLONE_NEWNS) < 0) return false;
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return false;
  hidden = umount2("/sys/fs/cgroup/unified", MNT_DETACH) == 0;
  // crun makes its directories at the empty mount point, too, and leaves them.
  if (hidden) mount("none", "/sys/fs/cgroup/unified", "tmpfs", 0, nullptr);
  return hidden;
}

}  // namespace feather::test
