#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/cgroups_v1.pb.h"
#include "proto/cgroups_v2.pb.h"
#include "proto/inspect.pb.h"
#include "runtime/base/file.h"
#include "runtime/cgroup.h"
#include "tests/support/build.h"
#include "tests/support/memory_cgroup.h"
#include "tests/support/mount_namespace.h"
#include "tests/support/proc.h"
#include "tests/support/shim.h"

// OOM kills as containerd sees them: real containers under the real shim. Included by two programs,
// which differ only in the kernel that they need: MemoryController() says where its memory
// controller is mounted.
namespace feather::test {

std::optional<std::string> MemoryController();

// Enough for runc's own init.
inline constexpr int kLimitMiB = 48;
inline constexpr const char* kEater = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null";

class OomShim : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!MemoryController()) GTEST_SKIP() << "this kernel has no such memory controller";
    ctrd_ = std::make_unique<FakeContainerd>();
  }

  void TearDown() override {
    if (ctrd_ == nullptr) return;
    EXPECT_THAT(ctrd_->FindLeftovers(), ::testing::IsEmpty());
    if (HasFailure()) printf("%s\n", ctrd_->log().c_str());
  }

  // With a memory limit, and in the shim of all others of the same `group`.
  static ContainerOptions Limited(const std::string& script, const std::string& group = "") {
    ContainerOptions options;
    options.spec.args = {"sh", "-c", script};
    options.spec.patch = absl::StrCat(
        R"({"linux": {"resources": {"memory": {"limit": )", kLimitMiB * (1 << 20), "}}}",
        group.empty()
            ? ""
            : absl::StrCat(R"(, "annotations": {"io.containerd.runc.v2.group": ")", group, "\"}"),
        "}");
    return options;
  }

  // Where the memory controller has the container.
  static std::string MemoryDirectory(Container& container) {
    auto state = container.State();
    EXPECT_TRUE(state.ok()) << state.status();
    auto cgroup = FindCgroup(static_cast<pid_t>(state->pid()));
    EXPECT_TRUE(cgroup.ok()) << cgroup.status();
    return cgroup->unified ? cgroup->path : cgroup->controllers.at("memory");
  }
  static bool Unified() { return Cgroup2MemoryRoot().has_value(); }

  // The shim, of this container alone, does not hold the kernel's log, or not for long.
  bool LetsGoOfTheLog(Container& container) {
    const std::string directory = absl::StrCat("/proc/", container.shim_pid(), "/fd");
    return ctrd_->loop().RunUntil([&] {
      for (const auto& entry : std::filesystem::directory_iterator(directory)) {
        std::error_code gone;
        if (std::filesystem::read_symlink(entry.path(), gone) == "/dev/kmsg") return false;
      }
      return true;
    });
  }

  // What the shim's log says of kills, a line each.
  std::vector<std::string> Explanations() const {
    std::vector<std::string> lines = absl::StrSplit(ctrd_->log(), '\n');
    std::erase_if(lines, [](const std::string& line) {
      return !absl::StrContains(line, "the kernel's OOM killer took a process");
    });
    return lines;
  }
  // The line of a kill of process `pid` (0: whichever) by the name of dd. The kernel names the
  // cgroups of ten kills in five seconds on the whole machine, and an unknown process with them.
  static auto Explains(const std::string& id, const std::string& directory, uint32_t pid) {
    using ::testing::AllOf, ::testing::HasSubstr;
    const std::string name = directory.substr(MemoryController()->size());
    const auto process =
        HasSubstr(pid == 0 ? " (dd)\"" : absl::StrCat("process=\"", pid, " (dd)\""));
    const auto perhaps_process = ::testing::AnyOf(
        process, ::testing::ResultOf(
                     [pid](const std::string& line) {
                       return pid == 0 && absl::StrContains(line, "process=unknown");
                     },
                     true));
    return AllOf(HasSubstr(absl::StrCat("id=", id)), HasSubstr(absl::StrCat("cgroup=", directory)),
                 HasSubstr(absl::StrCat("limit=", kLimitMiB * (1 << 20))), HasSubstr("oom_kill=1"),
                 ::testing::AnyOf(AllOf(process, HasSubstr(absl::StrCat("limit_of=", name))),
                                  AllOf(perhaps_process, HasSubstr("limit_of=unknown"))));
  }

  // The container's kills and exits in order, as "/tasks/oom a" and "/tasks/exit a x 137".
  std::vector<std::string> Ends(const std::string& id) const {
    std::vector<std::string> ends = ctrd_->events().Summaries(id);
    std::erase_if(ends, [](const std::string& line) {
      return !absl::StartsWith(line, "/tasks/oom") && !absl::StartsWith(line, "/tasks/exit");
    });
    return ends;
  }

  bool WaitForOoms(const std::string& id, long count) {
    return ctrd_->loop().RunUntil([&] {
      const std::vector<std::string> ends = Ends(id);
      return std::count(ends.begin(), ends.end(), "/tasks/oom " + id) >= count;
    });
  }

  // Deletes the task and waits for its last event.
  void Remove(Container& container) {
    EXPECT_TRUE(container.KillAndRemove().ok());
    EXPECT_TRUE(ctrd_->WaitForDelete(container.id()));
  }

  std::unique_ptr<FakeContainerd> ctrd_;
};

TEST_F(OomShim, TheKillOfAnInitIsToldOnceAndBeforeItsExit) {
  Container& c = ctrd_->New("init", Limited(absl::StrCat("exec ", kEater)));
  ASSERT_TRUE(c.Run().ok());
  auto exit = c.Wait();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(exit->exit_status(), 137u);
  Remove(c);
  EXPECT_THAT(Ends("init"), ::testing::ElementsAre("/tasks/oom init", "/tasks/exit init 137"));
}

TEST_F(OomShim, TheKillOfAChildIsToldWhileTheInitLives) {
  Container& c = ctrd_->New("child", Limited(absl::StrCat(kEater, "; sleep 1000")));
  ASSERT_TRUE(c.Run().ok());
  EXPECT_TRUE(WaitForOoms("child", 1));
  auto state = c.State();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->status(), containerd::v1::types::RUNNING);
  Remove(c);
  EXPECT_THAT(Ends("child"), ::testing::ElementsAre("/tasks/oom child", "/tasks/exit child 137"));
}

TEST_F(OomShim, TheKillOfAnExecIsToldBeforeItsExit) {
  Container& c = ctrd_->New("exec", Limited("sleep 1000"));
  ASSERT_TRUE(c.Run().ok());
  for (const char* id : {"one", "two"}) {
    ASSERT_TRUE(c.Exec(id, {"sh", "-c", absl::StrCat("exec ", kEater)}).ok());
    ASSERT_TRUE(c.Start(id).ok());
    auto exit = c.Wait(id);
    ASSERT_TRUE(exit.ok()) << exit.status();
    EXPECT_EQ(exit->exit_status(), 137u);
    EXPECT_NE(ctrd_->WaitForExit("exec", id), nullptr);
    EXPECT_TRUE(c.Delete(id).ok());
  }
  Remove(c);
  EXPECT_THAT(Ends("exec"), ::testing::ElementsAre("/tasks/oom exec", "/tasks/exit exec one 137",
                                                   "/tasks/oom exec", "/tasks/exit exec two 137",
                                                   "/tasks/exit exec 137"));
}

// As of Docker in Docker. On cgroup1 it is told with the next reading, here the init's exit.
TEST_F(OomShim, TheKillInACgroupBelowTheContainersIsToldOnceAndBeforeTheExit) {
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  auto pid = c.Create();
  ASSERT_TRUE(pid.ok()) << pid.status();
  ASSERT_TRUE(c.Start().ok());
  const std::string directory = MemoryDirectory(c);
  const std::string leaf = directory + "/leaf";
  ASSERT_EQ(mkdir(leaf.c_str(), 0755), 0) << strerror(errno);
  // On cgroup2 only a cgroup without processes can have others with controllers below it.
  ASSERT_TRUE(WriteFile(leaf + "/cgroup.procs", absl::StrCat(*pid), 0).ok());
  {
    MemoryCgroup below(directory, "below");
    below.Limit(uint64_t{8} << 20);
    Member victim(below, [] { EatMemory(size_t{64} << 20); });
    EXPECT_TRUE(victim.RunToItsKill());
    if (Unified()) {
      EXPECT_TRUE(WaitForOoms("a", 1));
    }
    EXPECT_TRUE(c.Kill(SIGKILL).ok());
    EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
  }
  rmdir(leaf.c_str());
  EXPECT_TRUE(c.Remove().ok());
  EXPECT_TRUE(ctrd_->WaitForDelete("a"));
  EXPECT_THAT(Ends("a"), ::testing::ElementsAre("/tasks/oom a", "/tasks/exit a 137"));
}

TEST_F(OomShim, AnExitByItselfAndAKillBySomebodyAreNotOoms) {
  Container& done = ctrd_->New("done", Limited("exit 7"));
  ASSERT_TRUE(done.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("done", "done"), nullptr);
  Remove(done);
  EXPECT_THAT(Ends("done"), ::testing::ElementsAre("/tasks/exit done 7"));

  Container& killed = ctrd_->New("killed", Limited("sleep 1000"));
  ASSERT_TRUE(killed.Run().ok());
  Remove(killed);
  EXPECT_THAT(Ends("killed"), ::testing::ElementsAre("/tasks/exit killed 137"));
}

TEST_F(OomShim, TheLogNamesTheProcessTheCgroupAndTheLimit) {
  std::vector<std::string> directories;
  std::vector<uint32_t> pids;
  Container& init = ctrd_->New("init", Limited(absl::StrCat("read x; exec ", kEater)));
  Container& child = ctrd_->New("child", Limited(absl::StrCat(kEater, "; sleep 1000")));
  Container& exec = ctrd_->New("exec", Limited("sleep 1000"));
  for (Container* c : {&init, &child, &exec}) {
    auto pid = c->Create();
    ASSERT_TRUE(pid.ok()) << pid.status();
    pids.push_back(*pid);
    directories.push_back(MemoryDirectory(*c));
    ASSERT_TRUE(c->Start().ok());
  }
  ASSERT_TRUE(exec.Exec("e", {"sh", "-c", absl::StrCat("exec ", kEater)}).ok());
  auto started = exec.Start("e");
  ASSERT_TRUE(started.ok()) << started.status();
  const auto is_told = [this](const char* id) {
    return ctrd_->loop().RunUntil([&] {
      const std::vector<std::string> lines = Explanations();
      return std::any_of(lines.begin(), lines.end(), [id](const std::string& line) {
        return absl::StrContains(line, absl::StrCat("id=", id));
      });
    });
  };
  for (const char* id : {"init", "child", "exec"}) EXPECT_TRUE(is_told(id)) << id;
  EXPECT_THAT(Explanations(),
              ::testing::UnorderedElementsAre(Explains("init", directories[0], pids[0]),
                                              Explains("child", directories[1], 0),
                                              Explains("exec", directories[2], *started)));
  for (Container* c : {&init, &child, &exec}) Remove(*c);
}

// containerd 2.3 and later look there.
TEST_F(OomShim, StatsAfterTheExitHaveTheKillThoughTheCgroupIsGone) {
  Container& c = ctrd_->New("a", Limited(absl::StrCat("exec ", kEater)));
  ASSERT_TRUE(c.Create().ok());
  const std::string directory = MemoryDirectory(c);
  ASSERT_TRUE(c.Start().ok());
  EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
  EXPECT_EQ(rmdir(directory.c_str()), 0) << strerror(errno);
  task::StatsRequest request;
  request.set_id("a");
  const auto stats = c.Call<task::StatsResponse>("Stats", request);
  ASSERT_TRUE(stats.ok()) << stats.status();
  if (Unified()) {
    io::containerd::cgroups::v2::Metrics metrics;
    ASSERT_TRUE(metrics.ParseFromString(stats->stats().value()));
    EXPECT_EQ(metrics.memory_events().oom_kill(), 1u);
  } else {
    io::containerd::cgroups::v1::Metrics metrics;
    ASSERT_TRUE(metrics.ParseFromString(stats->stats().value()));
    EXPECT_EQ(metrics.memory_oom_control().oom_kill(), 1u);
  }
  Remove(c);
}

// containerd deletes a container as soon as it has ended.
TEST_F(OomShim, InspectCountsTheKillsOfDeletedContainersToo) {
  Container& pod = ctrd_->New("pod", Limited("sleep 1000", "pod"));
  ASSERT_TRUE(pod.Run().ok());
  const auto inspect = [&] {
    auto answer = Pending<inspect::v1::ShimResponse>(
                      ctrd_->loop(), pod.SendBytes("feather.inspect.v1.Inspect", "Shim", ""))
                      .Get();
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : inspect::v1::ShimResponse();
  };
  EXPECT_EQ(inspect().oom_kills(), 0u);
  for (uint64_t kills = 1; kills <= 2; ++kills) {
    const std::string id = absl::StrCat("a", kills);
    Container& c = ctrd_->New(id, Limited(absl::StrCat("exec ", kEater), "pod"));
    ASSERT_TRUE(c.Run().ok());
    EXPECT_NE(ctrd_->WaitForExit(id, id), nullptr);
    EXPECT_EQ(inspect().oom_kills(), kills);
    EXPECT_TRUE(c.Remove().ok());
    EXPECT_EQ(inspect().containers_size(), 1);
    EXPECT_EQ(inspect().oom_kills(), kills);
  }
  Remove(pod);
}

TEST_F(OomShim, TheKillOfAPausedContainerIsToldOnceAndBeforeItsExit) {
  // With AddressSanitizer it is larger than the container's, and may be taken instead.
  if (!kReleaseBuild) GTEST_SKIP() << "the test's own process must be the smaller one";
  Container& c = ctrd_->New("a", Limited("exec dd if=/dev/zero of=/dev/null bs=30M 2>/dev/null"));
  ASSERT_TRUE(c.Run().ok());
  const std::string directory = MemoryDirectory(c);
  // Until it has touched its block.
  const std::string usage =
      absl::StrCat(directory, Unified() ? "/memory.current" : "/memory.usage_in_bytes");
  ASSERT_TRUE(ctrd_->loop().RunUntil(
      [&] { return atoll(ReadFile(usage).value_or("").c_str()) > (30 << 20); }));
  ASSERT_TRUE(c.Pause().ok());
  const std::vector<std::string> expected = {"/tasks/oom a", "/tasks/exit a 137"};
  std::vector<std::string> also = expected;
  if (Unified()) {
    // What is above it has to go at once.
    EXPECT_TRUE(WriteFile(directory + "/memory.max", absl::StrCat(8 << 20), 0).ok());
  } else {
    // There the limit cannot be set below what is used; one who is not frozen asks for more.
    MemoryCgroup below(directory, "below");
    Member eater(below, [] { EatMemory(size_t{40} << 20); });
    eater.Go();
    ASSERT_TRUE(ctrd_->loop().RunUntil([&] { return eater.Ended(); }));
    // At times the kernel takes that one too, which is a kill of its own; both may be read at once.
    if (eater.Wait() != 0) also.insert(also.begin(), "/tasks/oom a");
  }
  EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
  Remove(c);
  EXPECT_THAT(Ends("a"), ::testing::AnyOf(expected, also));
}

TEST_F(OomShim, PageCacheThatIsReclaimedAtTheLimitIsNoKill) {
  constexpr int kSmall = 8 << 20;
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  ASSERT_TRUE(c.Run().ok());
  const std::string directory = MemoryDirectory(c);
  const std::string limit = directory + (Unified() ? "/memory.max" : "/memory.limit_in_bytes");
  ASSERT_TRUE(WriteFile(limit, absl::StrCat(kSmall), 0).ok());
  PageCache cache;
  Member reader(directory, [&cache] { cache.Fill(); });
  reader.Go();
  ASSERT_TRUE(ctrd_->loop().RunUntil([&] { return reader.Ended(); }));
  EXPECT_EQ(reader.Wait(), 0);
  if (Unified()) {
    EXPECT_THAT(ReadFile(directory + "/memory.events").value_or(""),
                ::testing::Not(::testing::HasSubstr("max 0\n")));
  } else {
    EXPECT_NE(ReadFile(directory + "/memory.failcnt").value_or("0\n"), "0\n");
  }
  Remove(c);
  EXPECT_THAT(Ends("a"), ::testing::ElementsAre("/tasks/exit a 137"));
}

// The daemon that made the container is gone at the first kill; at the second a later series'
// daemon has come in its place.
TEST_F(OomShim, AContainerFromBeforeTheDaemonsUpgradeIsWatched) {
  ctrd_->Switch(ctrd_->settings().shim, Series::k1_6);
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  ASSERT_TRUE(c.Run().ok());
  const std::string directory = MemoryDirectory(c);
  const auto kill_one = [&directory] {
    Member victim(directory, [] { EatMemory(size_t{200} << 20); });
    EXPECT_TRUE(victim.RunToItsKill());
  };
  ctrd_->events().Stop();
  c.Disconnect();
  kill_one();
  ctrd_->Switch(ctrd_->settings().shim, Series::k2_1);
  ctrd_->events().Start();
  ASSERT_TRUE(c.Connect().ok());
  EXPECT_TRUE(WaitForOoms("a", 1));
  kill_one();
  EXPECT_TRUE(WaitForOoms("a", 2));
  Remove(c);
  EXPECT_THAT(Ends("a"),
              ::testing::ElementsAre("/tasks/oom a", "/tasks/oom a", "/tasks/exit a 137"));
}

// With an OCI runtime that does what the test wants instead of its work.
class OomShimRuntime : public OomShim {
 protected:
  void SetUp() override {
    OomShim::SetUp();
    if (IsSkipped()) return;
    Settings settings;
    settings.runtime = scripts_.path() + "/runtime";
    const char* systemd = getenv("FEATHER_GUEST_SYSTEMD");
    settings.systemd_cgroup = systemd != nullptr && *systemd != 0;
    // Restoring takes CRIU: a container that starts as another one does serves as well.
    const std::string script = absl::StrCat(
        "#!/bin/sh\n"
        "globals=\"\" command=none pid_file=none bundle=none previous=none\n"
        "for a; do\n"
        "  case $a in create|start|restore|delete|exec|kill)\n"
        "    [ $command = none ] && command=$a;; esac\n"
        "  [ $command = none ] && globals=\"$globals $a\"\n"
        "  case $previous in --pid-file) pid_file=$a;; --bundle) bundle=$a;; esac\n"
        "  previous=$a\n"
        "done\n"
        "[ -e ",
        scripts_.path(), "/$command ] && . ", scripts_.path(),
        "/$command\n"
        "[ $command = restore ] && exec runc $globals run --detach --pid-file $pid_file"
        " --bundle $bundle $previous\n"
        "exec runc \"$@\"\n");
    ASSERT_TRUE(WriteFile(settings.runtime, script, 0755).ok());
    ctrd_ = std::make_unique<FakeContainerd>(settings);
  }

  void Instead(const std::string& command, const std::string& script) {
    ASSERT_TRUE(WriteFile(scripts_.path() + "/" + command, script + "\n", 0644).ok());
  }
  void AsAlways(const std::string& command) { unlink((scripts_.path() + "/" + command).c_str()); }

  TestDirectory scripts_;
};

TEST_F(OomShimRuntime, ARestoredContainerIsWatched) {
  Container& c = ctrd_->New("a", Limited(absl::StrCat(kEater, "; sleep 1000")));
  task::CreateTaskRequest request = c.CreateRequest();
  request.set_checkpoint("/images/a");
  ASSERT_TRUE(c.Create(request).ok());
  ASSERT_TRUE(c.Start().ok());
  EXPECT_TRUE(WaitForOoms("a", 1));
  Remove(c);
  EXPECT_THAT(Ends("a"), ::testing::ElementsAre("/tasks/oom a", "/tasks/exit a 137"));
}

TEST_F(OomShimRuntime, TheLogIsNotHeldForARestoredContainerUntilItIsMadeNorAfterItFailed) {
  Instead("restore", "exit 1");
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  task::CreateTaskRequest request = c.CreateRequest();
  request.set_checkpoint("/images/a");
  ASSERT_TRUE(c.Create(request).ok());
  EXPECT_TRUE(LetsGoOfTheLog(c));
  EXPECT_FALSE(c.Start().ok());
  EXPECT_TRUE(LetsGoOfTheLog(c));
  EXPECT_TRUE(c.Remove().ok());
}

// However a container ends, or does not begin: the shim, which another one keeps, has as many
// descriptors as before, and no inotify instance.
TEST_F(OomShimRuntime, NothingIsHeldForAContainerAfterItsEnd) {
  Container& keeper = ctrd_->New("keeper", Limited("sleep 1000", "pod"));
  ASSERT_TRUE(keeper.Run().ok());
  const auto footprint = [&] { return ::feather::test::FootprintOf(keeper.shim_pid()); };
  const auto make = [this](const std::string& id,
                           const std::string& script = "sleep 1000") -> auto& {
    return ctrd_->New(id, Limited(script, "pod"));
  };
  // What the shim opens once for all is open then.
  Container& first = make("first", "true");
  ASSERT_TRUE(first.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("first", "first"), nullptr);
  Remove(first);
  const int before = footprint().descriptors;
  const auto expect_nothing = [&](const std::string& how) {
    EXPECT_TRUE(ctrd_->loop().RunUntil([&] { return footprint().descriptors <= before; }))
        << how << ": " << before << " descriptors before, " << footprint().descriptors << " after";
    EXPECT_EQ(footprint().inotify_descriptors, 0) << how;
  };

  Container& exited = make("exited", "exit 3");
  ASSERT_TRUE(exited.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("exited", "exited"), nullptr);
  Remove(exited);
  expect_nothing("an exit");

  Container& killed = make("killed", absl::StrCat("exec ", kEater));
  ASSERT_TRUE(killed.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("killed", "killed"), nullptr);
  Remove(killed);
  expect_nothing("an OOM kill");

  Instead("create", "exit 1");
  Container& not_created = make("not-created");
  EXPECT_FALSE(not_created.Create().ok());
  not_created.Disconnect();
  EXPECT_TRUE(not_created.RemoveBundle().ok());
  AsAlways("create");
  expect_nothing("a Create that failed");

  Instead("start", "exit 1");
  Container& not_started = make("not-started");
  ASSERT_TRUE(not_started.Create().ok());
  EXPECT_FALSE(not_started.Start().ok());
  AsAlways("start");
  Remove(not_started);
  expect_nothing("a Start that failed");

  Container& never_started = make("never-started");
  ASSERT_TRUE(never_started.Create().ok());
  Remove(never_started);
  expect_nothing("no Start");

  // Its init has ended before anybody can ask for its cgroup.
  Instead("create",
          "runc \"$@\"; status=$?; kill -9 $(cat $pid_file); "
          "while kill -0 $(cat $pid_file); do case $(cat /proc/$(cat $pid_file)/stat) in "
          "*') Z '*) break;; esac; done; exit $status");
  Container& without_cgroup = make("without-cgroup");
  ASSERT_TRUE(without_cgroup.Create().ok());
  AsAlways("create");
  EXPECT_NE(ctrd_->WaitForExit("without-cgroup", "without-cgroup"), nullptr);
  // On cgroup2 a zombie is shown where the process was.
  EXPECT_TRUE(Unified() || absl::StrContains(ctrd_->log(), "cannot find the container's cgroup"));
  EXPECT_TRUE(without_cgroup.Remove().ok());
  EXPECT_TRUE(ctrd_->WaitForDelete("without-cgroup"));
  expect_nothing("no cgroup");

  Container& moved = make("moved");
  ASSERT_TRUE(moved.Run().ok());
  {
    MemoryCgroup elsewhere(*MemoryController(), absl::StrCat("feather-test-", getpid()));
    elsewhere.Write("cgroup.procs", absl::StrCat(moved.State()->pid()));
    Remove(moved);
  }
  expect_nothing("a move to another cgroup");

  Remove(keeper);
}

// The init waits between Create and Start, or runc has not even ended, when it is killed.
class OomShimBeforeStart : public OomShimRuntime {
 protected:
  static constexpr char kWaitForTheEnd[] =
      "until case $(cat /proc/$(cat $pid_file)/stat) in *') Z '*|'') true;; *) false;; esac; do :; "
      "done";

  static std::string FindTheCgroup() {
    const char* find =
        Unified() ? "s|^0::|/sys/fs/cgroup|p" : "s|^[0-9]*:memory:|/sys/fs/cgroup/memory|p";
    return absl::StrCat("cgroup=$(sed -n '", find, "' /proc/$(cat $pid_file)/cgroup); ");
  }

  // Ends with its shims elsewhere.
  class HomeOfShims : public MemoryCgroup {
   public:
    explicit HomeOfShims(const std::string& name) : MemoryCgroup(*MemoryController(), name) {}
    HomeOfShims(const HomeOfShims&) = delete;
    HomeOfShims& operator=(const HomeOfShims&) = delete;
    ~HomeOfShims() {
      const std::vector<std::string> shims =
          absl::StrSplit(Read("cgroup.procs"), '\n', absl::SkipEmpty());
      for (const std::string& pid : shims)
        WriteFile(*MemoryController() + "/cgroup.procs", pid, 0).IgnoreError();
    }
  };

  // In the script that makes a container: another process in its cgroup wants too much, and the
  // init is who the kernel prefers then.
  static std::string KillTheInit(absl::string_view after = "") {
    return absl::StrCat("runc \"$@\"; status=$?; ", FindTheCgroup(),
                        "echo 1000 >/proc/$(cat $pid_file)/oom_score_adj; "
                        "sh -c \"echo \\$\\$ >$cgroup/cgroup.procs; exec ",
                        kEater, "\"; ", kWaitForTheEnd, "; ", after, " exit $status");
  }

  void ExpectToldBeforeTheExit(Container& c) {
    EXPECT_FALSE(c.Start().ok());
    EXPECT_NE(ctrd_->WaitForExit(c.id(), c.id()), nullptr);
    EXPECT_TRUE(LetsGoOfTheLog(c));
    EXPECT_TRUE(c.Remove().ok());
    EXPECT_TRUE(ctrd_->WaitForDelete(c.id()));
    const std::string id = c.id();
    EXPECT_THAT(ctrd_->events().Summaries(id),
                ::testing::ElementsAre("/tasks/create " + id, "/tasks/oom " + id,
                                       "/tasks/exit " + id + " 137", ::testing::_));
    EXPECT_THAT(Explanations(), ::testing::ElementsAre(::testing::HasSubstr("id=" + id)));
  }
};

TEST_F(OomShimBeforeStart, TheKillOfAnInitBeforeCreateHasEndedIsTold) {
  Instead("create", KillTheInit());
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  ASSERT_TRUE(c.Create().ok());
  ExpectToldBeforeTheExit(c);
}

// As below systemd, which removes a scope that is empty.
TEST_F(OomShimBeforeStart, TheKillOfAnInitIsToldThoughItsCgroupIsGoneWhenCreateHasEnded) {
  Instead("create", KillTheInit("rmdir $cgroup;"));
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  ASSERT_TRUE(c.Create().ok());
  ExpectToldBeforeTheExit(c);
}

// Its Start makes it, and has not ended when it is killed.
TEST_F(OomShimBeforeStart, TheKillOfARestoredInitIsToldThoughItsCgroupIsGone) {
  // The two do not fit into the limit together.
  Instead("restore",
          absl::StrCat(
              "runc $globals run --detach --pid-file $pid_file --bundle $bundle $previous; "
              "status=$?; pid=$(cat $pid_file); ",
              FindTheCgroup(),
              "echo 1000 >/proc/$pid/oom_score_adj; sh -c \"echo \\$\\$ >$cgroup/cgroup.procs; "
              "until case \\$(cat /proc/$pid/stat) in *') Z '*|'') true;; *) false;; esac; "
              "do dd if=/dev/zero of=/dev/null bs=40M count=1 2>/dev/null; done\"; "
              "rmdir $cgroup; exit $status"));
  Container& c = ctrd_->New("a", Limited("exec dd if=/dev/zero of=/dev/null bs=30M 2>/dev/null"));
  task::CreateTaskRequest request = c.CreateRequest();
  request.set_checkpoint("/images/a");
  ASSERT_TRUE(c.Create(request).ok());
  EXPECT_TRUE(c.Start().ok());
  EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
  EXPECT_TRUE(c.Remove().ok());
  EXPECT_TRUE(ctrd_->WaitForDelete("a"));
  EXPECT_THAT(ctrd_->events().Summaries("a"),
              ::testing::ElementsAre("/tasks/create a", "/tasks/start a", "/tasks/oom a",
                                     "/tasks/exit a 137", ::testing::_));
}

TEST_F(OomShimBeforeStart, TheKillOfAnInitThatWaitsForItsStartIsTold) {
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  auto pid = c.Create();
  ASSERT_TRUE(pid.ok()) << pid.status();
  const std::string directory = MemoryDirectory(c);
  ASSERT_TRUE(WriteFile(absl::StrCat("/proc/", *pid, "/oom_score_adj"), "1000", 0).ok());
  // Another program: this one, with AddressSanitizer, would be larger than the init all the same.
  Member eater(directory, [] {
    execlp("dd", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", nullptr);
  });
  EXPECT_TRUE(eater.RunToItsKill());
  EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
  EXPECT_FALSE(c.Start().ok());
  Remove(c);
  // Two processes were killed, perhaps far apart.
  const std::vector<std::string> ends = Ends("a");
  ASSERT_THAT(ends, ::testing::SizeIs(::testing::AllOf(::testing::Ge(2), ::testing::Le(3))));
  EXPECT_EQ(ends.front(), "/tasks/oom a");
}

TEST_F(OomShimBeforeStart, TheEndOfAnInitByAnotherHandIsNoKillThoughItsCgroupIsGone) {
  Instead("create", absl::StrCat("runc \"$@\"; status=$?; kill -9 $(cat $pid_file); ",
                                 kWaitForTheEnd, "; exit $status"));
  Container& c = ctrd_->New("a", Limited("sleep 1000"));
  ASSERT_TRUE(c.Create().ok());
  EXPECT_NE(ctrd_->WaitForExit("a", "a"), nullptr);
  EXPECT_TRUE(c.Remove().ok());
  EXPECT_TRUE(ctrd_->WaitForDelete("a"));
  EXPECT_THAT(Ends("a"), ::testing::ElementsAre("/tasks/exit a 137"));
}

TEST_F(OomShimBeforeStart, TheKillsOfAnEarlierContainerInTheSameCgroupAreNotTold) {
  MemoryCgroup cgroup(*MemoryController(), absl::StrCat(ctrd_->name(), "-old"));
  cgroup.Limit(uint64_t{kLimitMiB} << 20);
  Member earlier(cgroup, [] { EatMemory(size_t{200} << 20); });
  EXPECT_TRUE(earlier.RunToItsKill());
  const auto make = [&](const std::string& id) -> auto& {
    ContainerOptions options = Limited("exit 3");
    options.spec.cgroups_path = absl::StrCat("/", ctrd_->name(), "-old");
    return ctrd_->New(id, options);
  };
  Container& quiet = make("quiet");
  ASSERT_TRUE(quiet.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("quiet", "quiet"), nullptr);
  Remove(quiet);
  EXPECT_THAT(Ends("quiet"), ::testing::ElementsAre("/tasks/exit quiet 3"));
}

// runc takes it to begin at its own cgroup, the shim's, or (cgroup2) above that.
TEST_F(OomShimBeforeStart, TheKillsOfAnEarlierContainerAreNotToldWhereTheCgroupsPathIsRelative) {
  for (const std::string id : {"created", "restored"}) {
    HomeOfShims home(absl::StrCat(ctrd_->name(), "-shim"));
    MemoryCgroup cgroup(Unified() ? *MemoryController() : home.path(),
                        absl::StrCat(ctrd_->name(), "-", id));
    cgroup.Limit(uint64_t{kLimitMiB} << 20);
    Member earlier(cgroup, [] { EatMemory(size_t{200} << 20); });
    EXPECT_TRUE(earlier.RunToItsKill());
    ContainerOptions options = Limited("sleep 1000");
    options.spec.cgroups_path = absl::StrCat(ctrd_->name(), "-", id);
    Container& c = ctrd_->New(id, options);
    home.Write("cgroup.procs", absl::StrCat(c.shim_pid()));
    task::CreateTaskRequest request = c.CreateRequest();
    if (id == "restored") request.set_checkpoint("/images/a");
    ASSERT_TRUE(c.Create(request).ok());
    ASSERT_TRUE(c.Start().ok());
    EXPECT_EQ(MemoryDirectory(c), cgroup.path());
    Remove(c);
    EXPECT_THAT(Ends(id), ::testing::ElementsAre(absl::StrCat("/tasks/exit ", id, " 137")));
  }
}

TEST_F(OomShimBeforeStart, TheKillOfAnInitIsToldWhereTheCgroupsPathIsRelative) {
  Instead("create", KillTheInit());
  ContainerOptions options = Limited("sleep 1000");
  options.spec.cgroups_path = absl::StrCat(ctrd_->name(), "-a");
  HomeOfShims home(absl::StrCat(ctrd_->name(), "-shim"));
  Container& c = ctrd_->New("a", options);
  home.Write("cgroup.procs", absl::StrCat(c.shim_pid()));
  ASSERT_TRUE(c.Create().ok());
  ExpectToldBeforeTheExit(c);
}

// Where the kernel's log cannot be had the counters are enough, as long as the cgroup is there.
class OomShimWithoutLog : public OomShim, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    OomShim::SetUp();
    if (IsSkipped()) return;
    ASSERT_TRUE(mounts_.entered()) << strerror(errno);
    const std::string how = GetParam();
    if (how == "Missing") {
      ASSERT_NO_FATAL_FAILURE(MakeDevicesWithoutLog());
    } else if (how == "Unreadable") {
      // It cannot be opened (ENXIO).
      const std::string socket = files_.path() + "/socket";
      ASSERT_EQ(mknod(socket.c_str(), S_IFSOCK | 0600, 0), 0) << strerror(errno);
      Bind(socket, "/dev/kmsg");
    } else {
      Bind("/dev/null", "/dev/kmsg");
    }
  }

  static void Bind(const std::string& what, const std::string& where) {
    ASSERT_EQ(mount(what.c_str(), where.c_str(), nullptr, MS_BIND | MS_REC, nullptr), 0)
        << where << ": " << strerror(errno);
  }

  void MakeDevicesWithoutLog() {
    const std::string dev = files_.path() + "/dev";
    ASSERT_EQ(mkdir(dev.c_str(), 0755), 0) << strerror(errno);
    ASSERT_EQ(mount("none", dev.c_str(), "tmpfs", 0, nullptr), 0) << strerror(errno);
    for (const char* name : {"null", "zero", "full", "random", "urandom", "tty"}) {
      struct stat info {};
      ASSERT_EQ(stat(absl::StrCat("/dev/", name).c_str(), &info), 0) << name;
      ASSERT_EQ(mknod(absl::StrCat(dev, "/", name).c_str(), S_IFCHR | 0666, info.st_rdev), 0)
          << name << ": " << strerror(errno);
    }
    ASSERT_EQ(mkdir((dev + "/pts").c_str(), 0755), 0);
    Bind("/dev/pts", dev + "/pts");
    ASSERT_EQ(symlink("pts/ptmx", (dev + "/ptmx").c_str()), 0);
    ASSERT_EQ(symlink("/proc/self/fd", (dev + "/fd").c_str()), 0);
    Bind(dev, "/dev");
    ASSERT_NE(access("/dev/kmsg", F_OK), 0);
  }

  TestDirectory files_;
  MountNamespace mounts_;
};

TEST_P(OomShimWithoutLog, EachKillIsToldOnceAndBeforeItsExit) {
  Container& init = ctrd_->New("init", Limited(absl::StrCat("exec ", kEater)));
  ASSERT_TRUE(init.Run().ok());
  EXPECT_NE(ctrd_->WaitForExit("init", "init"), nullptr);
  Container& c = ctrd_->New("c", Limited(absl::StrCat(kEater, "; sleep 1000")));
  ASSERT_TRUE(c.Run().ok());
  EXPECT_TRUE(WaitForOoms("c", 1));
  ASSERT_TRUE(c.Exec("e", {"sh", "-c", absl::StrCat("exec ", kEater)}).ok());
  ASSERT_TRUE(c.Start("e").ok());
  EXPECT_NE(ctrd_->WaitForExit("c", "e"), nullptr);
  Remove(init);
  Remove(c);
  EXPECT_THAT(Ends("init"), ::testing::ElementsAre("/tasks/oom init", "/tasks/exit init 137"));
  EXPECT_THAT(Ends("c"), ::testing::ElementsAre("/tasks/oom c", "/tasks/oom c",
                                                "/tasks/exit c e 137", "/tasks/exit c 137"));
  EXPECT_THAT(
      Explanations(),
      ::testing::AllOf(::testing::SizeIs(3),
                       ::testing::Each(::testing::AllOf(
                           ::testing::HasSubstr("process=unknown"),
                           ::testing::HasSubstr(absl::StrCat("limit=", kLimitMiB * (1 << 20)))))));
}
INSTANTIATE_TEST_SUITE_P(Kmsg, OomShimWithoutLog,
                         ::testing::Values("Missing", "Unreadable", "AnotherDevice"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace feather::test
