#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace feather::test {

// A short-lived command of the shim (`start`, `delete`, `-info`), as containerd runs it: a process
// group of its own, output collected until every holder of the pipe has closed it.
struct HelperCommand {
  std::vector<std::string> argv;  // argv[0] is the path
  std::vector<std::string> env;
  std::string cwd;
  bool null_input = false;  // stdin is /dev/null, else a pipe with `input`
  std::string input;
  bool joined = true;  // stderr goes where stdout goes
};

struct HelperResult {
  int exit_code = -1;  // 128 + signal when signalled; -1: did not end within a minute (then killed)
  std::string out;
  std::string err;
};

HelperResult RunHelper(const HelperCommand& command);

// Makes this process inherit every orphan below it, so that nothing that a test started can hide.
void BecomeSubreaper();
// Direct children of this process, zombies included.
std::vector<pid_t> Children();
// Reaps every child that has ended; how each ended is added to `exits` (waitpid's status).
void ReapChildren(std::map<pid_t, int>& exits);
// "pid 12 (S) /usr/bin/runc create x", for messages.
std::string DescribeProcess(pid_t pid);

// crun refuses cgroups' hybrid mode: gives this process a private mount namespace that shows the
// cgroup1 hierarchies alone. False, with the reason in errno, where that is not possible.
bool HideUnifiedCgroup();

}  // namespace feather::test
