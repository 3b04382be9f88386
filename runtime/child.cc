#include "runtime/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/file.h"
#include "runtime/base/home_namespaces.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

constexpr int kReportFd = 3;
constexpr int kExecFailed = 127;

// The parent as of the fork, in the child.
pid_t g_parent = 0;

void DieWithParent() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != g_parent) _exit(1);  // it had gone before prctl
}

// Signals are blocked when this is called, so that no handler of the parent's, whose descriptors
// are still open here, can run in the child.
void ResetSignals() {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) sigaction(signal, &action, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Descriptors of the parent's that stayed open here would keep its pipes and sockets alive; and one
// that stood where `descriptors` are to be would be taken for one of them.
void KeepOnly(int report, const std::vector<int>& descriptors) {
  std::vector<int> kept = {report};
  kept.insert(kept.end(), descriptors.begin(), descriptors.end());
  const int end = kReportFd + static_cast<int>(kept.size());
  // The others first: the parent may have as many as it can.
  std::vector<int> sorted = kept;
  std::sort(sorted.begin(), sorted.end());
  int next = kReportFd;
  for (int descriptor : sorted) {
    if (next < descriptor)
      close_range(static_cast<unsigned>(next), static_cast<unsigned>(descriptor - 1), 0);
    next = std::max(next, descriptor + 1);
  }
  close_range(static_cast<unsigned>(next), ~0U, 0);
  // One may be where another is to be, so all are moved out of the way.
  for (int& descriptor : kept)
    if ((descriptor = fcntl(descriptor, F_DUPFD_CLOEXEC, end)) < 0) _exit(1);
  for (size_t i = 0; i < kept.size(); ++i)
    if (dup3(kept[i], kReportFd + static_cast<int>(i), O_CLOEXEC) < 0) _exit(1);
  close_range(static_cast<unsigned>(end), ~0U, 0);
}

// fork(2) with all signals blocked in the parent until it has returned there.
pid_t ForkBlocked() {
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  pid_t parent = getpid();
  RaisedCapabilities capabilities;
  pid_t pid = fork();
  int error = errno;
  if (pid == 0) {
    capabilities.Keep();
    g_parent = parent;
    ResetSignals();
    DieWithParent();
    return 0;
  }
  sigprocmask(SIG_SETMASK, &old, nullptr);
  errno = error;
  return pid;
}

// An exception must not lead the child back into the parent's loop.
[[noreturn]] void RunAndReport(int report, const std::vector<int>& descriptors,
                               const std::function<absl::Status()>& work) noexcept {
  absl::Status status = ReturnHomeInChild();
  KeepOnly(report, descriptors);
  if (status.ok()) status = work();
  std::string text(1, static_cast<char>(status.code()));
  absl::StrAppend(&text, absl::string_view(status.message()));
  _exit(WriteAll(kReportFd, text).ok() ? 0 : 1);
}

absl::Status ReadReport(int report, const Exit& exit) {
  absl::StatusOr<std::string> text = ReadFd(report);
  if (exit.status != 0 || !text.ok() || text->empty())
    return absl::UnknownError(absl::StrCat("child process ended with status ", exit.status));
  absl::StatusCode code = static_cast<absl::StatusCode>(text->front());
  return absl::Status(code, absl::string_view(*text).substr(1));
}

}  // namespace

Async<absl::Status> RunInChild(Reaper& reaper, std::function<absl::Status()> work,
                               ChildOptions options) {
  // A file and not a pipe: the child never waits for a reader, whatever the length.
  UniqueFd report(memfd_create("report", MFD_CLOEXEC));
  if (!report) co_return ErrnoError(errno, "memfd_create");
  // No Reaper::Expectation: the loop has no turn before the pid is watched, and a child may take as
  // long as its container lives.
  pid_t pid = ForkBlocked();
  if (pid < 0) co_return ErrnoError(errno, "fork");
  if (pid == 0) RunAndReport(report.get(), options.descriptors, work);
  if (options.started) options.started(pid);
  Exit exit = co_await reaper.WaitFor(pid);
  co_return ReadReport(report.get(), exit);
}

LetLive::LetLive() { prctl(PR_SET_PDEATHSIG, 0); }

LetLive::~LetLive() { DieWithParent(); }

absl::Status RunProgram(const std::vector<std::string>& argv) {
  UniqueFd output(memfd_create("output", MFD_CLOEXEC));
  if (!output) return ErrnoError(errno, "memfd_create");
  // The program's own daemon, if it starts one, is a child of neither and lives on.
  pid_t pid = ForkBlocked();
  if (pid < 0) return ErrnoError(errno, "fork");
  if (pid == 0) {
    std::vector<char*> arguments;
    for (const std::string& argument : argv)
      arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    dup2(output.get(), STDOUT_FILENO);
    dup2(output.get(), STDERR_FILENO);
    execvp(arguments[0], arguments.data());
    absl::Status error = ErrnoError(errno, argv[0]);
    WriteAll(STDERR_FILENO, absl::string_view(error.message())).IgnoreError();
    _exit(kExecFailed);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return ErrnoError(errno, "waitpid");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  constexpr size_t kMaxOutput = 4096;
  std::string text = ReadFd(output.get()).value_or("");
  if (text.size() > kMaxOutput) text.resize(kMaxOutput);
  std::string end = WIFSIGNALED(status) ? absl::StrCat("signal ", WTERMSIG(status))
                                        : absl::StrCat("exit status ", WEXITSTATUS(status));
  return absl::UnknownError(absl::StrCat("[", absl::StrJoin(argv, " "), "] failed: \"",
                                         absl::CHexEscape(text), "\": ", end));
}

}  // namespace feather
