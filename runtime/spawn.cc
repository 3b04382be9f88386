#include "runtime/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/home_namespaces.h"
#include "runtime/base/status.h"
#include "runtime/base/unique_fd.h"

// The child runs in the parent's memory, so that nothing in it may be a sanitizer's either.
#define FEATHER_IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

namespace feather {
namespace {

constexpr int kSignals = 64;

// Everything the child needs, prepared by the parent, and where it leaves its error.
struct Plan {
  struct Move {
    int source;
    int target;
  };

  const char* path;
  char* const* argv;
  char* const* env;
  const char* working_directory;  // or null
  Move* moves;
  size_t move_count;
  int above;  // greater than every target
  bool die_with_parent;
  bool new_process_group;
  pid_t parent;
  const int* home;  // namespaces to go back to; null: none
  size_t home_count;

  volatile int error;       // 0: exec succeeded
  volatile bool directory;  // the error is chdir's
};

// exec keeps ignored signals ignored, and a handler must not run in here once signals are
// unblocked.
FEATHER_IN_CHILD void ResetSignals() {
  // The kernel's struct sigaction of any architecture, SIG_DFL.
  const uint64_t action[4] = {0, 0, 0, 0};
  const uint64_t none = 0;
  for (int signal = 1; signal <= kSignals; ++signal)
    syscall(SYS_rt_sigaction, signal, action, nullptr, sizeof(none));
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof(none));
}

// A source may be another's target, so all are first moved out of the targets' range.
FEATHER_IN_CHILD bool PlaceDescriptors(const Plan& plan) {
  for (size_t i = 0; i < plan.move_count; ++i) {
    int* source = &plan.moves[i].source;
    if (*source >= plan.above) continue;
    auto moved = syscall(SYS_fcntl, *source, F_DUPFD_CLOEXEC, plan.above);
    if (moved < 0) return false;
    *source = static_cast<int>(moved);
  }
  // Everything is close-on-exec already; this is for what a library may have opened. Linux 5.10
  // has no such flag.
  syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
  for (size_t i = 0; i < plan.move_count; ++i)
    if (syscall(SYS_dup3, plan.moves[i].source, plan.moves[i].target, 0) < 0) return false;
  return true;
}

// What the child does up to its exec. Nothing here blocks, allocates or locks. Returns on error
// only, with errno set.
FEATHER_IN_CHILD void Execute(Plan& plan) {
  ResetSignals();
  if (plan.die_with_parent) {
    if (syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0) return;
    // The parent may have ended before that.
    if (syscall(SYS_getppid) != plan.parent) {
      errno = ESRCH;
      return;
    }
  }
  if (plan.new_process_group && syscall(SYS_setpgid, 0, 0) < 0) return;
  for (size_t i = 0; i < plan.home_count; ++i)
    if (plan.home[i] >= 0 && syscall(SYS_setns, plan.home[i], 0) < 0) return;
  if (!PlaceDescriptors(plan)) return;
  if (plan.working_directory != nullptr && syscall(SYS_chdir, plan.working_directory) < 0) {
    plan.directory = true;
    return;
  }
  syscall(SYS_execve, plan.path, plan.argv, plan.env);
}

FEATHER_IN_CHILD int ChildMain(void* argument) {
  Plan& plan = *static_cast<Plan*>(argument);
  Execute(plan);
  plan.error = errno;
  syscall(SYS_exit_group, 127);
  return 127;
}

// The child's pid, with plan.error telling whether it has executed, or -1 and errno.
pid_t CloneAndWaitForExec(Plan& plan) {
  alignas(16) std::array<char, 16384> stack;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // A handler of ours must run in neither: the child has copies of them until it has reset them.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid =
      clone(ChildMain, stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | SIGCHLD, &plan);
  int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return pid;
}

absl::Status SpawnError(int error, const std::string& what) {
  if (error == EAGAIN || error == ENOMEM || error == EMFILE || error == ENFILE)
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", ErrnoText(error)));
  return ErrnoError(error, what);
}

bool IsExecutable(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && access(path.c_str(), X_OK) == 0;
}

absl::StatusOr<std::string> FindExecutable(const Command& command) {
  if (command.argv.empty() || command.argv[0].empty())
    return absl::InvalidArgumentError("exec: no command");
  const std::string& name = command.argv[0];
  if (absl::StrContains(name, '/')) return name;
  for (absl::string_view variable : command.env) {
    if (!absl::ConsumePrefix(&variable, "PATH=")) continue;
    for (absl::string_view directory : absl::StrSplit(variable, ':')) {
      if (!absl::StartsWith(directory, "/")) continue;
      std::string path = absl::StrCat(directory, "/", name);
      if (IsExecutable(path)) return path;
    }
    break;
  }
  return absl::NotFoundError(
      absl::StrCat("exec: \"", name, "\": executable file not found in $PATH"));
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  // execve(2) takes them as not const and leaves them alone.
  for (const std::string& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Those of 0, 1 and 2 that are not named are /dev/null: `nulls[0]`, for reading alone, is 0.
using Nulls = std::array<UniqueFd, 2>;
absl::StatusOr<std::vector<Plan::Move>> Moves(const Command& command, Nulls& nulls) {
  std::vector<Plan::Move> moves;
  moves.reserve(command.fds.size() + 3);
  std::array<bool, 3> named = {};
  for (const auto& [source, target] : command.fds) {
    if (source < 0 || target < 0) return absl::InvalidArgumentError("spawn: bad descriptor");
    if (target < 3) named[static_cast<size_t>(target)] = true;
    moves.push_back({source, target});
  }
  for (int target = 0; target < 3; ++target) {
    if (named[static_cast<size_t>(target)]) continue;
    UniqueFd& null = nulls[target == 0 ? 0 : 1];
    if (!null) null.Reset(open("/dev/null", (target == 0 ? O_RDONLY : O_RDWR) | O_CLOEXEC));
    if (!null) return SpawnError(errno, "open /dev/null");
    moves.push_back({null.get(), target});
  }
  return moves;
}

}  // namespace

std::vector<std::string> InheritedEnvironment() {
  std::vector<std::string> result;
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable)
    if (!absl::StartsWith(*variable, "NOTIFY_SOCKET=")) result.emplace_back(*variable);
  return result;
}

absl::StatusOr<pid_t> SpawnProcess(const Command& command) {
  // The child begins with them.
  RaisedCapabilities all;
  ASSIGN_OR_RETURN(std::string path, FindExecutable(command));
  Nulls nulls;
  ASSIGN_OR_RETURN(std::vector<Plan::Move> moves, Moves(command, nulls));
  std::vector<char*> argv = Pointers(command.argv);
  std::vector<char*> env = Pointers(command.env);

  Plan plan = {};
  plan.path = path.c_str();
  plan.argv = argv.data();
  plan.env = env.data();
  plan.working_directory =
      command.working_directory.empty() ? nullptr : command.working_directory.c_str();
  plan.moves = moves.data();
  plan.move_count = moves.size();
  for (const Plan::Move& move : moves) plan.above = std::max(plan.above, move.target + 1);
  plan.die_with_parent = command.die_with_parent;
  plan.new_process_group = command.new_process_group;
  plan.parent = getpid();
  if (const auto* home = HomeNamespaces()) {
    plan.home = home->data();
    plan.home_count = home->size();
  }

  pid_t pid = CloneAndWaitForExec(plan);
  if (pid < 0) return SpawnError(errno, absl::StrCat("fork/exec ", path));
  if (plan.error == 0) return pid;
  // It has left our memory already, so that this waits for its last steps only. Taken here, before
  // the loop runs, its pid can't be mistaken for anything else.
  while (waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  if (plan.directory)
    return SpawnError(plan.error, absl::StrCat("chdir ", command.working_directory));
  return SpawnError(plan.error, absl::StrCat("fork/exec ", path));
}

}  // namespace feather
