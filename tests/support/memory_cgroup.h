#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace feather::test {

// Where this machine's memory controller is mounted, as cgroup1 and as cgroup2; nullopt: it is not.
std::optional<std::string> Cgroup1MemoryRoot();
std::optional<std::string> Cgroup2MemoryRoot();

// A cgroup of its own, removed at the end with the processes that are still in it. Errors are test
// failures.
class MemoryCgroup {
 public:
  // Below `parent`; on cgroup2 the memory controller is enabled in it first.
  MemoryCgroup(const std::string& parent, absl::string_view name);
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;
  ~MemoryCgroup();

  const std::string& path() const { return path_; }
  // memory.max or memory.limit_in_bytes, and no swap.
  void Limit(uint64_t bytes);
  void Write(absl::string_view file, absl::string_view value);
  std::string Read(absl::string_view file) const;
  // The number after `key` in a flat keyed file, 0 without it.
  uint64_t Value(absl::string_view file, absl::string_view key) const;
  // rmdir(2): false while there are processes or cgroups in it.
  bool Remove();

 private:
  std::string path_;
};

// A child that has joined `cgroup` and runs `body` there once told to; dies with the test. The body
// may only use what is safe after fork(2).
class Member {
 public:
  Member(const MemoryCgroup& cgroup, std::function<void()> body)
      : Member(cgroup.path(), std::move(body)) {}
  // Of a cgroup that is not the test's.
  Member(const std::string& directory, std::function<void()> body);
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;
  ~Member();

  pid_t pid() const { return pid_; }
  // Lets the body run.
  void Go();
  void Kill(int signal);
  // Without reaping it: a test whose event loop has to go on meanwhile runs it until then.
  bool Ended() const;
  // Reaps it: the status of waitpid(2).
  int Wait();
  // Go, Wait, and true if it died by SIGKILL.
  bool RunToItsKill();

 private:
  pid_t pid_ = -1;
  int gate_ = -1;
};

// Bodies. Touches that many bytes of new memory and returns.
void EatMemory(size_t bytes);
// In a child of the caller's; returns when the child has ended, however it has.
void EatMemoryInAChild(size_t bytes);
// Page cache that can be reclaimed, more than 10 MiB of it: a file is written and synced, or, in
// the guest, whose /tmp has no such cache, one of the machine's is read.
class PageCache {
 public:
  PageCache();
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;
  ~PageCache();
  // A body.
  void Fill() const;

 private:
  std::string path_;
  bool made_ = false;
};

// While it lives, cgroup2 is mounted with memory_localevents, for the whole machine.
class LocalEvents {
 public:
  LocalEvents();
  LocalEvents(const LocalEvents&) = delete;
  LocalEvents& operator=(const LocalEvents&) = delete;
  ~LocalEvents();

  // False, with the reason in errno, where that is not possible.
  bool mounted() const { return mounted_; }

 private:
  std::string root_;
  std::string options_;
  bool mounted_ = false;
};

// Numbers of the process' open descriptors.
std::vector<int> OpenDescriptors();

// Runs the loop until `done()`; false after a generous limit.
bool RunUntil(asio::io_context& io, const std::function<bool()>& done,
              std::chrono::seconds limit = std::chrono::seconds(60));

}  // namespace feather::test
