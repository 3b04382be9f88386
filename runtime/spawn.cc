#include "runtime/spawn.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/home_namespaces.h"
#include "runtime/base/status.h"
#include "runtime/base/unique_fd.h"

// The child runs in the parent's memory, so that nothing in it may be a sanitizer's either: no
// function of a library, an inline one included.
#define FEATHER_IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

namespace feather {
namespace {

constexpr int kSignals = 64;
constexpr size_t kHomes = 3;

FEATHER_IN_CHILD long Word(const void* pointer) { return reinterpret_cast<long>(pointer); }

#if defined(__x86_64__) || defined(__aarch64__)
constexpr int kBeside = 0;
#else
// Where Call has errno, the parent has to stand still.
constexpr int kBeside = CLONE_VFORK;
#endif

// A system call of the child's, without errno: that is the parent's as well, who goes on meanwhile.
// Returns what the kernel does, an error as its negative number.
FEATHER_IN_CHILD long Call(long number, long a = 0, long b = 0, long c = 0, long d = 0,
                           long e = 0) {
#if defined(__x86_64__)
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  long result;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
               : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return x0;
#else
  long result = syscall(number, a, b, c, d, e);
  return result < 0 ? -errno : result;
#endif
}

// Everything the child needs, prepared by the parent, and where it leaves its error.
struct Plan {
  struct Move {
    int source;
    int target;
  };

  const char* const* paths;  // of which the first that can be executed is; null: the end
  bool look_up;              // else there is one, which is executed whatever it is
  char* const* argv;
  char* const* env;
  const char* working_directory;  // or null
  Move* moves;
  size_t move_count;
  int above;  // greater than every target
  bool die_with_parent;
  bool new_process_group;
  pid_t parent;
  int home[kHomes];  // namespaces to go back to; -1: none

  enum Step { kPrepare, kEnterDirectory, kLookUp, kExecute };
  volatile Step step;
  const char* volatile path;  // that was executed
  volatile int error;         // 0: none yet
};

// exec keeps ignored signals ignored, and a handler must not run in here once signals are
// unblocked.
FEATHER_IN_CHILD void ResetSignals() {
  // The kernel's struct sigaction of any architecture, SIG_DFL.
  const uint64_t action[4] = {0, 0, 0, 0};
  const uint64_t none = 0;
  for (int signal = 1; signal <= kSignals; ++signal)
    Call(SYS_rt_sigaction, signal, Word(action), 0, sizeof(none));
  Call(SYS_rt_sigprocmask, SIG_SETMASK, Word(&none), 0, sizeof(none));
}

// A source may be another's target, so all are first moved out of the targets' range. All others
// are closed: a child that hangs must not keep open what others wait for the end of.
FEATHER_IN_CHILD long PlaceDescriptors(const Plan& plan) {
  for (size_t i = 0; i < plan.move_count; ++i) {
    int* source = &plan.moves[i].source;
    if (*source >= plan.above) continue;
    long moved = Call(SYS_fcntl, *source, F_DUPFD_CLOEXEC, plan.above);
    if (moved < 0) return moved;
    *source = static_cast<int>(moved);
  }
  for (size_t i = 0; i < plan.move_count; ++i)
    if (long placed = Call(SYS_dup3, plan.moves[i].source, plan.moves[i].target, 0); placed < 0)
      return placed;
  // Linux 5.9; before that they stay open until exec, as they are close-on-exec.
  Call(SYS_close_range, plan.above, ~0U, 0);
  for (int fd = 0; fd < plan.above; ++fd) {
    size_t i = 0;
    while (i < plan.move_count && plan.moves[i].target != fd) ++i;
    if (i == plan.move_count) Call(SYS_close, fd);
  }
  return 0;
}

FEATHER_IN_CHILD bool IsExecutable(const char* path) {
  struct statx info;
  info.stx_mode = 0;
  return Call(SYS_statx, AT_FDCWD, Word(path), 0, STATX_TYPE, Word(&info)) == 0 &&
         S_ISREG(info.stx_mode) && Call(SYS_faccessat, AT_FDCWD, Word(path), X_OK) == 0;
}

// What the child does up to its exec. Nothing here allocates or locks. Returns on error only, with
// its negative number.
FEATHER_IN_CHILD long Execute(Plan& plan) {
  ResetSignals();
  if (plan.die_with_parent) {
    if (long set = Call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL); set < 0) return set;
    // The parent may have ended before that.
    if (Call(SYS_getppid) != plan.parent) return -ESRCH;
  }
  if (plan.new_process_group)
    if (long set = Call(SYS_setpgid, 0, 0); set < 0) return set;
  for (size_t i = 0; i < kHomes; ++i) {
    if (plan.home[i] < 0) continue;
    if (long entered = Call(SYS_setns, plan.home[i], 0); entered < 0) return entered;
  }
  if (long placed = PlaceDescriptors(plan); placed < 0) return placed;
  if (plan.working_directory != nullptr) {
    plan.step = Plan::kEnterDirectory;
    if (long entered = Call(SYS_chdir, Word(plan.working_directory)); entered < 0) return entered;
  }
  plan.step = Plan::kLookUp;
  const char* const* path = plan.paths;
  while (plan.look_up && *path != nullptr && !IsExecutable(*path)) ++path;
  if (*path == nullptr) return -ENOENT;
  plan.step = Plan::kExecute;
  plan.path = *path;
  return Call(SYS_execve, Word(*path), Word(plan.argv), Word(plan.env));
}

FEATHER_IN_CHILD int ChildMain(void* argument) {
  Plan& plan = *static_cast<Plan*>(argument);
  plan.error = static_cast<int>(-Execute(plan));
  Call(SYS_exit_group, 127);
  return 127;
}

absl::Status SpawnError(int error, const std::string& what) {
  if (error == EAGAIN || error == ENOMEM || error == EMFILE || error == ENFILE)
    return absl::ResourceExhaustedError(absl::StrCat(what, ": ", ErrnoText(error)));
  return ErrnoError(error, what);
}

// Where to look for what is not a path itself.
std::vector<std::string> FindPaths(const Command& command) {
  const std::string& name = command.argv[0];
  if (absl::StrContains(name, '/')) return {name};
  std::vector<std::string> paths;
  for (absl::string_view variable : command.env) {
    if (!absl::ConsumePrefix(&variable, "PATH=")) continue;
    for (absl::string_view directory : absl::StrSplit(variable, ':'))
      if (absl::StartsWith(directory, "/")) paths.push_back(absl::StrCat(directory, "/", name));
    break;
  }
  return paths;
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

struct Launch::Impl {
  // `command` outlives it.
  absl::Status Prepare(const Command& command);
  // Returns when the child has been made; with CLONE_VFORK, when it has left this memory.
  absl::Status Clone(int flags);
  absl::Status Error() const;

  Command own;
  std::vector<std::string> paths;
  std::vector<const char*> path_pointers;
  std::vector<char*> argv;
  std::vector<char*> env;
  Nulls nulls;
  std::vector<Plan::Move> moves;
  const Command* command = nullptr;
  Plan plan = {};
  pid_t pid = 0;
  // The kernel clears it when the child, by its exec or its end, has left this memory
  // (CLONE_CHILD_CLEARTID).
  std::atomic<pid_t> here = 0;
  // The deepest of the child's calls takes half of it without any optimization.
  alignas(16) std::array<char, 1536> stack;
};

absl::Status Launch::Impl::Prepare(const Command& of) {
  command = &of;
  if (of.argv.empty() || of.argv[0].empty()) return absl::InvalidArgumentError("exec: no command");
  paths = FindPaths(of);
  path_pointers.reserve(paths.size() + 1);
  for (const std::string& path : paths) path_pointers.push_back(path.c_str());
  path_pointers.push_back(nullptr);
  argv = Pointers(of.argv);
  env = Pointers(of.env);
  ASSIGN_OR_RETURN(moves, Moves(of, nulls));

  plan.paths = path_pointers.data();
  plan.look_up = !absl::StrContains(of.argv[0], '/');
  plan.argv = argv.data();
  plan.env = env.data();
  plan.working_directory = of.working_directory.empty() ? nullptr : of.working_directory.c_str();
  plan.moves = moves.data();
  plan.move_count = moves.size();
  for (const Plan::Move& move : moves) plan.above = std::max(plan.above, move.target + 1);
  plan.die_with_parent = of.die_with_parent;
  plan.new_process_group = of.new_process_group;
  plan.parent = getpid();
  const std::array<int, kHomes>* home = HomeNamespaces();
  for (size_t i = 0; i < kHomes; ++i) plan.home[i] = home == nullptr ? -1 : (*home)[i];
  return absl::OkStatus();
}

absl::Status Launch::Impl::Clone(int flags) {
  // The child begins with them.
  RaisedCapabilities all_capabilities;
  here = -1;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // A handler of ours must run in neither: the child has copies of them until it has reset them.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid = clone(ChildMain, stack.data() + stack.size(),
              CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD | flags, &plan, nullptr, nullptr, &here);
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  // qemu-user knows of no such child that its parent does not wait for.
  if (pid < 0 && error == EINVAL && (flags & CLONE_VFORK) == 0) return Clone(CLONE_VFORK);
  if (pid > 0) return absl::OkStatus();
  here = 0;
  return SpawnError(error, absl::StrCat("fork/exec ", command->argv[0]));
}

absl::Status Launch::Impl::Error() const {
  if (plan.error == 0) return absl::OkStatus();
  switch (plan.step) {
    case Plan::kEnterDirectory:
      return SpawnError(plan.error, absl::StrCat("chdir ", command->working_directory));
    case Plan::kLookUp:
      return absl::NotFoundError(
          absl::StrCat("exec: \"", command->argv[0], "\": executable file not found in $PATH"));
    case Plan::kExecute:
      return SpawnError(plan.error, absl::StrCat("fork/exec ", plan.path));
    case Plan::kPrepare:
      break;
  }
  return SpawnError(plan.error, absl::StrCat("fork/exec ", command->argv[0]));
}

Launch::Launch() : impl_(std::make_unique<Impl>()) {
  // For blocks of this size what undoes a creation without memory has a reserve
  // (runtime/base/reserve.cc).
  static_assert(sizeof(Impl) <= 2048);
}

absl::StatusOr<std::unique_ptr<Launch>> Launch::Begin(Command command) {
  std::unique_ptr<Launch> launch(new Launch());
  launch->impl_->own = std::move(command);
  RETURN_IF_ERROR(launch->impl_->Prepare(launch->impl_->own));
  RETURN_IF_ERROR(launch->impl_->Clone(kBeside));
  launch->impl_->nulls = Nulls();
  return launch;
}

Launch::~Launch() {
  if (impl_->here == 0) return;
  kill(impl_->pid, SIGKILL);
  // Its status is for whoever reaps it.
  siginfo_t info;
  while (waitid(P_PID, static_cast<id_t>(impl_->pid), &info, WEXITED | WNOWAIT) < 0 &&
         errno == EINTR) {
  }
}

pid_t Launch::pid() const { return impl_->pid; }
absl::Status Launch::status() const { return impl_->Error(); }

absl::StatusOr<pid_t> SpawnProcess(const Command& command) {
  Launch launch;
  RETURN_IF_ERROR(launch.impl_->Prepare(command));
  RETURN_IF_ERROR(launch.impl_->Clone(CLONE_VFORK));
  absl::Status status = launch.status();
  if (status.ok()) return launch.pid();
  // It has left our memory already, so that this waits for its last steps only. Taken here, before
  // the loop runs, its pid can't be mistaken for anything else.
  while (waitpid(launch.pid(), nullptr, __WALL) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace feather
