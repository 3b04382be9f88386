// Much at once and much in a row: everything is answered, and afterwards nothing is left, neither
// descriptors nor children of the shim, nor what FindLeftovers looks for. tests/run --long has the
// large numbers.

#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/build.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

using ::testing::Contains;

// A containerd that was restarted takes those for lost that it cannot load in 5 s.
void LoadAgain(const std::vector<Container*>& containers) {
  for (Container* c : containers) c->Disconnect();
  for (Container* c : containers) {
    const Clock::time_point begin = Clock::now();
    ASSERT_THAT(c->Connect(), IsOk()) << c->id();
    EXPECT_THAT(c->ConnectTask(), IsOk()) << c->id();
    EXPECT_EQ(c->Pids()->processes_size(), 1) << c->id();
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5)) << c->id();
  }
}

// Hours are for one of the two programs.
bool Long() { return getenv("FEATHER_TEST_LONG") != nullptr && !TestsGrpc(); }
int Count(int by_default, int in_the_long_run) { return Long() ? in_the_long_run : by_default; }

// What of a shim must not grow, once it has come to rest.
struct Figures {
  int private_kib = 1 << 30;  // dirty memory
  size_t descriptors = 0;
  size_t sockets = 0;  // of the descriptors
  size_t mounts = 0;   // of its mount namespace, in the directory of the test
};

class Load : public WitnessTest {
 protected:
  // It outlives the long versions.
  void StartWitness() {
    ContainerOptions lasting;
    lasting.spec.args = {"sleep", "1000000"};
    WitnessTest::StartWitness(lasting);
  }
  // Of some looks the one with the least memory.
  Figures Look() { return Look(shim_, /*looks=*/20); }
  Figures Look(pid_t shim, int looks) {
    Figures figures;
    for (int look = 0; look < looks; ++look) {
      if (look > 0) ctrd().loop().RunFor(std::chrono::milliseconds(100));
      figures.private_kib =
          std::min(figures.private_kib, feather::test::FootprintOf(shim).private_dirty_kib);
    }
    std::string proc = absl::StrCat("/proc/", shim);
    for (const std::string& fd : feather::test::ListDirectory(proc + "/fd")) {
      ++figures.descriptors;
      std::error_code gone;
      std::string target = std::filesystem::read_symlink(proc + "/fd/" + fd, gone);
      if (absl::StartsWith(target, "socket:")) ++figures.sockets;
    }
    for (absl::string_view line : absl::StrSplit(*ReadFile(proc + "/mountinfo"), '\n'))
      if (absl::StrContains(line, ctrd().directory())) ++figures.mounts;
    return figures;
  }
  void Print(const std::string& when, const Figures& figures) {
    printf("after %s: %d KiB private dirty, %zu descriptors, %zu of them sockets, %zu mounts\n",
           when.c_str(), figures.private_kib, figures.descriptors, figures.sockets, figures.mounts);
    fflush(stdout);
  }
  void ExpectNoMore(const Figures& after, const Figures& before) {
    EXPECT_LE(after.descriptors, before.descriptors);
    EXPECT_LE(after.sockets, before.sockets);
    EXPECT_EQ(after.mounts, before.mounts);
    // gRPC's threads have heaps of their own, and which of them does what is chance.
    const int slack = TestsGrpc() ? 256 : 16;
    if (kReleaseBuild) {
      EXPECT_LE(after.private_kib, before.private_kib + slack);
    }
  }

  // What it needs the first time, it needs no more of the second time.
  void ExpectNoMoreTheSecondTime(const std::string& what, const std::function<void()>& load) {
    ASSERT_NO_FATAL_FAILURE(load());
    ExpectUnharmed(what);
    const Figures before = Look();
    Print(what, before);
    ASSERT_NO_FATAL_FAILURE(load());
    ExpectUnharmed(what + ", again");
    const Figures after = Look();
    Print(what + ", again", after);
    ExpectNoMore(after, before);
  }
  // A thousand Waits and as many States of a container, and its end.
  void KeepAThousandInFlight() {
    Container& c = NewMember("a");
    ASSERT_THAT(c.Run(), IsOk());
    std::vector<Pending<task::WaitResponse>> waits;
    for (int i = 0; i < 1000; ++i) waits.push_back(c.WaitAsync());
    std::vector<Pending<task::StateResponse>> states;
    task::StateRequest state;
    state.set_id("a");
    for (int i = 0; i < 1000; ++i) states.push_back(c.Send<task::StateResponse>("State", state));
    for (auto& pending : states) ASSERT_THAT(pending.Get(), IsOk());
    for (auto& pending : waits) ASSERT_FALSE(pending.done());
    ASSERT_THAT(c.Kill(SIGKILL), IsOk());
    for (auto& pending : waits) {
      auto answer = pending.Get();
      ASSERT_THAT(answer, IsOk());
      EXPECT_EQ(answer->exit_status(), 128u + SIGKILL);
    }
    EXPECT_THAT(c.Remove(), IsOk());
  }
  // So many containers from their creation to their end.
  void RunAtOnce(int count) {
    std::vector<Container*> containers;
    std::vector<Pending<task::CreateTaskResponse>> created;
    for (int i = 0; i < count; ++i) {
      containers.push_back(&NewMember(absl::StrCat("c", i)));
      created.push_back(containers.back()->Send<task::CreateTaskResponse>(
          "Create", containers.back()->CreateRequest()));
    }
    std::set<uint32_t> pids;
    for (auto& pending : created) {
      auto answer = pending.Get();
      ASSERT_THAT(answer, IsOk());
      pids.insert(answer->pid());
    }
    EXPECT_EQ(pids.size(), static_cast<size_t>(count));
    for (Container* c : containers) ASSERT_THAT(c->Start(), IsOk());
    for (Container* c : containers)
      EXPECT_EQ(c->State()->status(), containerd::v1::types::RUNNING) << c->id();
    ASSERT_NO_FATAL_FAILURE(LoadAgain(containers));
    for (Container* c : containers) {
      EXPECT_THAT(c->KillAndRemove(), IsOk()) << c->id();
      c->stdio() = {};
      ctrd().CloseLog(*c);
    }
  }
  // Of each of so many processes but the witness' init, which have all ended, the exit was told,
  // and once.
  void ExpectExitsTold(size_t count) {
    size_t told = 0;
    std::set<std::pair<uint32_t, absl::Time>> processes;
    EXPECT_TRUE(RunUntil([&] {
      told = 0;
      processes.clear();
      for (const RecordedEvent& event : ctrd().events().events()) {
        if (event.topic != "/tasks/exit" || event.id == "witness") continue;
        ++told;
        processes.emplace(event.pid, event.exited_at);
      }
      return processes.size() >= count;
    })) << processes.size();
    EXPECT_EQ(processes.size(), count);
    EXPECT_EQ(told, count);
  }

  // The whole life of a container of the witness' shim, step by step, so that several overlap.
  class Life {
   public:
    Life(FakeContainerd& ctrd, Container& container) : ctrd_(ctrd), container_(container) {
      created_.emplace(
          container.Send<task::CreateTaskResponse>("Create", container.CreateRequest()));
    }
    void Finish() {
      ASSERT_THAT(created_->Get(), IsOk()) << container_.id();
      ASSERT_THAT(container_.Start(), IsOk()) << container_.id();
      EXPECT_EQ(container_.Wait()->exit_status(), 0u) << container_.id();
      EXPECT_THAT(container_.Remove(), IsOk()) << container_.id();
      // Thousands of them would leave the test without descriptors.
      container_.stdio() = {};
      ctrd_.CloseLog(container_);
    }

   private:
    FakeContainerd& ctrd_;
    Container& container_;
    std::optional<Pending<task::CreateTaskResponse>> created_;
  };
};

TEST_F(Load, AThousandRequestsInFlightAreAllAnsweredAndHoldNothingUp) {
  StartWitness();
  Remember();
  ExpectNoMoreTheSecondTime("requests in flight", [&] { KeepAThousandInFlight(); });
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Load, RandomRequestsAtOnceAreAllAnswered) {
  StartWitness();
  ContainerOptions streams;
  streams.out = streams.err = false;
  std::vector<Container*> containers;
  for (const char* id : {"a", "b", "c"}) containers.push_back(&NewMember(id, streams));
  Remember();
  std::minstd_rand random(4711);
  using Answer = Pending<google::protobuf::Empty>;
  const int rounds = Count(3, 300);
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    std::vector<std::pair<const char*, Answer>> answers;
    std::vector<Answer> waits;
    for (int i = 0; i < 60; ++i) {
      Container& c = *containers[random() % containers.size()];
      const auto send = [&](const char* method, auto request) {
        request.set_id(c.id());
        return c.Send<google::protobuf::Empty>(method, request);
      };
      const auto add = [&](const char* method, const auto& request) {
        answers.emplace_back(method, send(method, request));
      };
      const auto of_exec = [](auto request) {
        request.set_exec_id("x");
        return request;
      };
      task::KillRequest kill;
      kill.set_signal(SIGKILL);
      switch (random() % 16) {
        case 0:
        case 1:
          add("Create", c.CreateRequest());
          break;
        case 2:
        case 3:
          add("Start", task::StartRequest());
          break;
        case 4:
          add("Exec", c.ExecRequest("x", {"true"}, streams));
          break;
        case 5:
          add("Start", of_exec(task::StartRequest()));
          break;
        case 6:
          add("Delete", of_exec(task::DeleteRequest()));
          break;
        case 7:
          add("Kill", of_exec(kill));
          break;
        case 8:
          add("Kill", kill);
          break;
        case 9:
          add("Delete", task::DeleteRequest());
          break;
        case 10:
          add("Pause", task::PauseRequest());
          break;
        case 11:
          add("Resume", task::ResumeRequest());
          break;
        case 12:
          add("Stats", task::StatsRequest());
          break;
        case 13:
          add("Pids", task::PidsRequest());
          break;
        case 14:
          add("State", task::StateRequest());
          break;
        case 15:
          waits.push_back(send("Wait", task::WaitRequest()));
          break;
      }
    }
    for (auto& [method, answer] : answers) {
      const absl::Status status = answer.Get().status();
      EXPECT_THAT(status.code(), ::testing::AnyOf(absl::StatusCode::kOk, kUnknown, kNotFound,
                                                  kAlreadyExists, kFailedPrecondition))
          << method << " in round " << round << ": " << status;
    }
    for (Container* c : containers) {
      if (!c->State().ok()) continue;
      c->Resume().IgnoreError();
      EXPECT_THAT(c->Kill(SIGKILL), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
      EXPECT_THAT(c->Wait(), IsOk());
      EXPECT_THAT(c->Delete(), IsOk());
    }
    for (Answer& answer : waits)
      EXPECT_THAT(answer.Get(), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
    ExpectUnharmed(absl::StrCat("round ", round));
  }
  for (Container* c : containers) {
    c->Disconnect();
    EXPECT_THAT(c->RemoveBundle(), IsOk());
  }
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// Checklist: G7.
TEST_F(Load, ManyContainersInOneShimLeaveItAsItWas) {
  StartWitness();
  Remember();
  const int count = Count(12, 200);
  ExpectNoMoreTheSecondTime(absl::StrCat(count, " containers"), [&] { RunAtOnce(count); });
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// Takes no time of its own. An exec is a child that ends when it is the shim's; the container "c…"
// one that waits for its start.
constexpr char kQuick[] = R"(
for id; do :; done
case " $* " in
*" create "*" c"[0-9]*)
  while [ $# -gt 1 ]; do
    case $1 in
    --root) root=$2 ;;
    --pid-file) pid_file=$2 ;;
    esac
    shift
  done
  mkdir -p "$root/$id"
  mkfifo "$root/$id/go"
  { read go < "$root/$id/go"; } &
  echo -n $! > "$pid_file"
  ;;
*" start c"[0-9]*) echo > "$2/$id/go" ;;
*" delete "*" c"[0-9]* | *" delete c"[0-9]*) rm -r "$2/$id" ;;
*" exec "*)
  while [ $# -gt 0 ]; do
    [ "$1" = --pid-file ] && pid_file=$2
    shift
  done
  # A shell reaps what has ended before it does.
  while kill -0 $$; do :; done 2>/dev/null &
  echo -n $! > "$pid_file"
  ;;
*) exec runc "$@" ;;
esac
)";

// With each OCI runtime (crun is quicker), and with a stand-in for one, since it is the shim that
// is looked at.
class LoadWith : public Load, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    settings_.runtime = GetParam();
    if (settings_.runtime == "crun" && !HideUnifiedCgroup())
      GTEST_SKIP() << "crun needs a private mount namespace: " << strerror(errno);
    if (settings_.runtime == "quick") settings_.runtime = WriteRuntime("quick", kQuick);
  }
  // From the environment, if it has that.
  static int Wanted(const char* name, int otherwise) {
    const char* wanted = getenv(name);
    return wanted == nullptr ? otherwise : atoi(wanted);
  }
};

// $FEATHER_TEST_LIFETIMES sets their number.
class LoadOfLifetimes : public LoadWith {
 protected:
  // Of the containers number `begin` to `end`.
  void Live(int begin, int end) {
    constexpr size_t kAtOnce = 8;
    std::deque<Life> lives;
    for (int i = begin; i < end && !HasFailure(); ++i) {
      // Ids are used again.
      lives.emplace_back(ctrd(), NewMember(absl::StrCat("c", i % 16), Shell("exit 0")));
      if (lives.size() < kAtOnce) continue;
      lives.front().Finish();
      lives.pop_front();
    }
    for (Life& life : lives) life.Finish();
  }
};
INSTANTIATE_TEST_SUITE_P(Runtimes, LoadOfLifetimes, ::testing::Values("runc", "crun", "quick"),
                         RuntimeName);

TEST_P(LoadOfLifetimes, SideBySideLeaveTheShimAsItWas) {
  StartWitness();
  Remember();
  const int count = Wanted("FEATHER_TEST_LIFETIMES", Count(16, 10'000));
  // What the first ones need, the later ones need no more of.
  const int first = std::min(1000, count / 2);
  Live(0, first);
  Figures before = Look();
  Print(absl::StrCat(first, " lifetimes"), before);
  Live(first, count);
  ExpectUnharmed("lifetimes side by side");
  ExpectExitsTold(static_cast<size_t>(count));
  Figures after = Look();
  Print(absl::StrCat(count, " lifetimes"), after);
  ExpectNoMore(after, before);
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// $FEATHER_TEST_EXECS sets their number.
class LoadOfExecs : public LoadWith {
 protected:
  static int Execs() {
    return Wanted("FEATHER_TEST_EXECS",
                  Count(20, std::string(GetParam()) == "runc" ? 10'000 : 100'000));
  }
};
INSTANTIATE_TEST_SUITE_P(Runtimes, LoadOfExecs, ::testing::Values("runc", "crun", "quick"),
                         RuntimeName);

TEST_P(LoadOfExecs, LeavesTheShimAsItWasAndItsMemoryFlat) {
  StartWitness();
  Remember();
  const int execs = Execs();
  // What the first ones need, the later ones need no more of.
  const int first = std::min(1000, execs / 2);
  Figures before;
  ContainerOptions streams;
  streams.err = false;
  for (int i = 0; i < execs && !HasFailure(); ++i) {
    if (i == first) {
      before = Look();
      Print(absl::StrCat(first, " execs"), before);
    }
    ASSERT_THAT(witness_->Exec("x", {"true"}, streams), IsOk()) << i;
    ASSERT_THAT(witness_->Start("x"), IsOk()) << i;
    EXPECT_EQ(witness_->Wait("x")->exit_status(), 0u) << i;
    ASSERT_THAT(witness_->Delete("x"), IsOk()) << i;
    if (i % 10'000 == 9'999) Print(absl::StrCat(i + 1, " execs"), Look());
  }
  ExpectUnharmed("execs in a row");
  ExpectExitsTold(static_cast<size_t>(execs));
  Figures after = Look();
  Print(absl::StrCat(execs, " execs"), after);
  ExpectNoMore(after, before);
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Load, ManyShimsServeSideBySideAndAllEnd) {
  // The first of them is there before the others, and after them.
  StartWitness();
  Remember();
  const Figures before = Look();
  Print("the first shim", before);
  std::vector<Container*> containers;
  const int count = Count(10, 200);
  for (int i = 1; i < count; ++i) {
    containers.push_back(&New(absl::StrCat("c", i)));
    ASSERT_THAT(containers.back()->Run(), IsOk());
  }
  for (Container* c : containers)
    EXPECT_EQ(c->State()->status(), containerd::v1::types::RUNNING) << c->id();
  ASSERT_NO_FATAL_FAILURE(LoadAgain(containers));
  // None needs more than the first, which has no neighbours.
  int most_kib = 0;
  for (Container* c : containers) {
    Figures each;
    EXPECT_TRUE(RunUntil([&] {
      each = Look(c->shim_pid(), /*looks=*/1);
      return each.descriptors <= before.descriptors;
    })) << c->id()
        << " has " << each.descriptors << " descriptors";
    most_kib = std::max(most_kib, each.private_kib);
  }
  printf("%d shims: at most %d KiB private dirty\n", count, most_kib);
  if (kReleaseBuild && !TestsGrpc()) {
    EXPECT_LE(most_kib, 256);
  }
  for (Container* c : containers) EXPECT_THAT(c->KillAndRemove(), IsOk()) << c->id();
  for (Container* c : containers)
    EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(c->shim_pid()).has_value(); })) << c->id();
  ExpectUnharmed("the first of many shims");
  const Figures after = Look();
  Print("the others have ended", after);
  ExpectNoMore(after, before);
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_F(Load, NoExitIsLostWhileContainerdComesAndGoesAtRandom) {
  StartWitness();
  Remember();
  std::minstd_rand random(12345);
  bool away = false;
  const auto leave_or_come = [&] {
    if (random() % 3 != 0) return;
    away = !away;
    // Its socket goes and comes too.
    if (away) {
      ctrd().events().Stop();
    } else {
      ctrd().events().Start();
    }
  };
  const auto run = [&](int i) {
    std::string exec = absl::StrCat("x", i);
    ASSERT_THAT(witness_->Exec(exec, {"sh", "-c", absl::StrCat("exit ", i % 100)}), IsOk());
    leave_or_come();
    ASSERT_THAT(witness_->Start(exec), IsOk());
    leave_or_come();
    EXPECT_THAT(witness_->Wait(exec), IsOk());
    leave_or_come();
    EXPECT_THAT(witness_->Delete(exec), IsOk());
  };
  const int count = Count(20, 2'000);
  const int first = count / 2;
  // In two parts, after each of which everything has been taken.
  const auto run_part = [&](int begin, int end) {
    for (int i = begin; i < end && !HasFailure(); ++i) run(i);
    if (away) ctrd().events().Start();
    away = false;
    EXPECT_NE(ctrd().WaitForExit("witness", absl::StrCat("x", end - 1)), nullptr);
    ExpectUnharmed("execs while containerd came and went");
  };
  run_part(0, first);
  const Figures before = Look();
  Print(absl::StrCat(first, " execs"), before);
  run_part(first, count);
  const Figures after = Look();
  Print(absl::StrCat(count, " execs"), after);
  ExpectNoMore(after, before);
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("witness"));
  std::vector<std::string> told = ctrd().events().Summaries("witness");
  size_t position = 0;
  for (int i = 0; i < count; ++i) {
    std::string exit = absl::StrCat("/tasks/exit witness x", i, " ", i % 100);
    auto found = std::find(told.begin(), told.end(), exit);
    ASSERT_NE(found, told.end()) << exit;
    EXPECT_GE(static_cast<size_t>(found - told.begin()), position) << exit << " before another";
    position = static_cast<size_t>(found - told.begin());
  }
  EXPECT_THAT(told, Contains("/tasks/exit witness 137"));
}

}  // namespace
}  // namespace feather::test
