#pragma once

#include <signal.h>

#include <chrono>
#include <functional>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "tests/support/proc.h"
#include "tests/support/shim_test.h"

namespace feather::test {

// Tests of what goes wrong with one container of a shim: another one, the witness, must not notice.
class WitnessTest : public ShimTest {
 protected:
  static ContainerOptions InPod(ContainerOptions options = {}) {
    const std::string own = options.spec.patch;
    options.spec.patch =
        absl::StrCat(R"({"annotations": {"io.containerd.runc.v2.group": "pod"})",
                     own.empty() ? "}" : absl::StrCat(",", own.substr(own.find('{') + 1)));
    return options;
  }
  // A container of the same shim, which must not notice anything.
  void StartWitness(ContainerOptions options = {}) {
    witness_ = &New("witness", InPod(std::move(options)));
    ASSERT_THAT(witness_->Run(), IsOk());
    shim_ = witness_->shim_pid();
    ASSERT_NE(shim_, 0);
    // What the shim opens once for all, its connection for events, is open then.
    ASSERT_TRUE(ctrd().WaitForEvent(
        [](const RecordedEvent& event) { return event.topic == "/tasks/start"; }));
  }
  size_t Descriptors() const {
    return feather::test::ListDirectory(absl::StrCat("/proc/", shim_, "/fd")).size();
  }
  // Children of the shim: inits and execs of its containers, OCI runtimes, loggers.
  std::vector<std::string> ChildrenOfTheShim() const {
    std::string path = absl::StrCat("/proc/", shim_, "/task/", shim_, "/children");
    return absl::StrSplit(ReadFile(path).value_or(""), ' ', absl::SkipEmpty());
  }
  void Remember() {
    descriptors_ = Descriptors();
    children_ = ChildrenOfTheShim().size();
  }
  // As it was at Remember, and alive.
  void ExpectUnharmed(const std::string& what) {
    auto state = witness_->State();
    ASSERT_THAT(state, IsOk()) << what;
    EXPECT_EQ(state->status(), containerd::v1::types::RUNNING) << what;
    // Fewer are no leak: the shim may have read a file while they were counted.
    EXPECT_TRUE(RunUntil([&] { return Descriptors() <= descriptors_; }))
        << what << ": " << descriptors_ << " descriptors before, " << Descriptors() << " after";
    EXPECT_TRUE(RunUntil([&] { return ChildrenOfTheShim().size() == children_; }))
        << what << ": " << ChildrenOfTheShim().size() << " children";
  }
  // The exit of this process is told; where the shim could not hear the answer, perhaps twice.
  void ExpectExitTold(pid_t pid) {
    EXPECT_TRUE(ctrd().WaitForEvent([pid](const RecordedEvent& event) {
      return event.topic == "/tasks/exit" && event.pid == static_cast<uint32_t>(pid);
    })) << pid;
  }
  // Those to a running container that leave it as it is, but for Pause. A checkpoint goes into
  // `image`; a Wait ends when its time is over.
  static std::map<std::string, std::function<absl::Status()>> RequestsToRunning(
      Container& c, const std::string& image) {
    using Empty = google::protobuf::Empty;
    task::UpdateTaskRequest update;
    update.set_id(c.id());
    update.mutable_resources()->set_value(R"({"pids": {"limit": 77}})");
    task::StatsRequest stats;
    stats.set_id(c.id());
    task::CheckpointTaskRequest checkpoint;
    checkpoint.set_id(c.id());
    checkpoint.set_path(image);
    return {{"Pause", [&c] { return c.Pause(); }},
            {"Update", [&c, update] { return c.Call<Empty>("Update", update).status(); }},
            {"Checkpoint",
             [&c, checkpoint] { return c.Call<Empty>("Checkpoint", checkpoint).status(); }},
            {"Stats", [&c, stats] { return c.Call<task::StatsResponse>("Stats", stats).status(); }},
            {"Pids", [&c] { return c.Pids().status(); }},
            {"State", [&c] { return c.State().status(); }},
            {"Connect", [&c] { return c.ConnectTask().status(); }},
            {"Wait",
             [&c] {
               absl::Status waited = c.Wait("", std::chrono::milliseconds(1)).status();
               return absl::IsDeadlineExceeded(waited) ? absl::OkStatus() : waited;
             }},
            {"ResizePty", [&c] { return c.ResizePty(100, 30); }},
            {"CloseIO", [&c] { return c.CloseIO(); }},
            // The shim is needed.
            {"Shutdown", [&c] { return c.Shutdown(); }},
            {"Kill", [&c] { return c.Kill(SIGWINCH); }}};
  }
  // Of the same shim; connected, with its bundle.
  Container& NewMember(const std::string& id, ContainerOptions options = {}) {
    Container& c = New(id, InPod(std::move(options)));
    // The shim has accepted it.
    EXPECT_THAT(c.ConnectTask(), IsOk());
    return c;
  }
  Container* witness_ = nullptr;
  pid_t shim_ = 0;
  size_t descriptors_ = 0;
  size_t children_ = 0;
};

}  // namespace feather::test
