// Fails when a hot path costs more than its budget. Time is not measured: machines are shared.
//
//   micro_costs         memory asked for and system calls
//   micro_costs FILE    instructions, when Callgrind runs it with these options:
//                       --combine-dumps=yes --collect-atstart=no --callgrind-out-file=FILE

#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_DUMP_STATS_AT(name)
#define RUNNING_ON_VALGRIND 0
#endif

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <new>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "tests/bench/hot_paths.h"

namespace {

int64_t g_allocations = 0;
int64_t g_bytes = 0;

void* Allocate(size_t size, size_t alignment) {
  ++g_allocations;
  g_bytes += static_cast<int64_t>(size);
  void* memory = alignment == 0 ? malloc(size) : memalign(alignment, size);
  if (memory == nullptr) abort();
  return memory;
}

}  // namespace

void* operator new(size_t size) { return Allocate(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { free(memory); }

// Valgrind knows of no child in this memory but one that this process stands still for.
extern "C" int __clone(int (*function)(void*), void* stack, int flags, void* argument, ...);
extern "C" int clone(int (*function)(void*), void* stack, int flags, void* argument, ...) {
  va_list rest;
  va_start(rest, argument);
  auto* parent_tid = va_arg(rest, pid_t*);
  auto* tls = va_arg(rest, void*);
  auto* child_tid = va_arg(rest, pid_t*);
  va_end(rest);
  if (RUNNING_ON_VALGRIND) flags |= CLONE_VFORK;
  return __clone(function, stack, flags, argument, parent_tid, tls, child_tid);
}

namespace feather::bench {
namespace {

// The first turns fill what is kept for later ones; some costs come once in many.
constexpr int kWarmUp = 20;
constexpr int kTurns = 16;
// Under Callgrind, where one turn is counted: all takes fifty times as long.
constexpr int kCallgrindWarmUp = 2;
// What another version of a compiler or library may bring without anything being wrong.
constexpr int64_t kMorePercent = 15;

// Of kTurns.
struct Costs {
  int64_t allocations = 0;
  int64_t bytes = 0;
};
using SystemCalls = std::map<uint64_t, int64_t>;  // number to how often

// A system call that does not exist, by which the child says where the turns begin and end.
constexpr uint64_t kMark = 0x0fea7e4;
void Mark() { syscall(static_cast<int>(kMark)); }

// The clock is a system call only where the kernel has no better one.
bool Counts(uint64_t number) { return number != SYS_clock_gettime && number != SYS_gettimeofday; }

Costs RunTurns(const HotPath& path) {
  // Memory is counted by itself: giving it back to the kernel depends on where it lies.
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  const Turn turn = path.prepare();
  for (int i = 0; i < kWarmUp; ++i) turn();
  const Costs before = {g_allocations, g_bytes};
  Mark();
  for (int i = 0; i < kTurns; ++i) turn();
  Mark();
  return {g_allocations - before.allocations, g_bytes - before.bytes};
}

// Lets the child, which is traced and stands still, run to its end.
SystemCalls CountSystemCalls(pid_t child) {
  SystemCalls calls;
  int marks = 0;
  int signal = 0;
  for (int status = 0;;) {
    Require(ptrace(PTRACE_SYSCALL, child, nullptr, signal) == 0, "ptrace");
    Require(waitpid(child, &status, 0) == child, "wait");
    if (!WIFSTOPPED(status)) {
      Require(WIFEXITED(status) && WEXITSTATUS(status) == 0 && marks == 2, "the child has failed");
      return calls;
    }
    const bool at_call = WSTOPSIG(status) == (SIGTRAP | 0x80);
    signal = at_call ? 0 : WSTOPSIG(status);
    __ptrace_syscall_info info;
    if (!at_call || ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof(info), &info) <= 0) continue;
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY) continue;
    if (info.entry.nr == kMark)
      ++marks;
    else if (marks == 1 && Counts(info.entry.nr))
      ++calls[info.entry.nr];
  }
}

// In a child of its own, so that no path finds what another one has left.
std::pair<Costs, SystemCalls> Measure(const HotPath& path) {
  void* shared =
      mmap(nullptr, sizeof(Costs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Require(shared != MAP_FAILED, "mmap");
  auto* costs = new (shared) Costs;
  const pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    Require(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0, "PTRACE_TRACEME");
    raise(SIGSTOP);
    *costs = RunTurns(path);
    _exit(0);
  }
  int status = 0;
  Require(waitpid(child, &status, 0) == child && WIFSTOPPED(status), "the child has not stopped");
  Require(ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0,
          "ptrace");
  SystemCalls calls = CountSystemCalls(child);
  std::pair<Costs, SystemCalls> result = {*costs, std::move(calls)};
  munmap(shared, sizeof(Costs));
  return result;
}

// Of one turn; a budget is for one that has a share of what comes once in several.
int64_t PerTurn(int64_t total) { return (total + kTurns - 1) / kTurns; }

bool Within(const HotPath& path, const char* what, int64_t cost, int64_t budget) {
  if (cost <= budget) return true;
  printf("%s: %lld %s, and its budget is %lld\n", path.name.c_str(), static_cast<long long>(cost),
         what, static_cast<long long>(budget));
  return false;
}

bool CheckCosts(const HotPath& path) {
  const auto [costs, calls] = Measure(path);
  int64_t system_calls = 0;
  for (const auto& [number, count] : calls) system_calls += count;
  const int64_t allocations = PerTurn(costs.allocations);
  const int64_t bytes = PerTurn(costs.bytes);
  printf("%-28s %7lld allocations %9lld bytes %4lld system calls\n", path.name.c_str(),
         static_cast<long long>(allocations), static_cast<long long>(bytes),
         static_cast<long long>(PerTurn(system_calls)));
  const Budget& budget = path.budget;
  bool good = Within(path, "allocations", allocations, budget.allocations);
  good &= Within(path, "bytes", bytes, budget.bytes);
  if (Within(path, "system calls", PerTurn(system_calls), budget.system_calls)) return good;
  for (const auto& [number, count] : calls)
    printf("  number %llu: %lld times in %d turns\n", static_cast<unsigned long long>(number),
           static_cast<long long>(count), kTurns);
  return false;
}

// Has Callgrind write what a turn costs.
void DumpInstructions(const HotPath& path) {
  const Turn turn = path.prepare();
  for (int i = 0; i < kCallgrindWarmUp; ++i) turn();
  CALLGRIND_TOGGLE_COLLECT;
  turn();
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_DUMP_STATS_AT(path.name.c_str());
}

// Reads that: name of the path to instructions.
std::map<std::string, int64_t> ReadDumps(const char* file) {
  std::map<std::string, int64_t> result;
  std::ifstream dumps(file);
  std::string name;
  for (std::string line; std::getline(dumps, line);) {
    absl::string_view rest = line;
    int64_t count = 0;
    if (absl::ConsumePrefix(&rest, "desc: Trigger: Client Request: "))
      name = std::string(rest);
    else if (absl::ConsumePrefix(&rest, "totals: ") && absl::SimpleAtoi(rest, &count))
      result[name] = count;
  }
  return result;
}

bool CheckInstructions(const HotPath& path, const std::map<std::string, int64_t>& dumps) {
  auto dump = dumps.find(path.name);
  Require(dump != dumps.end() && dump->second > 0, "Callgrind has not counted");
  const int64_t cost = dump->second;
  const int64_t budget = path.budget.instructions;
  printf("%-28s %9lld instructions\n", path.name.c_str(), static_cast<long long>(cost));
  return budget == 0 || Within(path, "instructions", cost, budget + budget * kMorePercent / 100);
}

bool CheckAll(const char* callgrind_file) {
  const std::vector<HotPath> paths = HotPaths();
  bool good = true;
  if (callgrind_file == nullptr) {
    for (const HotPath& path : paths) good &= CheckCosts(path);
    return good;
  }
  unlink(callgrind_file);
  for (const HotPath& path : paths) DumpInstructions(path);
  const std::map<std::string, int64_t> dumps = ReadDumps(callgrind_file);
  for (const HotPath& path : paths) good &= CheckInstructions(path, dumps);
  return good;
}

}  // namespace
}  // namespace feather::bench

int main(int argc, char** argv) {
  // The length of a path counts.
  unsetenv("FEATHER_TEST_TMPDIR");
  setvbuf(stdout, nullptr, _IOLBF, 0);
  return feather::bench::CheckAll(argc > 1 ? argv[1] : nullptr) ? 0 : 1;
}
