// operator new of the shim is refused memory at each place of each request: the answer may be an
// error, or the connection ends, but the shim lives, nothing is left behind, no exit is lost, the
// other container does not notice, and the same request succeeds afterwards.

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <stdexcept>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/cgroup.h"
#include "tests/refusing/gate.h"
#include "tests/support/build.h"
#include "tests/support/sandbox_fixture.h"
#include "tests/support/witness_test.h"

namespace feather::test {
namespace {

using containerd::v1::types::PAUSED;
using containerd::v1::types::RUNNING;
using Again = std::function<void(const absl::Status&)>;

bool Long() { return getenv("FEATHER_TEST_LONG") != nullptr; }

// What a container must be told as having ended with: of one that was killed.
constexpr uint32_t kKilled = 128 + SIGKILL;

class Gate {
 public:
  Gate() {
    const bool made = WriteFile(path(), std::string(sizeof(MemoryGate), '\0'), 0600).ok();
    const int fd = open(path().c_str(), O_RDWR | O_CLOEXEC);
    void* shared = mmap(nullptr, sizeof(MemoryGate), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (!made || shared == MAP_FAILED) throw std::runtime_error(path());
    gate_ = static_cast<MemoryGate*>(shared);
  }
  ~Gate() { munmap(gate_, sizeof(MemoryGate)); }

  std::string path() const { return directory_.path() + "/gate"; }
  void Set(MemoryGate::Mode mode, uint64_t at) {
    gate_->at = at;
    gate_->asked = gate_->refused = 0;
    gate_->mode = mode;
  }
  void Open() { gate_->mode = MemoryGate::kOpen; }
  uint64_t asked() const { return gate_->asked; }
  uint64_t refused() const { return gate_->refused; }

 private:
  TestDirectory directory_;
  MemoryGate* gate_;
};

// The places at which memory is refused: some by default, all in the long run.
template <typename Fixture>
class Refused : public Fixture, public ::testing::WithParamInterface<MemoryGate::Mode> {
 protected:
  void SetUp() override {
    this->settings_.shim = kRefusingShim;
    this->settings_.env.push_back(absl::StrCat(MemoryGate::kVariable, "=", gate_.path()));
    Fixture::SetUp();
  }
  // Calls `request` with memory refused at each place, and then `again`, which looks at what it has
  // left and puts things back to where they were; both have memory, as `prepare` has.
  void EachPlace(const std::string& what, const std::function<void()>& prepare,
                 const std::function<absl::Status()>& request, const Again& again) {
    const auto with = [&](uint64_t place) {
      prepare();
      gate_.Set(GetParam(), place);
      absl::Status status = request();
      gate_.Open();
      return status;
    };
    again(with(UINT64_MAX));
    const uint64_t places = gate_.asked();
    uint64_t refused = 0;
    uint64_t first = 1;
    if (const char* from = getenv("FEATHER_TEST_PLACE")) first = strtoull(from, nullptr, 10);
    const uint64_t step = Long() || places <= kFew ? 1 : places / kPlaces;
    for (uint64_t place = first; place <= places && !this->HasFailure(); place += step) {
      absl::Status status = with(place);
      refused += gate_.refused() > 0 ? 1 : 0;
      SCOPED_TRACE(
          absl::StrCat(what, ", refused at ", place, " of ", places, ": ", status.ToString()));
      again(status);
    }
    printf("%s: refused at %ju of %ju places\n", what.c_str(), uintmax_t{refused},
           uintmax_t{places});
    fflush(stdout);
    if (places > 0) {
      EXPECT_GT(refused, 0u) << what;
    }
  }

  // So few are all tried; of more, by default, about kPlaces.
  static constexpr uint64_t kFew = 20;
  static constexpr uint64_t kPlaces = 4;
  Gate gate_;
};

std::string ModeName(const ::testing::TestParamInfo<MemoryGate::Mode>& info) {
  return info.param == MemoryGate::kOne ? "one" : "all";
}
const auto kModes = ::testing::Values(MemoryGate::kOne, MemoryGate::kAllFrom);

class RefusedMemory : public Refused<WitnessTest> {
 protected:
  void Each(
      const std::string& what, Container& c, const std::function<absl::Status()>& request,
      const Again& again, const std::function<void()>& prepare = [] {}) {
    EachPlace(what, prepare, request, [&](const absl::Status& status) {
      if (!c.connected()) {
        ASSERT_THAT(c.Connect(), IsOk());
      }
      again(status);
      ExpectUnharmed(what);
    });
  }
  // Deletes what is there, and creates it again.
  void MakeAgain(Container& c, const task::CreateTaskRequest& request) {
    End(c);
    ASSERT_THAT(c.Create(request), IsOk());
  }
  void EachCreation(Container& c, const task::CreateTaskRequest& request) {
    Remember();
    Each(
        "Create", c, [&] { return c.Create(request).status(); },
        [&](const absl::Status& status) {
          // Its connection has ended, or the answer was the one piece for which there was no memory
          // (it would have come from the reserve): it may be there, and containerd deletes it.
          const bool heard = !absl::IsUnavailable(status) && !absl::IsCancelled(status);
          if (!status.ok() && (!heard || GetParam() == MemoryGate::kOne) && c.State().ok())
            return End(c);
          if (!status.ok()) {
            EXPECT_TRUE(IsGone(c));
            // What could not be undone then is undone later, and holds the id until then.
            EXPECT_TRUE(RunUntil([&] { return c.Create(request).ok(); }));
          }
          End(c);
        });
    c.Disconnect();
    EXPECT_THAT(c.RemoveBundle(), IsOk());
    EXPECT_THAT(witness_->KillAndRemove(), IsOk());
  }
  // Whatever state it is in. One that nobody can know of goes by itself.
  void End(Container& c) {
    auto state = c.State();
    if (!state.ok()) {
      EXPECT_THAT(state, IsError(kNotFound, ""));
      return;
    }
    if (state->status() == PAUSED) {
      EXPECT_THAT(c.Resume(), IsOk());
    }
    const bool gone = absl::IsNotFound(c.Kill(SIGKILL));
    auto exit = c.Wait();
    if (exit.ok() && !gone) {
      EXPECT_EQ(exit->exit_status(), kKilled);
    }
    EXPECT_THAT(c.Delete(), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
  }
  // A creation of which the caller heard nothing good leaves nothing, in the end.
  bool IsGone(Container& c) {
    return RunUntil([&] { return absl::IsNotFound(c.State().status()); });
  }
  // Kills it, and waits until the shim has reaped it.
  void EndProcess(pid_t pid) {
    kill(pid, SIGKILL);
    EXPECT_TRUE(RunUntil([&] { return access(absl::StrCat("/proc/", pid).c_str(), F_OK) != 0; }));
  }
};
INSTANTIATE_TEST_SUITE_P(Of, RefusedMemory, kModes, ModeName);

TEST_P(RefusedMemory, LeavesNothingOfACreation) {
  StartWitness();
  Container& c = NewMember("a");
  EachCreation(c, c.CreateRequest());
}

TEST_P(RefusedMemory, LeavesNothingOfACreationWithALogger) {
  const std::string logger = WriteRuntime("logger", "exec 5>&-\nexec cat <&3 >/dev/null\n");
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  request.set_stdout("binary://" + logger);
  request.set_stderr("");
  EachCreation(c, request);
}

TEST_P(RefusedMemory, LetsAStartBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  ASSERT_THAT(c.Create(request), IsOk());
  Remember();
  Each(
      "Start", c, [&] { return c.Start().status(); },
      [&](const absl::Status&) {
        auto state = c.State();
        ASSERT_THAT(state, IsOk());
        if (state->status() == containerd::v1::types::CREATED) {
          // The OCI runtime may have started it before its end was lost.
          absl::Status started = c.Start().status();
          EXPECT_THAT(started, ::testing::AnyOf(IsOk(), IsError(kUnknown, "")));
        }
        MakeAgain(c, request);
      });
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(RefusedMemory, LetsARestorationBeRepeated) {
  settings_.runtime = WriteRuntime("restores", absl::StrCat(kRestores, "restore_or_run \"$@\"\n"));
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  request.set_checkpoint(ctrd().directory() + "/image");
  ASSERT_THAT(c.Create(request), IsOk());
  Remember();
  Each(
      "Start of a restored container", c, [&] { return c.Start().status(); },
      [&](const absl::Status&) {
        auto state = c.State();
        ASSERT_THAT(state, IsOk());
        if (state->status() == containerd::v1::types::CREATED) {
          EXPECT_EQ(state->pid(), 0u);
          EXPECT_THAT(c.Start(), IsOk());
        }
        MakeAgain(c, request);
      });
  EXPECT_THAT(c.Delete(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(RefusedMemory, LosesNoExitOfAnInit) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  ASSERT_THAT(c.Create(request), IsOk());
  Remember();
  pid_t pid = 0;
  Each(
      "the end of an init", c,
      [&] {
        EndProcess(pid);
        return c.State().status();
      },
      [&](const absl::Status&) {
        EXPECT_EQ(c.Wait()->exit_status(), kKilled);
        ExpectExitTold(pid);
        MakeAgain(c, request);
      },
      [&] { pid = static_cast<pid_t>(c.State()->pid()); });
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(RefusedMemory, LetsRequestsToARunningContainerBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Run(), IsOk());
  Remember();
  for (const auto& [name, request] : RequestsToRunning(c, ctrd().directory() + "/nowhere"))
    Each(name, c, request, [&](const absl::Status&) {
      auto state = c.State();
      ASSERT_THAT(state, IsOk());
      EXPECT_THAT(state->status(), ::testing::AnyOf(RUNNING, PAUSED));
      if (state->status() == PAUSED) {
        EXPECT_THAT(c.Resume(), IsOk());
      } else {
        // The OCI runtime may have done it after its end was lost; then this finds out.
        c.Pause().IgnoreError();
        EXPECT_THAT(c.Resume(), IsOk());
      }
    });
  EXPECT_THAT(c.Pause(), IsOk());
  Each(
      "Resume", c, [&] { return c.Resume(); },
      [&](const absl::Status&) {
        if (c.State()->status() == PAUSED) c.Resume().IgnoreError();
        EXPECT_EQ(c.State()->status(), RUNNING);
        ASSERT_THAT(c.Pause(), IsOk());
      });
  EXPECT_THAT(c.Resume(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(RefusedMemory, LeavesNothingOfAnExec) {
  StartWitness();
  Container& c = NewMember("a");
  ASSERT_THAT(c.Run(), IsOk());
  Remember();
  ContainerOptions streams;
  streams.in = true;
  auto add = c.ExecRequest("x", {"sleep", "1000"}, streams);
  auto end = [&](const absl::Status&) {
    auto state = c.State("x");
    if (!state.ok()) {
      EXPECT_THAT(state, IsError(kNotFound, ""));
      return;
    }
    if (state->status() == RUNNING) {
      EXPECT_THAT(c.Kill(SIGKILL, "x"), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
    }
    if (state->pid() != 0) {
      EXPECT_EQ(c.Wait("x")->exit_status(), kKilled);
    }
    EXPECT_THAT(c.Delete("x"), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
  };
  Each(
      "Exec", c, [&] { return c.Exec(add); },
      [&](const absl::Status& status) {
        // Who hears that it failed finds nothing.
        if (!status.ok() && !absl::IsUnavailable(status) && !absl::IsCancelled(status)) {
          EXPECT_THAT(c.State("x"), IsError(kNotFound, ""));
        }
        end(status);
      });
  Each(
      "Exec and its Start", c,
      [&] {
        absl::Status status = c.Exec(add);
        return status.ok() ? c.Start("x").status() : status;
      },
      end);
  pid_t pid = 0;
  Each(
      "the end of an exec", c,
      [&] {
        EndProcess(pid);
        return c.State().status();
      },
      [&](const absl::Status& status) {
        end(status);
        ExpectExitTold(pid);
      },
      [&] {
        ASSERT_THAT(c.Exec(add), IsOk());
        auto started = c.Start("x");
        ASSERT_THAT(started, IsOk());
        pid = static_cast<pid_t>(*started);
      });
  ASSERT_THAT(c.Exec(add), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EndProcess(static_cast<pid_t>(c.State("x")->pid()));
  EXPECT_THAT(c.Wait("x"), IsOk());
  Each(
      "Delete of an exec", c, [&] { return c.Delete("x").status(); },
      [&](const absl::Status& status) {
        end(status);
        ASSERT_THAT(c.Exec(add), IsOk());
      });
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

TEST_P(RefusedMemory, LetsAKillAndADeletionBeRepeated) {
  StartWitness();
  Container& c = NewMember("a");
  auto request = c.CreateRequest();
  ASSERT_THAT(c.Create(request), IsOk());
  Remember();
  Each(
      "Kill", c, [&] { return c.Kill(SIGKILL); },
      [&](const absl::Status&) { MakeAgain(c, request); });
  EXPECT_THAT(c.Kill(SIGKILL), IsOk());
  EXPECT_THAT(c.Wait(), IsOk());
  Remember();
  Each(
      "Delete", c, [&] { return c.Delete().status(); },
      [&](const absl::Status&) {
        EXPECT_THAT(c.Delete(), ::testing::AnyOf(IsOk(), IsError(kNotFound, "")));
        EXPECT_THAT(c.State(), IsError(kNotFound, ""));
        ASSERT_THAT(c.Create(request), IsOk());
        EXPECT_THAT(c.Kill(SIGKILL), IsOk());
        EXPECT_EQ(c.Wait()->exit_status(), kKilled);
      });
  EXPECT_THAT(c.Delete(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

// A process that nobody knows of by any other way: what the reading is woken by.
TEST_P(RefusedMemory, LosesNoOomKill) {
  StartWitness();
  ContainerOptions limited;
  limited.spec.patch = R"({"linux": {"resources": {"memory": {"limit": 50331648}}}})";
  Container& c = NewMember("a", limited);
  ASSERT_THAT(c.Run(), IsOk());
  Remember();
  auto cgroup = FindCgroup(static_cast<pid_t>(c.State()->pid()));
  ASSERT_THAT(cgroup, IsOk());
  const std::string directory = cgroup->unified ? cgroup->path : cgroup->controllers.at("memory");
  const std::string kill =
      absl::StrCat("sh -c 'echo $$ > ", directory,
                   "/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=200M count=1' 2>/dev/null");
  size_t kills = 0;
  // For want of memory to hear the answer, one may come twice.
  const auto told = [&] {
    std::set<absl::Time> published;
    for (const RecordedEvent& event : ctrd().events().events())
      if (event.topic == "/tasks/oom") published.insert(event.timestamp);
    return published.size();
  };
  Each(
      "the OOM kill of a process", c,
      [&] {
        EXPECT_NE(system(kill.c_str()), 0) << kill;  // NOLINT
        return c.State().status();
      },
      [&](const absl::Status&) {
        ++kills;
        EXPECT_TRUE(RunUntil([&] { return told() >= kills; })) << kills;
        EXPECT_EQ(told(), kills);
      });
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  EXPECT_THAT(witness_->KillAndRemove(), IsOk());
}

class RefusedSandbox : public Refused<SandboxTest> {
 protected:
  // A shim of its own, with a pod that has been created, and started.
  void NewPod(bool created, bool started) {
    shim_ = nullptr;
    EXPECT_THAT(Status(), IsError(kNotFound, ""));
    home_ = NamespaceOf(Shim().shim_pid(), "net");
    if (created) {
      ASSERT_THAT(Create(Config(), Network().path()), IsOk());
    }
    if (started) {
      ASSERT_THAT(Start(), IsOk());
    }
  }
  // Its life from any state, and its end.
  void EndPod() {
    if (!Shim().connected()) {
      ASSERT_THAT(Shim().Connect(), IsOk());
    }
    absl::Status created = Create(Config(), Network().path());
    EXPECT_THAT(created, ::testing::AnyOf(IsOk(), IsError(kAlreadyExists, "")));
    if (Status()->state() != "SANDBOX_READY") Start().IgnoreError();
    EXPECT_THAT(Stop(), IsOk());
    EXPECT_EQ(NamespaceOf(Shim().shim_pid(), "net"), home_);
    EXPECT_FALSE(std::filesystem::exists(Shim().bundle() + "/pod"));
    EXPECT_THAT(Shutdown(), IsOk());
  }
  std::string home_;
};
INSTANTIATE_TEST_SUITE_P(Of, RefusedSandbox, kModes, ModeName);

TEST_P(RefusedSandbox, LetsACreationBeRepeated) {
  EachPlace(
      "CreateSandbox", [&] { NewPod(false, false); },
      [&] { return Create(Config(), Network().path()); }, [&](const absl::Status&) { EndPod(); });
}

TEST_P(RefusedSandbox, LetsAStartBeRepeated) {
  EachPlace(
      "StartSandbox", [&] { NewPod(true, false); }, [&] { return Start().status(); },
      [&](const absl::Status&) {
        if (!Shim().connected()) {
          ASSERT_THAT(Shim().Connect(), IsOk());
        }
        EXPECT_THAT(Start(), IsOk());
        EXPECT_EQ(Status()->state(), "SANDBOX_READY");
        EndPod();
      });
}

TEST_P(RefusedSandbox, LetsAStopBeRepeated) {
  EachPlace(
      "StopSandbox", [&] { NewPod(true, true); }, [&] { return Stop(); },
      [&](const absl::Status&) { EndPod(); });
}

TEST_P(RefusedSandbox, LetsTheShimEnd) {
  const auto shut_down = [&] {
    return Call<api::ShutdownSandboxResponse>("ShutdownSandbox", api::ShutdownSandboxRequest())
        .status();
  };
  EachPlace(
      "ShutdownSandbox", [&] { NewPod(true, true); }, shut_down,
      [&](const absl::Status& status) {
        // Whatever the answer, the shim ends; but the request itself may have been the one piece
        // for which there was no memory (it would have come from the reserve).
        if (!status.ok() && GetParam() == MemoryGate::kOne) {
          if (Shim().connected() || Shim().Connect().ok()) shut_down().IgnoreError();
        }
        Shim().Disconnect();
        EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(Shim().shim_pid()).has_value(); }));
        EXPECT_THAT(Shim().RemoveBundle(), IsOk());
      });
}

TEST_P(RefusedSandbox, GoesOnAfterRequestsThatOnlyLook) {
  NewPod(true, true);
  const std::map<std::string, std::function<absl::Status()>> requests = {
      {"SandboxStatus", [&] { return Status().status(); }},
      {"PingSandbox",
       [&] { return Call<api::PingResponse>("PingSandbox", api::PingRequest()).status(); }},
      {"Platform",
       [&] { return Call<api::PlatformResponse>("Platform", api::PlatformRequest()).status(); }},
      {"SandboxMetrics", [&] {
         return Call<api::SandboxMetricsResponse>("SandboxMetrics", api::SandboxMetricsRequest())
             .status();
       }}};
  for (const auto& [name, request] : requests)
    EachPlace(
        name, [] {}, request,
        [&](const absl::Status&) {
          if (!Shim().connected()) {
            ASSERT_THAT(Shim().Connect(), IsOk());
          }
          EXPECT_EQ(Status()->state(), "SANDBOX_READY");
        });
  EndPod();
}

}  // namespace
}  // namespace feather::test
