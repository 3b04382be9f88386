#include "tests/support/oom_series.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/shim_process.h"

namespace feather::test {
namespace {

using ::feather::test::Footprint;
using ::feather::test::FootprintOf;

// Enough for runc's own init.
constexpr int kLimitMiB = 48;
constexpr char kEater[] = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null";
// How late a report may be and still be called late.
constexpr auto kLate = std::chrono::seconds(2);
// A heap does not come back to the byte; what is leaked by each container would be far more.
constexpr int kGrowthKiB = 96;

std::string Getenv(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

int KillsWanted() {
  int kills = 5;
  const std::string text = Getenv("FEATHER_OOM_KILLS");
  if (!text.empty()) {
    EXPECT_TRUE(absl::SimpleAtoi(text, &kills)) << text;
  }
  return kills;
}

}  // namespace

void OomSeries::SetUp() {
  if (!MemoryController()) GTEST_SKIP() << "this kernel has no such memory controller";
  stock_ = Getenv("FEATHER_SHIM_SERIES");
  if (const std::string figures = Getenv("FEATHER_OOM_FIGURES"); !figures.empty()) {
    std::error_code ignored;
    std::filesystem::create_directories(figures, ignored);
    lines_ = absl::StrSplit(ReadFile(FiguresPath()).value_or(""), '\n', absl::SkipEmpty());
    done_ = static_cast<int>(lines_.size());
  }
  // The guest is the test's own: nothing of feather may need what others can use up.
  if (feather() && !Getenv("FEATHER_GUEST").empty()) {
    EXPECT_TRUE(WriteFile("/proc/sys/fs/inotify/max_user_instances", "0", 0).ok());
    EXPECT_EQ(inotify_init1(IN_CLOEXEC), -1);
  }
  if (Getenv("FEATHER_OOM_RUNTIME") == "crun" && !Cgroup2MemoryRoot()) {
    ASSERT_TRUE(HideUnifiedCgroup()) << strerror(errno);
  }
  NewContainerd();
}

void OomSeries::TearDown() {
  if (ctrd_ != nullptr && HasFailure()) printf("%s\n", ctrd_->log().c_str());
}

void OomSeries::NewContainerd() {
  Settings settings;
  if (stock_ == "1.6") settings.daemon = Series::k1_6;
  settings.systemd_cgroup = !Getenv("FEATHER_GUEST_SYSTEMD").empty();
  if (const std::string runtime = Getenv("FEATHER_OOM_RUNTIME"); !runtime.empty())
    settings.runtime = runtime;
  ctrd_.reset();
  ctrd_ = std::make_unique<FakeContainerd>(settings);
}

std::string OomSeries::FiguresPath() const {
  const std::string runtime = Getenv("FEATHER_OOM_RUNTIME");
  return absl::StrCat(Getenv("FEATHER_OOM_FIGURES"), "/",
                      feather() ? "feather" : absl::StrCat("stock-", stock_),
                      runtime.empty() ? "" : "-", runtime, "-", GetParam().name, ".csv");
}

Container& OomSeries::MakeVictim(const std::string& id) {
  ContainerOptions options;
  options.out = options.err = false;
  const char* script = "sleep 1000";
  const std::string child = absl::StrCat(kEater, "; exit 7");
  const std::string init = absl::StrCat("exec ", kEater);
  if (GetParam().victim == Victim::kInit) script = init.c_str();
  if (GetParam().victim == Victim::kChild) script = child.c_str();
  options.spec.args = {"sh", "-c", script};
  const std::string group =
      GetParam().one_shim ? absl::StrCat(R"(, "annotations": {"io.containerd.runc.v2.group": ")",
                                         ctrd_->name(), "\"}")
                          : "";
  options.spec.patch = absl::StrCat(R"({"linux": {"resources": {"memory": {"limit": )",
                                    kLimitMiB * (1 << 20), "}}}", group, "}");
  return ctrd_->New(id, options);
}

void OomSeries::StartKeeper() {
  ContainerOptions options;
  options.out = options.err = false;
  options.spec.args = {"sleep", "100000"};
  if (GetParam().victim == Victim::kForked) {
    // A child for each line that it is given.
    options.in = options.out = options.err = true;
    options.spec.args = {"sh", "-c", absl::StrCat("while read x; do ", kEater, "; echo; done")};
  }
  options.spec.patch = absl::StrCat(
      R"({"linux": {"resources": {"memory": {"limit": )", kLimitMiB * (1 << 20),
      R"(}}}, "annotations": {"io.containerd.runc.v2.group": ")", ctrd_->name(), "\"}}");
  keeper_ = &ctrd_->New("keeper", options);
  const absl::Status run = keeper_->Run();
  ASSERT_TRUE(run.ok()) << run;
}

void OomSeries::StartVictims(std::vector<Kill>& round) {
  std::vector<Pending<task::StartResponse>> starts;
  for (Kill& kill : round) {
    task::StartRequest request;
    request.set_id(kill.container->id());
    if (GetParam().victim == Victim::kExec) {
      ContainerOptions streams;
      streams.out = streams.err = false;
      const absl::Status exec =
          kill.container->Exec(kill.process, {"sh", "-c", absl::StrCat("exec ", kEater)}, streams);
      EXPECT_TRUE(exec.ok()) << exec;
      request.set_exec_id(kill.process);
    } else {
      const auto created = kill.container->Create();
      EXPECT_TRUE(created.ok()) << created.status();
    }
    starts.push_back(kill.container->Send<task::StartResponse>("Start", request));
  }
  for (auto& start : starts) {
    const auto started = start.Get();
    EXPECT_TRUE(started.ok()) << started.status();
  }
}

bool OomSeries::Reported(const Kill& kill) const {
  const auto& events = ctrd_->events().events();
  return std::any_of(events.begin() + static_cast<ptrdiff_t>(mark_), events.end(),
                     [&](const RecordedEvent& event) {
                       return event.topic == "/tasks/oom" &&
                              event.container == kill.container->id();
                     });
}

std::string OomSeries::Judge(const Kill& kill) const {
  const auto& events = ctrd_->events().events();
  int before = 0, after = 0;
  const RecordedEvent* exit = nullptr;
  for (size_t i = mark_; i < events.size(); ++i) {
    const RecordedEvent& event = events[i];
    if (event.container != kill.container->id()) continue;
    if (event.topic == "/tasks/oom") ++(exit == nullptr ? before : after);
    if (event.topic == "/tasks/exit" && event.id == kill.process) exit = &event;
  }
  if (exit == nullptr) return "no exit";
  const uint32_t expected = GetParam().victim == Victim::kChild ? 7 : 137;
  if (exit->status != expected) return absl::StrCat("exit status ", exit->status);
  if (before + after > 1) return "more than once";
  if (before == 1) return "right";
  return after == 1 ? "late" : "missing";
}

// "VERDICT,INOTIFY INSTANCES,DESCRIPTORS,PRIVATE DIRTY KIB,CONTAINER".
void OomSeries::Record(const Kill& kill) {
  const Container& owner = keeper_ != nullptr ? *keeper_ : *kill.container;
  const Footprint shim = FootprintOf(owner.shim_pid());
  lines_.push_back(absl::StrCat(kill.verdict, ",", shim.inotify_descriptors, ",", shim.descriptors,
                                ",", shim.private_dirty_kib, ",", kill.container->id()));
  ++done_;
  if (feather()) {
    EXPECT_EQ(kill.verdict, "right") << kill.container->id() << " " << kill.process;
    EXPECT_EQ(shim.inotify_descriptors, 0);
  }
  if (Getenv("FEATHER_OOM_FIGURES").empty()) return;
  const UniqueFd file(open(FiguresPath().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  const std::string line = lines_.back() + "\n";
  EXPECT_EQ(write(file.get(), line.data(), line.size()), static_cast<ssize_t>(line.size()))
      << FiguresPath();
}

// One child of the keeper's, killed while its parent lives: no exit is to be told.
void OomSeries::RunFork() {
  mark_ = ctrd_->events().events().size();
  const size_t lines = keeper_->stdio().out->data().size();
  Kill kill{keeper_, keeper_->id(), ""};
  keeper_->stdio().in->Write("\n");
  EXPECT_TRUE(ctrd_->loop().RunUntil([&] { return keeper_->stdio().out->data().size() > lines; }));
  ctrd_->loop().RunUntil([&] { return Reported(kill); },
                         feather() ? Clock::duration(kLimit) : Clock::duration(kLate));
  const auto& events = ctrd_->events().events();
  const auto reports =
      std::count_if(events.begin() + static_cast<ptrdiff_t>(mark_), events.end(),
                    [](const RecordedEvent& event) { return event.topic == "/tasks/oom"; });
  kill.verdict = reports == 1 ? "right" : reports == 0 ? "missing" : "more than once";
  Record(kill);
}

void OomSeries::RunRound(int kills) {
  if (GetParam().victim == Victim::kForked) return RunFork();
  if (!GetParam().one_shim) NewContainerd();
  mark_ = ctrd_->events().events().size();
  std::vector<Kill> round;
  const bool execs = GetParam().victim == Victim::kExec;
  for (int i = 0; i < kills; ++i) {
    const std::string id = absl::StrCat("c", ++serial_);
    round.push_back({execs ? keeper_ : &MakeVictim(id), id, ""});
  }
  StartVictims(round);
  for (Kill& kill : round) {
    EXPECT_NE(ctrd_->WaitForExit(kill.container->id(), kill.process), nullptr);
    // feather has told it by now; others may yet do so.
    if (!feather()) ctrd_->loop().RunUntil([&] { return Reported(kill); }, kLate);
    if (execs) {
      EXPECT_TRUE(kill.container->Delete(kill.process).ok());
    }
  }
  for (Kill& kill : round) {
    kill.verdict = Judge(kill);
    Record(kill);
  }
  if (execs) return;
  for (const Kill& kill : round) {
    const absl::Status removed = kill.container->Remove();
    if (!feather()) continue;
    EXPECT_TRUE(removed.ok()) << removed;
    EXPECT_TRUE(ctrd_->WaitForDelete(kill.container->id()));
    EXPECT_EQ(Judge(kill), kill.verdict) << "after the deletion";
  }
  if (feather() && !GetParam().one_shim) {
    const std::vector<std::string> left = ctrd_->FindLeftovers();
    EXPECT_TRUE(left.empty()) << ::testing::PrintToString(left);
  }
}

void OomSeries::RunSeries() {
  const int wanted = KillsWanted();
  if (done_ >= wanted) return PrintSummary();
  Footprint before;
  if (GetParam().one_shim) {
    ASSERT_NO_FATAL_FAILURE(StartKeeper());
    // What the first of its kind leaves behind (an arena, a page of a table) belongs to it.
    RunRound(std::min(GetParam().batch, wanted - done_));
    before = FootprintOf(keeper_->shim_pid());
  }
  while (done_ < wanted && !HasFailure()) RunRound(std::min(GetParam().batch, wanted - done_));
  if (GetParam().one_shim) EndShim(before);
  PrintSummary();
}

void OomSeries::EndShim(const Footprint& before) {
  // Connections end when the shim's loop next turns.
  const pid_t pid = keeper_->shim_pid();
  const bool closed =
      ctrd_->loop().RunUntil([&] { return FootprintOf(pid).descriptors <= before.descriptors; },
                             feather() ? Clock::duration(kLimit) : Clock::duration(kLate));
  const Footprint after = FootprintOf(pid);
  printf(
      "  the shim before and after: %d and %d descriptors, %d and %d inotify instances, %d and "
      "%d KiB private\n",
      before.descriptors, after.descriptors, before.inotify_descriptors, after.inotify_descriptors,
      before.private_dirty_kib, after.private_dirty_kib);
  const absl::Status removed = keeper_->KillAndRemove();
  if (!feather()) return;
  int lines = 0, unknown = 0;
  for (absl::string_view line : absl::StrSplit(ctrd_->log(), '\n')) {
    if (!absl::StrContains(line, "OOM killer took a process")) continue;
    ++lines;
    if (absl::StrContains(line, "process=unknown")) ++unknown;
  }
  printf("  kills in the shim's log: %d, without the process' name: %d\n", lines, unknown);
  EXPECT_TRUE(closed);
  // Other builds carry debugging aids.
  if (kReleaseBuild) {
    EXPECT_LE(after.private_dirty_kib, before.private_dirty_kib + kGrowthKiB);
  }
  EXPECT_TRUE(removed.ok()) << removed;
  EXPECT_TRUE(ctrd_->WaitForDelete("keeper"));
  const std::vector<std::string> left = ctrd_->FindLeftovers();
  EXPECT_TRUE(left.empty()) << ::testing::PrintToString(left);
}

void OomSeries::PrintSummary() const {
  std::vector<std::pair<std::string, int>> verdicts;
  int inotify = 0;
  for (const std::string& line : lines_) {
    const std::vector<std::string> words = absl::StrSplit(line, ',');
    auto found = std::find_if(verdicts.begin(), verdicts.end(),
                              [&](const auto& entry) { return entry.first == words[0]; });
    if (found == verdicts.end()) found = verdicts.insert(verdicts.end(), {words[0], 0});
    ++found->second;
    int instances = 0;
    if (words.size() > 1 && absl::SimpleAtoi(words[1], &instances))
      inotify = std::max(inotify, instances);
  }
  std::string text = absl::StrCat("  ", GetParam().name, ": ", lines_.size(), " kills");
  for (const auto& [verdict, count] : verdicts) {
    absl::StrAppend(&text, ", ", count, " ", verdict);
    // Of an earlier run, too.
    if (feather()) {
      EXPECT_EQ(verdict, "right") << count << " times in " << FiguresPath();
    }
  }
  printf("%s; inotify instances of one shim: %d at most\n", text.c_str(), inotify);
}

}  // namespace feather::test
