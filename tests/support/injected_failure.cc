#include "tests/support/injected_failure.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/spawn.h"

namespace feather::test {

InjectedFailure::InjectedFailure(pid_t pid, const std::string& syscalls, const std::string& what,
                                 std::string output, Children children, const std::string& path)
    : pid_(pid), output_(std::move(output)) {
  Command command;
  command.argv = {"strace", "-qq"};
  if (children == Children::kToo) command.argv.push_back("-f");
  if (!path.empty()) command.argv.push_back("--trace-path=" + path);
  for (const std::string& argument :
       {std::string("-o"), output_, std::string("-p"), absl::StrCat(pid),
        absl::StrCat("--trace=", syscalls), absl::StrCat("--inject=", syscalls, ":", what)})
    command.argv.push_back(argument);
  command.env = {"PATH=/usr/bin:/bin"};
  auto spawned = SpawnProcess(command);
  if (!spawned.ok()) return;
  strace_ = *spawned;
  std::string traced = absl::StrCat("TracerPid:\t", strace_, "\n");
  for (int i = 0; i < 3000 && !attached_; ++i) {
    attached_ =
        absl::StrContains(ReadFile(absl::StrCat("/proc/", pid, "/status")).value_or(""), traced);
    if (!attached_) usleep(10'000);
  }
}

bool InjectedFailure::happened() const {
  std::string text = ReadFile(output_).value_or("");
  return absl::StrContains(text, "(INJECTED)") || absl::StrContains(text, "(DELAYED)");
}

bool InjectedFailure::End() {
  if (strace_ <= 0) return false;
  kill(strace_, SIGTERM);
  // It (6.1) waits for ever for a process of several threads that is about to execute something. If
  // it is killed, the kernel lets go of all of them.
  pid_t ended = 0;
  for (int i = 0; i < 500 && ended == 0; ++i) {
    ended = waitpid(strace_, nullptr, WNOHANG);
    if (ended == 0) usleep(10'000);
  }
  if (ended == 0) {
    kill(strace_, SIGKILL);
    waitpid(strace_, nullptr, 0);
  }
  strace_ = 0;
  // strace detaches without handing on a signal that it has just intercepted (PTRACE_DETACH with
  // signal 0): a SIGCHLD that the shim would wait for in vain. One too many is harmless.
  kill(pid_, SIGCHLD);
  return happened();
}

}  // namespace feather::test
