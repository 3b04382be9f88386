// What is done to a whole container (Pause, Resume, Update, Checkpoint, Stats, Pids), in every
// state, beside the stock shims.
#include <signal.h>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/runc_options.pb.h"
#include "runtime/base/file.h"
#include "runtime/cgroup_metrics.h"
#include "tests/support/oracle.h"

namespace feather::test {
namespace {

using Empty = google::protobuf::Empty;
namespace v1 = io::containerd::cgroups::v1;

// runc, but for what needs CRIU or another cgroup: that is written down. An image path that ends in
// "broken" cannot be written to.
constexpr char kRecorder[] = R"(#!/bin/sh
case " $* " in
*" update "*) echo "$*" >> "$0.log"; cat >> "$0.log"; exit 0;;
*" restore "*) echo "$*" >> "$0.log"; exit 1;;
*" checkpoint "*)
  echo "$*" >> "$0.log"
  case " $* " in *"broken "*) ;; *) exit 0;; esac
  while [ "$1" != --work-path ]; do shift; done
  mkdir -p "$2"; echo "the dump's log" > "$2/dump.log"
  echo "criu failed: for the test" >&2; echo "a second line" >&2
  exit 1;;
esac
exec runc "$@"
)";

class OracleControl : public Oracle {
 protected:
  std::string Recorder() {
    std::string path = recorder_.path() + "/recorder";
    if (!WriteFile(path, kRecorder, 0755).ok()) throw std::runtime_error(path);
    return path;
  }

 private:
  TestDirectory recorder_;
};
INSTANTIATE_TEST_SUITE_P(Debian, OracleControl, kSuites, SuiteName);

// The lines that the recorder has written since the last call; JSON with sorted members.
void AddRecords(Transcript& t, const std::string& label, FakeContainerd& ctrd) {
  std::string file = ctrd.settings().runtime + ".log";
  std::string text = ReadFile(file).value_or("");
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    t.Add(label + " of the runtime", json.is_object() ? json.dump() : std::string(line));
  }
  unlink(file.c_str());
}

absl::Status Update(Container& c, const std::string& resources) {
  task::UpdateTaskRequest request;
  request.set_id(c.id());
  request.mutable_resources()->set_type_url(
      "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources");
  request.mutable_resources()->set_value(resources);
  return c.Call<Empty>("Update", request).status();
}

absl::Status Checkpoint(Container& c, const std::string& path,
                        const containerd::runc::v1::CheckpointOptions* options = nullptr) {
  task::CheckpointTaskRequest request;
  request.set_id(c.id());
  request.set_path(path);
  if (options != nullptr) {
    request.mutable_options()->set_type_url("containerd.runc.v1.CheckpointOptions");
    request.mutable_options()->set_value(options->SerializeAsString());
  }
  return c.Call<Empty>("Checkpoint", request).status();
}

absl::StatusOr<task::StatsResponse> Stats(Container& c) {
  task::StatsRequest request;
  request.set_id(c.id());
  return c.Call<task::StatsResponse>("Stats", request);
}

// Whatever does not leave the state.
void Probe(FakeContainerd& ctrd, Transcript& t, const std::string& state, Container& c) {
  std::string label = absl::StrCat("control ", state, ": ");
  if (state != "running") t.Add(label + "Pause", c.Pause());
  if (state != "paused") t.Add(label + "Resume", c.Resume());
  t.Add(label + "Update", Update(c, R"({"cpu": {"shares": 512}, "memory": {"limit": null}})"));
  t.Add(label + "Checkpoint", Checkpoint(c, "/images/x"));
  t.AddState(label + "State", c.State());
  auto stats = Stats(c);
  t.Add(label + "Stats", stats.ok() ? stats->stats().type_url() : "error");
  if (!stats.ok()) t.Add(label + "Stats' error", stats);
  AddRecords(t, label + "calls", ctrd);
}

// Checklist: X16, K4, E6, E7, R1.
TEST_P(OracleControl, AnswersInEveryStateAndEvents) {
  ExpectEqual(
      [](FakeContainerd& ctrd, Transcript& t) {
        Container& c = ctrd.New("a");
        Probe(ctrd, t, "unknown", c);
        t.NamePid(c.Create().value_or(0), "INIT");
        Probe(ctrd, t, "created", c);
        t.Add("Start", c.Start());
        Probe(ctrd, t, "running", c);
        t.Add("Exec", c.Exec("x", {"sleep", "1000"}));
        t.NamePid(c.Start("x").value_or(0), "EXEC");
        t.Add("Exec of another", c.Exec("y", {"true"}));
        t.Add("Pause", c.Pause());
        Probe(ctrd, t, "paused", c);
        t.Add("init paused: Start", c.Start());
        t.Add("init paused: Delete", c.Delete());
        t.Add("init paused: Exec", c.Exec("z", {"true"}));
        t.Add("init paused: ResizePty", c.ResizePty(80, 24));
        t.Add("init paused: CloseIO", c.CloseIO());
        t.AddState("exec paused: State", c.State("x"));
        t.AddState("created exec paused: State", c.State("y"));
        t.Add("exec paused: Delete", c.Delete("x"));
        t.Add("exec paused: ResizePty", c.ResizePty(80, 24, "x"));
        t.Add("created exec paused: Kill", c.Kill(SIGTERM, "y"));
        t.Add("Resume", c.Resume());
        t.AddState("resumed: State", c.State());
        t.AddState("exec resumed: State", c.State("x"));
        t.Add("Pause again", c.Pause());
        t.Add("Kill while paused", c.Kill(SIGKILL));
        t.AddExit("Wait exec", c.Wait("x"));
        t.AddExit("Wait", c.Wait());
        ctrd.WaitForExit("a", "a");
        Probe(ctrd, t, "stopped", c);
        t.AddDelete("Delete", c.Delete());
        ctrd.WaitForDelete("a");
        Probe(ctrd, t, "deleted", c);
        t.Add("Shutdown", c.Shutdown());
        c.Disconnect();
        t.AddEvents();
      },
      Recorder());
}

// Checklist: R3.
TEST_P(OracleControl, UpdateHandsTheWholeOfTheResourcesOn) {
  ExpectEqual(
      [](FakeContainerd& ctrd, Transcript& t) {
        Container& c = ctrd.New("a");
        t.Add("Run", c.Run());
        for (const char* resources :
             {R"({})", R"({"memory": {"limit": 1048576, "swap": -1, "oomKillPolicy": null}})",
              R"({"cpu": {"shares": 2, "quota": -1, "period": 100000, "cpus": "0"}})",
              R"({"unified": {"memory.high": "1", "io.max": ""}, "pids": {"limit": 7}})",
              R"({"hugepageLimits": [{"pageSize": "2MB", "limit": 18446744073709551615}],
                  "blockIO": {"weight": 10, "throttleReadBpsDevice":
                    [{"major": 8, "minor": 0, "rate": 1}]}, "network": null, "devices": null})",
              R"({"rdma": {"mlx5_1": {"hcaHandles": 3}}, "pids": null, "cpu": null})"}) {
          t.Add(absl::StrCat("Update ", resources), Update(c, resources));
          AddRecords(t, resources, ctrd);
        }
        t.Add("end", c.KillAndRemove());
      },
      Recorder());
}

// Checklist: R7.
TEST_P(OracleControl, CheckpointHandsItsOptionsOn) {
  ExpectEqual(
      [](FakeContainerd& ctrd, Transcript& t) {
        Container& c = ctrd.New("a");
        t.Add("Run", c.Run());
        containerd::runc::v1::CheckpointOptions options;
        t.Add("Checkpoint", Checkpoint(c, "/images/none", &options));
        options.set_exit(true);
        options.set_open_tcp(true);
        options.set_external_unix_sockets(true);
        options.set_terminal(true);
        options.set_file_locks(true);
        options.add_empty_namespaces("network");
        options.add_empty_namespaces("ipc");
        options.set_cgroups_mode("strict");
        t.Add("Checkpoint", Checkpoint(c, "/images/all", &options));
        options.Clear();
        options.set_work_path(ctrd.directory() + "/work");
        t.Add("Checkpoint", Checkpoint(c, "/images/work", &options));
        t.Add("Checkpoint", Checkpoint(c, "/images/broken", &options));
        t.AddBundle("bundle", c);
        options.Clear();
        t.Add("Checkpoint", Checkpoint(c, "/images/broken", &options));
        AddRecords(t, "checkpoint", ctrd);
        // No events: the stock shim may lose its last one in Shutdown.
        t.Add("end", c.KillAndRemove());
      },
      Recorder());
}

// Checklist: C15.
TEST_P(OracleControl, RestoreHandsItsArgumentsOn) {
  ExpectEqual(
      [](FakeContainerd& ctrd, Transcript& t) {
        Container& c = ctrd.New("a");
        task::CreateTaskRequest request = c.CreateRequest();
        request.set_checkpoint("/images/a");
        request.set_parent_checkpoint("/images/parent");
        auto pid = c.Create(request);
        t.Add("Create", absl::StrCat(pid.value_or(99), " ", pid.status().ToString()));
        t.AddState("State", c.State());
        t.Add("Pause", c.Pause());
        t.Add("Resume", c.Resume());
        t.Add("Checkpoint", Checkpoint(c, "/images/b"));
        t.Add("Exec", c.Exec("x", {"true"}));
        t.Add("Start", c.Start());
        AddRecords(t, "restore", ctrd);
        t.AddState("after a restore that failed: State", c.State());
        t.AddDelete("Delete", c.Delete());
        ctrd.WaitForDelete("a");
        t.Add("Shutdown", c.Shutdown());
        c.Disconnect();
        t.AddEvents();
      },
      Recorder());
}

std::string Numbers(const std::string& bytes) {
  return absl::StrCat(bytes.size(), " bytes: ", absl::BytesToHexString(bytes));
}

// Nothing changes in a paused container, once the kernel's own work for it is done: the stock
// shim's answer is compared with what feather reads from the same cgroup.
template <typename Metrics>
void ExpectSameMetrics(Container& c, absl::StatusOr<Metrics> (*read)(const Cgroup&)) {
  ASSERT_THAT(c.Pause(), IsOk());
  auto cgroup = FindCgroup(static_cast<pid_t>(c.State()->pid()));
  ASSERT_THAT(cgroup, IsOk());
  absl::StatusOr<Metrics> before = read(*cgroup);
  for (auto begin = Clock::now(); Clock::now() - begin < kLimit;) {
    auto stats = Stats(c);
    ASSERT_THAT(stats, IsOk());
    absl::StatusOr<Metrics> after = read(*cgroup);
    ASSERT_THAT(after, IsOk());
    if (before.ok() && before->SerializeAsString() == after->SerializeAsString()) {
      Metrics theirs;
      EXPECT_EQ(stats->stats().type_url(), theirs.GetTypeName());
      ASSERT_TRUE(theirs.ParseFromString(stats->stats().value()));
      EXPECT_EQ(Numbers(after->cpu().SerializeAsString()),
                Numbers(theirs.cpu().SerializeAsString()));
      EXPECT_EQ(Numbers(after->memory().SerializeAsString()),
                Numbers(theirs.memory().SerializeAsString()));
      EXPECT_EQ(Numbers(after->pids().SerializeAsString()),
                Numbers(theirs.pids().SerializeAsString()));
      EXPECT_EQ(Numbers(after->SerializeAsString()), Numbers(theirs.SerializeAsString()));
      return;
    }
    before = std::move(after);
  }
  FAIL() << "the cgroup's counters never came to rest";
}

// A container that has used memory, processors and a disk.
ContainerOptions Busy() {
  ContainerOptions options;
  options.spec.args = {"sh", "-c",
                       "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; "
                       "dd if=/dev/zero of=/f bs=64k count=16 conv=fsync 2>&1; sleep 1000"};
  options.spec.patch = R"({"linux": {"resources":
      {"memory": {"limit": 67108864}, "pids": {"limit": 32}, "cpu": {"quota": 50000}}}})";
  return options;
}

// Checklist: R5.
TEST_P(OracleControl, StatsHaveEveryFieldOfCgroup1) {
  FakeContainerd ctrd(SettingsFor(stock()));
  Container& c = ctrd.New("a", Busy());
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_TRUE(ctrd.loop().RunUntil(
      [&] { return absl::StrContains(c.stdio().out->data(), "records out"); }));
  auto cgroup = FindCgroup(static_cast<pid_t>(c.State()->pid()));
  ASSERT_THAT(cgroup, IsOk());
  if (cgroup->unified) {
    EXPECT_THAT(c.KillAndRemove(), IsOk());
    GTEST_SKIP() << "cgroup2 only";
  }
  ExpectSameMetrics<v1::Metrics>(c, [](const Cgroup& of) { return ReadMetricsV1(of); });
  EXPECT_THAT(c.Resume(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
