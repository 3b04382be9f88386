#include "runtime/sandbox/pod_init.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

constexpr char kReaper[] = "reap";
constexpr char kReady[] = "ready";

absl::Status Check(int result, absl::string_view what) {
  return result < 0 ? ErrnoError(errno, what) : absl::OkStatus();
}

void Report(absl::string_view text) {
  (void)WriteAll(PodInit::kReport, text).ok();
  close(PodInit::kReport);
}

PodInit Parse(const std::vector<absl::string_view>& arguments) {
  PodInit init;
  for (absl::string_view argument : arguments) {
    if (argument == "user") init.user = true;
    if (argument == "net") init.net = true;
    if (argument == "ipc") init.ipc = true;
    if (argument == "uts") init.uts = true;
    if (argument == "pid") init.pid = true;
    if (absl::ConsumePrefix(&argument, "hostname=")) init.hostname = std::string(argument);
    if (!absl::ConsumePrefix(&argument, "sysctl=")) continue;
    std::pair<std::string, std::string> pair = absl::StrSplit(argument, absl::MaxSplits('=', 1));
    init.sysctls.push_back(std::move(pair));
  }
  return init;
}

// root in it: of its other namespaces, too, and of their kernel parameters.
absl::Status EnterUserNamespace() {
  RETURN_IF_ERROR(Check(setns(PodInit::kUser, CLONE_NEWUSER), "enter the pod's user namespace"));
  if (setgroups(0, nullptr) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
    return ErrnoError(errno, "become root of the pod's user namespace");
  return absl::OkStatus();
}

absl::Status MakeNamespaces(const PodInit& init) {
  if (init.user) RETURN_IF_ERROR(EnterUserNamespace());
  if (init.net)
    RETURN_IF_ERROR(Check(setns(PodInit::kNet, CLONE_NEWNET), "enter the network namespace"));
  int flags = (init.ipc ? CLONE_NEWIPC : 0) | (init.uts ? CLONE_NEWUTS : 0) |
              (init.pid ? CLONE_NEWPID | CLONE_NEWNS : 0);
  RETURN_IF_ERROR(Check(unshare(flags), "make the pod's namespaces"));
  if (init.uts)
    RETURN_IF_ERROR(Check(sethostname(init.hostname.data(), init.hostname.size()),
                          absl::StrCat("set the hostname \"", init.hostname, "\"")));
  for (const auto& [file, value] : init.sysctls) {
    ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(file, O_WRONLY));
    RETURN_IF_ERROR(Annotate(WriteAll(fd.get(), value), absl::StrCat("write ", file)));
  }
  return absl::OkStatus();
}

// The file that we execute, seen through a mount that cannot be written through, so that the host's
// program is safe from whoever opens /proc/1/exe.
absl::StatusOr<UniqueFd> ReadOnlyExecutable() {
  UniqueFd tree(open_tree(AT_FDCWD, "/proc/self/exe", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  if (!tree) return ErrnoError(errno, "open_tree /proc/self/exe");
  struct mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  // Linux 5.11 has no such call.
  if (mount_setattr(tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0 &&
      errno != ENOSYS)
    return ErrnoError(errno, "mount_setattr");
  return tree;
}

// The pid of the new namespace's process 1, once it has given up everything.
absl::StatusOr<pid_t> StartReaper(int executable) {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  UniqueFd ready(ends[0]), done(ends[1]);
  pid_t pid = fork();
  if (pid < 0) return ErrnoError(errno, "fork");
  if (pid == 0) {
    dup2(done.get(), PodInit::kReport);
    const char* arguments[] = {PodInit::kCommand, PodInit::kCommand, kReaper, nullptr};
    char* const environment[] = {nullptr};
    // execve(2) takes the arguments as not const and leaves them alone.
    execveat(executable, "", const_cast<char* const*>(arguments), environment, AT_EMPTY_PATH);
    _exit(127);
  }
  done.Reset();
  ASSIGN_OR_RETURN(std::string report, ReadToEof(ready.get(), 4096));
  if (report != kReady)
    return absl::UnknownError(report.empty() ? "the pod's process 1 has ended" : report);
  return pid;
}

void WaitUntilLetGo() {
  pollfd life = {PodInit::kLife, 0, 0};
  while (poll(&life, 1, -1) < 0 && errno == EINTR) {
  }
}

// Nothing of the host's is to be reached by /proc/1. Any directory serves for the new root.
absl::Status EmptyRoot() {
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  RETURN_IF_ERROR(Check(mount("", "/", "", MS_REC | MS_PRIVATE, nullptr), "make mounts private"));
  RETURN_IF_ERROR(
      Check(mount("none", "/proc", "tmpfs", kFlags, "size=4k,mode=0555"), "mount a root"));
  RETURN_IF_ERROR(Check(chdir("/proc"), "chdir"));
  RETURN_IF_ERROR(Check(static_cast<int>(syscall(SYS_pivot_root, ".", ".")), "pivot_root"));
  RETURN_IF_ERROR(Check(umount2(".", MNT_DETACH), "unmount the host's root"));
  RETURN_IF_ERROR(Check(chdir("/"), "chdir /"));
  return Check(mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | kFlags, nullptr),
               "make the root read-only");
}

absl::Status GiveUpCapabilities() {
  for (unsigned long capability = 0; capability <= CAP_LAST_CAP; ++capability)
    prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> none = {};
  RETURN_IF_ERROR(
      Check(static_cast<int>(syscall(SYS_capset, &header, none.data())), "drop capabilities"));
  RETURN_IF_ERROR(Check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges"));
  return Check(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "not dumpable");
}

int Reap() {
  sigset_t set;
  sigfillset(&set);
  sigprocmask(SIG_SETMASK, &set, nullptr);
  close_range(0, PodInit::kReport - 1, 0);
  close_range(PodInit::kLife + 1, ~0U, 0);
  absl::Status status = EmptyRoot();
  if (status.ok()) status = GiveUpCapabilities();
  prctl(PR_SET_NAME, PodInit::kCommand, 0, 0, 0);
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  int children = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (children < 0 && status.ok()) status = ErrnoError(errno, "signalfd");
  // From here on it is as it stays.
  Report(status.ok() ? kReady : status.message());
  if (!status.ok()) return 1;
  while (true) {
    std::array<pollfd, 2> polled = {pollfd{children, POLLIN, 0}, pollfd{PodInit::kLife, 0, 0}};
    if (poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) return 1;
    // The shim has gone, or has no use for the pod any more. The kernel kills what is left in it.
    if (polled[1].revents != 0) return 0;
    signalfd_siginfo info;
    while (read(children, &info, sizeof info) > 0) {
    }
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

absl::StatusOr<pid_t> Prepare(const PodInit& init) {
  UniqueFd executable;
  if (init.pid) {
    ASSIGN_OR_RETURN(executable, ReadOnlyExecutable());
  }
  RETURN_IF_ERROR(MakeNamespaces(init));
  return init.pid ? StartReaper(executable.get()) : getpid();
}

}  // namespace

std::vector<std::string> PodInit::Arguments() const {
  std::vector<std::string> arguments;
  if (user) arguments.push_back("user");
  if (net) arguments.push_back("net");
  if (ipc) arguments.push_back("ipc");
  if (uts) arguments.push_back("uts");
  if (pid) arguments.push_back("pid");
  if (uts) arguments.push_back(absl::StrCat("hostname=", hostname));
  for (const auto& [file, value] : sysctls)
    arguments.push_back(absl::StrCat("sysctl=", file, "=", value));
  return arguments;
}

int RunPodInit(const std::vector<absl::string_view>& arguments) {
  if (arguments.size() == 1 && arguments[0] == kReaper) return Reap();
  PodInit init = Parse(arguments);
  absl::StatusOr<pid_t> holder = Prepare(init);
  if (!holder.ok()) {
    Report(absl::StrCat("error ", holder.status().message()));
    return 1;
  }
  Report(absl::StrCat("ok ", *holder));
  if (!init.pid) WaitUntilLetGo();
  return 0;
}

}  // namespace feather
