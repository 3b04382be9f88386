#include "tests/bench/bench.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "tests/support/proc.h"

namespace feather::bench {

Counts TinyCounts() {
  Counts counts;
  counts.option = "--tiny";
  counts.rounds = counts.starts = counts.execs = counts.burst_execs = 1;
  counts.calls = counts.round_trips = counts.events = 10;
  counts.idle_seconds = counts.hang_seconds = 1;
  counts.megabytes = counts.line_megabytes = 1;
  counts.shims = {1};
  counts.parallel = {2};
  counts.crowd = 1;
  counts.restart = 4;
  return counts;
}

Counts LongCounts() {
  Counts counts;
  counts.option = "--long";
  counts.rounds = 7;
  counts.starts = 60;
  counts.execs = 50;
  counts.calls = 10000;
  counts.round_trips = 50000;
  counts.events = 1900;  // a shim keeps 2,048 at most
  counts.idle_seconds = 60;
  counts.hang_seconds = 10;
  counts.megabytes = 1024;
  counts.line_megabytes = 64;
  counts.burst_execs = 1000;
  counts.shims = {1, 20, 100, 1000};
  counts.parallel = {20, 100};
  counts.crowd = 200;
  counts.restart = 250;
  return counts;
}

std::string BesideShims(int shims) { return absl::StrCat(", ", shims, " shims running"); }

test::Settings Bench::Settings(const Subject& subject) const {
  test::Settings settings;
  settings.shim = subject.shim;
  settings.runtime = runtime;
  if (subject.shim == test::DebianBinary("bookworm", "containerd-shim-runc-v2"))
    settings.daemon = test::Series::k1_6;
  return settings;
}

void Bench::ForEach(int rounds, const std::function<void(const Subject&, int round)>& measure) {
  for (int round = 0; round < rounds; ++round)
    for (const Subject& subject : subjects) measure(subject, round);
}

World::~World() {
  loop().RunUntil([this] {
    for (pid_t child : test::Children()) kill(child, SIGKILL);
    Reap();
    return test::Children().empty();
  });
}

pid_t Bench::StartBare(test::FakeContainerd& ctrd,
                       const std::vector<std::string>& arguments) const {
  std::vector<std::string> all = {runtime.empty() ? "runc" : runtime, "--root",
                                  ctrd.directory() + "/bare"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& argument : all) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (int fd : {0, 1, 2}) posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  pid_t pid = 0;
  int failed = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error(absl::StrCat(all[0], " cannot be run"));
  return pid;
}

void Bench::AwaitBare(pid_t pid) const {
  int status = -1;
  waitpid(pid, &status, 0);
  if (status != 0) throw std::runtime_error("a command of the bare OCI runtime failed");
}

void Bench::RunBare(test::FakeContainerd& ctrd, const std::vector<std::string>& arguments) const {
  AwaitBare(StartBare(ctrd, arguments));
}

std::string OwnPath() {
  char path[4096];
  ssize_t size = readlink("/proc/self/exe", path, sizeof path);
  if (size < 0) throw std::runtime_error("no /proc/self/exe");
  return std::string(path, static_cast<size_t>(size));
}

void Check(const absl::Status& status, const char* what) {
  if (!status.ok()) throw std::runtime_error(absl::StrCat(what, ": ", status.ToString()));
}

double OwnCpu(pid_t pid) {
  double total = 0;
  std::string tasks = absl::StrCat("/proc/", pid, "/task");
  for (const std::string& thread : test::ListDirectory(tasks)) {
    // Nanoseconds on a processor come first.
    std::string stat = ReadFile(absl::StrCat(tasks, "/", thread, "/schedstat")).value_or("");
    total += strtod(stat.c_str(), nullptr) / 1e9;
  }
  return total;
}

double CpuWithChildren(pid_t pid) {
  std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat")).value_or("");
  std::vector<std::string> fields = absl::StrSplit(stat.substr(stat.rfind(')') + 2), ' ');
  double ticks = 0;
  for (size_t i = 13; i < 15 && i < fields.size(); ++i) ticks += strtod(fields[i].c_str(), nullptr);
  return OwnCpu(pid) + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double ChildrenCpu() {
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

namespace {

double FieldOf(const std::string& path, absl::string_view field) {
  std::string text = ReadFile(path).value_or("");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.substr(0, field.size()) != field) continue;
    return strtod(std::string(line.substr(field.size() + 1)).c_str(), nullptr);
  }
  return 0;
}

}  // namespace

double Sleeps(pid_t pid) {
  double total = 0;
  std::string tasks = absl::StrCat("/proc/", pid, "/task");
  for (const std::string& thread : test::ListDirectory(tasks))
    total += FieldOf(absl::StrCat(tasks, "/", thread, "/status"), "voluntary_ctxt_switches");
  return total;
}

double SmapsKib(pid_t pid, const char* field) {
  return FieldOf(absl::StrCat("/proc/", pid, "/smaps_rollup"), field);
}

double RestingKib(test::FakeContainerd& ctrd, pid_t pid) {
  double least = SmapsKib(pid, "Private_Dirty");
  for (int same = 0; same < 10;) {
    ctrd.loop().RunFor(std::chrono::milliseconds(50));
    double now = SmapsKib(pid, "Private_Dirty");
    same = now < least ? 0 : same + 1;
    least = std::min(least, now);
  }
  return least;
}

}  // namespace feather::bench
