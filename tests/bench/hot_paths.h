#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace feather::bench {

// What one turn of a path may cost, in the release build on x86-64 with Debian 12's compiler and
// libraries: what it costs today. micro_costs.cc measures it.
struct Budget {
  int64_t allocations = 0;  // calls of operator new
  int64_t bytes = 0;        // asked of it
  int64_t system_calls = 0;
  // Of this process' own code. 0: no limit, where it depends on when a signal comes.
  int64_t instructions = 0;
};

using Turn = std::function<void()>;

// A path that every request, container or event takes, by itself.
struct HotPath {
  std::string name;
  // Makes what turns need, which goes with them. They cost the same each, but for the first ones.
  std::function<Turn()> prepare;
  Budget budget;
  size_t data = 0;  // bytes that a turn works on, where a rate says something
};

// Formats and files: nothing of it waits.
std::vector<HotPath> ComputingPaths();
// Pipes, sockets, processes and the loop.
std::vector<HotPath> WaitingPaths();

inline std::vector<HotPath> HotPaths() {
  std::vector<HotPath> paths = ComputingPaths();
  for (HotPath& path : WaitingPaths()) paths.push_back(std::move(path));
  return paths;
}

// The compiler takes the value for used.
template <typename T>
void Keep(const T& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

// What has gone wrong is a fault of the measurement's: it ends the program.
[[noreturn]] void Fail(const std::string& what);
inline void Require(bool condition, const char* what) {
  if (!condition) Fail(what);
}
template <typename T>
T Require(absl::StatusOr<T> value) {
  if (!value.ok()) Fail(value.status().ToString());
  return *std::move(value);
}

inline const std::string kLongId(64, 'f');

}  // namespace feather::bench
