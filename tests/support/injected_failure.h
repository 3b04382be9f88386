#pragma once

#include <sys/types.h>

#include <string>

namespace feather::test {

// Makes strace(1) tamper with one kind of system call of a process, while it lives.
class InjectedFailure {
 public:
  enum class Children { kLeftAlone, kToo };

  // `syscalls` as for its --trace; `what` as for its --inject, behind the calls: "error=EIO:when=2"
  // makes the second one of each process fail. With `children`, those that the process has from now
  // on are tampered with too. `output`: a file that strace writes. `path`: only calls with this
  // path, as they spell it, or with a descriptor of it; empty: all.
  InjectedFailure(pid_t pid, const std::string& syscalls, const std::string& what,
                  std::string output, Children children = Children::kLeftAlone,
                  const std::string& path = "");
  InjectedFailure(const InjectedFailure&) = delete;
  InjectedFailure& operator=(const InjectedFailure&) = delete;
  ~InjectedFailure() { End(); }

  // False: strace cannot be had here.
  bool attached() const { return attached_; }
  // Whether it has happened. (A delay is told when it is over.)
  bool happened() const;
  // Detaches; whether it has happened.
  bool End();

 private:
  pid_t pid_;
  std::string output_;
  pid_t strace_ = 0;
  bool attached_ = false;
};

}  // namespace feather::test
