// The state tables of the contract (section 4.2): every operation in every state of an init and of
// an exec, with code and text.
#include <signal.h>

#include <string>

#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using Empty = google::protobuf::Empty;

// In the order of the columns below; an exec has those that do not concern the whole container.
enum Operation {
  kStart,
  kPause,
  kResume,
  kUpdate,
  kCheckpoint,
  kExec,
  kKill,
  kDelete,
  kResize,
  kCloseIO,
  kOperations
};
constexpr const char* kNames[kOperations] = {"Start", "Pause", "Resume", "Update",    "Checkpoint",
                                             "Exec",  "Kill",  "Delete", "ResizePty", "CloseIO"};

absl::Status Do(Container& c, Operation operation, const std::string& exec) {
  switch (operation) {
    case kStart:
      return c.Start(exec).status();
    case kPause:
      return c.Pause();
    case kResume:
      return c.Resume();
    case kUpdate: {
      task::UpdateTaskRequest request;
      request.set_id(c.id());
      request.mutable_resources()->set_value("{}");
      return c.Call<Empty>("Update", request).status();
    }
    case kCheckpoint: {
      task::CheckpointTaskRequest request;
      request.set_id(c.id());
      request.set_path("/image");
      return c.Call<Empty>("Checkpoint", request).status();
    }
    case kExec:
      return c.Exec(exec.empty() ? "new" : exec, {"true"});
    case kKill:
      return c.Kill(SIGKILL, exec);
    case kDelete:
      return c.Delete(exec).status();
    case kResize:
      return c.ResizePty(80, 24, exec);
    case kCloseIO:
      return c.CloseIO(exec);
    default:
      return absl::InternalError("no such operation");
  }
}

// An empty text: allowed.
struct Cell {
  absl::StatusCode code = absl::StatusCode::kOk;
  const char* text = "";
};
constexpr Cell kOk;
constexpr Cell U(const char* text) { return {kUnknown, text}; }
constexpr Cell kNone = {kNotFound, "container not created: not found"};
constexpr Cell kNoExec = {kNotFound, "process does not exist x: not found"};
constexpr Cell kFinished = {kNotFound, "process already finished: not found"};
constexpr Cell kTaken = {kAlreadyExists, "id x: already exists"};

struct Row {
  const char* state;
  Cell cells[kOperations];
};
constexpr Row kInit[] = {
    {"created",
     {kOk, U("cannot pause task in created state"), U("cannot resume task in created state"), kOk,
      U("cannot checkpoint a task in created state"), kOk, kOk, kOk, kOk, kOk}},
    {"created from a checkpoint",
     {U("OCI runtime restore failed: unable to restore"),
      U("cannot pause task in created state"),
      U("cannot resume task in created state"),
      kOk,
      U("cannot checkpoint a task in created state"),
      U("cannot exec in a created state"),
      {kNotFound, "no such container: not found"},
      kOk,
      kOk,
      kOk}},
    {"running",
     {U("cannot start a running process"), kOk, U("cannot resume a running process"), kOk, kOk, kOk,
      kOk, U("cannot delete a running process"), kOk, kOk}},
    {"paused",
     {U("cannot start a paused process"), U("cannot pause a paused container"), kOk, kOk, kOk,
      U("cannot exec in a paused state"), kOk, U("cannot delete a paused process"), kOk, kOk}},
    {"stopped",
     {U("cannot start a stopped process"), U("cannot pause a stopped container"),
      U("cannot resume a stopped container"), U("cannot update a stopped container"),
      U("cannot checkpoint a stopped container"), U("cannot exec in a stopped state"), kFinished,
      kOk, kOk, kOk}},
    {"deleted", {kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone}},
};
// Pause to Checkpoint know no execs; Exec is that of the same id.
constexpr Row kExecs[] = {
    {"created",
     {kOk,
      kOk,
      kOk,
      kOk,
      kOk,
      kTaken,
      {kFailedPrecondition, "process not created: failed precondition"},
      kOk,
      kOk,
      kOk}},
    {"running",
     {U("cannot start a running process"), kOk, kOk, kOk, kOk, kTaken, kOk,
      U("cannot delete a running process"), kOk, kOk}},
    {"stopped",
     {U("cannot start a stopped process"), kOk, kOk, kOk, kOk, kTaken, kFinished, kOk,
      U("cannot resize a stopped container"), kOk}},
    {"deleted", {kNoExec, kOk, kOk, kOk, kOk, kOk, kNoExec, kNoExec, kNoExec, kNoExec}},
};

// runc, but for what needs CRIU or another cgroup.
constexpr char kRuntime[] = R"(
case " $* " in
*" update "*) cat >/dev/null; exit 0;;
*" checkpoint "*) exit 0;;
*" restore "*)
  while [ "$1" != --log ]; do shift; done
  echo '{"level": "error", "msg": "unable to restore"}' >> "$2"
  exit 1;;
esac
exec runc "$@"
)";

class StateTable : public ShimTest {
 protected:
  void SetUp() override { settings_.runtime = WriteRuntime("runtime", kRuntime); }

  Container& InState(const std::string& state, bool exec) {
    Container& c = New("c" + std::to_string(++made_));
    if (exec) {
      EXPECT_THAT(c.Run(), IsOk());
      EXPECT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
      if (state == "running" || state == "stopped") {
        EXPECT_THAT(c.Start("x"), IsOk());
      }
      if (state == "stopped") {
        EXPECT_THAT(c.Kill(SIGKILL, "x"), IsOk());
        EXPECT_THAT(c.Wait("x"), IsOk());
      }
      if (state == "deleted") {
        EXPECT_THAT(c.Delete("x"), IsOk());
      }
      return c;
    }
    task::CreateTaskRequest request = c.CreateRequest();
    if (state == "created from a checkpoint") request.set_checkpoint("/image");
    EXPECT_THAT(c.Create(request), IsOk());
    if (state == "running" || state == "paused") {
      EXPECT_THAT(c.Start(), IsOk());
    }
    if (state == "paused") {
      EXPECT_THAT(c.Pause(), IsOk());
    }
    if (state == "stopped" || state == "deleted") {
      EXPECT_THAT(c.Kill(SIGKILL), IsOk());
      EXPECT_THAT(c.Wait(), IsOk());
    }
    if (state == "deleted") {
      EXPECT_THAT(c.Delete(), IsOk());
    }
    return c;
  }

  void End(Container& c) {
    c.Kill(SIGKILL).IgnoreError();
    auto state = c.State();
    if (state.ok() && state->pid() != 0) {
      EXPECT_THAT(c.Wait(), IsOk());
    }
    if (state.ok()) {
      EXPECT_THAT(c.Delete(), IsOk());
    }
    EXPECT_THAT(c.Shutdown(), IsOk());
    c.Disconnect();
    EXPECT_THAT(c.RemoveBundle(), IsOk());
  }

  void Walk(const Row& row, bool is_exec) {
    const std::string exec = is_exec ? "x" : "";
    auto concerns = [is_exec](int i) { return !is_exec || i < kPause || i > kCheckpoint; };
    auto expect = [&](Container& c, int i) {
      absl::Status status = Do(c, static_cast<Operation>(i), exec);
      EXPECT_EQ(status, absl::Status(row.cells[i].code, row.cells[i].text))
          << kNames[i] << " of " << (is_exec ? "an exec" : "an init") << " that is " << row.state;
    };
    // What is refused changes nothing.
    Container& refusing = InState(row.state, is_exec);
    auto before = refusing.State(exec);
    for (int i = 0; i < kOperations; ++i)
      if (concerns(i) && row.cells[i].code != absl::StatusCode::kOk) expect(refusing, i);
    auto after = refusing.State(exec);
    EXPECT_EQ(before.status(), after.status()) << row.state;
    if (before.ok() && after.ok()) {
      EXPECT_EQ(before->status(), after->status()) << row.state;
    }
    End(refusing);
    for (int i = 0; i < kOperations; ++i) {
      if (!concerns(i) || row.cells[i].code != absl::StatusCode::kOk) continue;
      Container& c = InState(row.state, is_exec);
      expect(c, i);
      End(c);
    }
  }

 private:
  int made_ = 0;
};

// Checklist: E6, K3, K4.
TEST_F(StateTable, OfAnInit) {
  for (const Row& row : kInit) Walk(row, false);
}

// Checklist: E6, K3, K4.
TEST_F(StateTable, OfAnExec) {
  for (const Row& row : kExecs) Walk(row, true);
}

}  // namespace
}  // namespace feather::test
