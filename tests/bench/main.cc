// Measures two shims beside each other: tests/bench/run.

#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "tests/bench/bench.h"
#include "tests/support/proc.h"
#include "tests/support/subprocess.h"

namespace feather::bench {
namespace {

constexpr char kUsage[] =
    "usage: shim_bench [--tiny|--long] [--let-sleep] [--only PART] [--runtime NAME] [--html FILE] "
    "[SHIM [SHIM]]\n";

struct Part {
  const char* name;
  void (*measure)(Bench&);
};
constexpr Part kParts[] = {
    {"memory", MeasureMemory},       {"shims", MeasureManyShims}, {"start", MeasureStart},
    {"lifecycle", MeasureLifecycle}, {"exec", MeasureExec},       {"calls", MeasureCalls},
    {"peers", MeasurePeers},         {"hang", MeasureHang},       {"parallel", MeasureParallel},
    {"streams", MeasureStreams},     {"events", MeasureEvents},   {"daemon", MeasureDaemon},
};

bool IsPart(const std::string& name) {
  return std::any_of(std::begin(kParts), std::end(kParts),
                     [&](const Part& part) { return part.name == name; });
}

int Usage() {
  fputs(kUsage, stderr);
  fputs("PART:", stderr);
  for (const Part& part : kParts) fprintf(stderr, " %s", part.name);
  fputs("\n", stderr);
  return 2;
}

std::vector<std::string> Lines(const std::vector<std::string>& argv) {
  return absl::StrSplit(test::RunCommand({.argv = argv}).out, '\n', absl::SkipWhitespace());
}

// Of a shim: its version and revision, and the version of the Debian package that
// tests/containerd/fetch has got it from.
std::string DescribeShim(const std::string& shim) {
  std::string version, revision;
  for (const std::string& line : Lines({shim, "-v"})) {
    absl::string_view rest = absl::StripAsciiWhitespace(line);
    if (absl::ConsumePrefix(&rest, "Version: "))
      version = std::string(absl::StripAsciiWhitespace(rest));
    if (absl::ConsumePrefix(&rest, "Revision: "))
      revision = absl::StrCat(", revision ", absl::StripAsciiWhitespace(rest));
  }
  const std::string fetched = std::filesystem::path(shim).parent_path() / "../../version";
  std::string package = ReadFile(fetched).value_or("");
  if (!package.empty()) package = absl::StrCat(", Debian's ", absl::StripAsciiWhitespace(package));
  return absl::StrCat(version, revision, package);
}

// While it is held, idle processors poll, as for other measurements of latency: to wake one of a
// virtual machine takes longer than most of what is measured, and says nothing of a shim. See
// Documentation/power/pm_qos_interface.rst.
UniqueFd KeepProcessorsAwake() {
  // Without a driver nobody heeds the request.
  const std::string driver =
      ReadFile("/sys/devices/system/cpu/cpuidle/current_driver").value_or("none");
  if (absl::StripAsciiWhitespace(driver) == "none") return UniqueFd();
  UniqueFd request(open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC));
  const int32_t microseconds = 0;
  if (request && write(request.get(), &microseconds, sizeof microseconds) < 0) request.Reset();
  return request;
}

// What the names of the figures do not tell.
std::vector<std::string> DescribeCounts(const Counts& counts) {
  std::string memory =
      absl::StrCat("memory is looked at after ", counts.idle_seconds, " s without a request");
  if (counts.idle_seconds < 35)
    absl::StrAppend(&memory, ": before Go's runtime gives back what it does not need, which the ",
                    "stock shim has it do every 30 s");
  return {absl::StrCat("in a round: ", counts.execs, " execs, ", counts.calls,
                       " State and as many Stats, ", counts.round_trips, " round trips, ",
                       counts.events, " events, ", counts.megabytes, " MiB of output (",
                       counts.line_megabytes, " in lines, ", counts.TerminalMegabytes(),
                       " of a terminal)"),
          memory};
}

std::vector<std::string> DescribeMachine(const Bench& bench) {
  utsname kernel{};
  uname(&kernel);
  std::string cpu = "unknown processor";
  std::string info = ReadFile("/proc/cpuinfo").value_or("");
  if (size_t at = info.find("model name"); at != info.npos) {
    cpu = info.substr(info.find(':', at) + 2);
    cpu = cpu.substr(0, cpu.find('\n'));
  }
  std::string load = ReadFile("/proc/loadavg").value_or("");
  // See HurriedGracePeriods.
  const bool hurried = access("/sys/kernel/rcu_expedited", W_OK) == 0;
  const std::vector<std::string> runtime =
      Lines({bench.runtime.empty() ? "runc" : bench.runtime, "--version"});
  std::vector<std::string> lines = {
      absl::FormatTime("%Y-%m-%d %H:%M UTC", absl::Now(), absl::UTCTimeZone()),
      absl::StrCat(sysconf(_SC_NPROCESSORS_ONLN), " × ", cpu, ", ",
                   sysconf(_SC_PHYS_PAGES) / (1 << 18), " GiB"),
      absl::StrCat("Linux ", kernel.release, " ", kernel.machine),
      absl::StrCat("load before: ", load.substr(0, load.find(' '))),
      absl::StrCat("idle processors ", bench.awake ? "poll" : "sleep"),
      absl::StrCat("RCU grace periods are ", hurried ? "" : "not ",
                   "hurried while Create, Start and Delete are measured"),
      runtime.empty() ? "" : runtime[0]};
  for (const std::string& line : DescribeCounts(bench.counts)) lines.push_back(line);
  for (const Subject& subject : bench.subjects)
    lines.push_back(absl::StrCat(subject.name, ": ", DescribeShim(subject.shim)));
  return lines;
}

int Run(Bench& bench, const std::string& only, const std::string& html) {
  std::vector<std::string> machine = DescribeMachine(bench);
  bool failed = false;
  for (const Part& part : kParts) {
    if (!only.empty() && only != part.name) continue;
    Clock::time_point start = Clock::now();
    try {
      part.measure(bench);
    } catch (const std::exception& error) {
      const std::string what = absl::StrCat(part.name, ": ", error.what());
      fprintf(stderr, "%s\n", what.c_str());
      bench.report.AddMissing(absl::StrReplaceAll(what, {{"\n", " "}}));
      failed = true;
    }
    fprintf(stderr, "%-10s %.0f s\n", part.name, Since(start));
  }
  std::vector<std::string> names = {bench.subjects[0].name,
                                    bench.subjects.size() > 1 ? bench.subjects[1].name : "-",
                                    "bare runtime"};
  printf("%s", bench.report.Table(machine, names).c_str());
  if (!html.empty()) {
    absl::Status written = WriteFile(html, bench.report.Html(machine, names), 0644);
    if (!written.ok()) return fprintf(stderr, "%s\n", written.ToString().c_str()), 1;
    printf("\n%s\n", html.c_str());
  }
  return failed ? 1 : 0;
}

int Main(int argc, char** argv) {
  Bench bench;
  std::string only, html;
  std::vector<std::string> shims;
  bool let_sleep = false, daemon = false;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    bool value = argument == "--only" || argument == "--runtime" || argument == "--html";
    if (value && i + 1 == argc) return Usage();
    if (argument == "--tiny")
      bench.counts = TinyCounts();
    else if (argument == "--long")
      bench.counts = LongCounts();
    else if (argument == "--let-sleep")
      let_sleep = true;
    else if (argument == "--daemon")
      daemon = true;
    else if (argument == "--only")
      only = argv[++i];
    else if (argument == "--runtime")
      bench.runtime = argv[++i];
    else if (argument == "--html")
      html = argv[++i];
    else if (argument[0] == '-')
      return Usage();
    else
      shims.push_back(argument);
  }
  if (daemon) return DaemonPart(bench);
  if (shims.size() > 2 || (!only.empty() && !IsPart(only))) return Usage();
  // Rather now than after an hour.
  if (!html.empty() && !UniqueFd(open(html.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)))
    return fprintf(stderr, "%s: %s\n", html.c_str(), strerror(errno)), 2;
  if (shims.empty()) shims.push_back(test::ShimUnderTest());
  if (shims.size() == 1)
    for (const char* suite : {"sid", "trixie", "bookworm"})
      if (std::string stock = test::DebianBinary(suite, "containerd-shim-runc-v2");
          !stock.empty() && shims.size() == 1)
        shims.push_back(stock);
  // `start` and `delete` are run in the bundle.
  for (std::string& shim : shims) {
    std::error_code error;
    const std::string absolute = std::filesystem::canonical(shim, error);
    if (error || access(absolute.c_str(), X_OK) != 0 || std::filesystem::is_directory(absolute))
      return fprintf(stderr, "%s: cannot be run\n", shim.c_str()), 2;
    shim = absolute;
  }
  const std::vector<std::string> names = ColumnNames(shims);
  bench.subjects.push_back({Column::kFirst, names[0], shims[0]});
  if (shims.size() > 1)
    bench.subjects.push_back({Column::kSecond, names[1], shims[1]});
  else
    bench.report.AddMissing("the stock shim, which tests/containerd/fetch gets");
  // The text of a program that was written a moment ago counts as dirty memory.
  for (const Subject& subject : bench.subjects)
    if (UniqueFd file(open(subject.shim.c_str(), O_RDONLY | O_CLOEXEC)); file) fsync(file.get());
  if (bench.runtime == "crun" && !test::HideUnifiedCgroup())
    return fputs("crun needs a private mount namespace\n", stderr), 2;
  const UniqueFd awake = let_sleep ? UniqueFd() : KeepProcessorsAwake();
  bench.awake = awake.valid();
  return Run(bench, only, html);
}

}  // namespace
}  // namespace feather::bench

int main(int argc, char** argv) { return feather::bench::Main(argc, argv); }
