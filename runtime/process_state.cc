#include "runtime/process_state.h"

#include <array>
#include <cstddef>

namespace feather {
namespace {

constexpr const char* kOk = nullptr;
constexpr size_t kStates = 7;
constexpr size_t kOperations = 9;
using Row = std::array<const char*, kOperations>;

// One row a state, one column an operation, in the order of the enums. Null: allowed.
constexpr std::array<Row, kStates> kInit = {{
    // kCreated
    {kOk, "cannot pause task in created state", "cannot resume task in created state", kOk,
     "cannot checkpoint a task in created state", kOk, kOk, kOk, kOk},
    // kCreatedCheckpoint
    {kOk, "cannot pause task in created state", "cannot resume task in created state", kOk,
     "cannot checkpoint a task in created state", "cannot exec in a created state", kOk, kOk, kOk},
    // kRunning
    {"cannot start a running process", kOk, "cannot resume a running process", kOk, kOk, kOk, kOk,
     "cannot delete a running process", kOk},
    // kPausing
    {"cannot start a running process", kOk, "cannot resume a running process", kOk, kOk, kOk, kOk,
     "cannot delete a running process", kOk},
    // kPaused
    {"cannot start a paused process", "cannot pause a paused container", kOk, kOk, kOk,
     "cannot exec in a paused state", kOk, "cannot delete a paused process", kOk},
    // kStopped
    {"cannot start a stopped process", "cannot pause a stopped container",
     "cannot resume a stopped container", "cannot update a stopped container",
     "cannot checkpoint a stopped container", "cannot exec in a stopped state", kOk, kOk, kOk},
    // kDeleted
    {"cannot start a deleted process", "cannot pause a deleted process",
     "cannot resume a deleted process", "cannot update a deleted process",
     "cannot checkpoint a deleted process", "cannot exec in a deleted state",
     "cannot kill a deleted process: not found", "cannot delete a deleted process: not found",
     "cannot resize a deleted process"},
}};

// An exec's operations are start, kill, delete and resize; the service offers no others for one.
constexpr const char* kNever = "not an operation of an exec";
constexpr std::array<Row, kStates> kExecs = {{
    // kCreated
    {kOk, kNever, kNever, kNever, kNever, kNever, kOk, kOk, kOk},
    // kCreatedCheckpoint
    {kNever, kNever, kNever, kNever, kNever, kNever, kNever, kNever, kNever},
    // kRunning
    {"cannot start a running process", kNever, kNever, kNever, kNever, kNever, kOk,
     "cannot delete a running process", kOk},
    // kPausing
    {kNever, kNever, kNever, kNever, kNever, kNever, kNever, kNever, kNever},
    // kPaused
    {kNever, kNever, kNever, kNever, kNever, kNever, kNever, kNever, kNever},
    // kStopped
    {"cannot start a stopped process", kNever, kNever, kNever, kNever, kNever, kOk, kOk,
     "cannot resize a stopped container"},
    // kDeleted
    {"cannot start a deleted process", kNever, kNever, kNever, kNever, kNever,
     "cannot kill a deleted process: not found", "cannot delete a deleted process: not found",
     "cannot resize a deleted process"},
}};

absl::Status Answer(const char* text, ProcessState state, Operation operation) {
  if (text == kOk) return absl::OkStatus();
  bool gone = state == ProcessState::kDeleted &&
              (operation == Operation::kKill || operation == Operation::kDelete);
  return gone ? absl::NotFoundError(text) : absl::UnknownError(text);
}

}  // namespace

absl::Status AllowedForInit(ProcessState state, Operation operation) {
  return Answer(kInit[static_cast<size_t>(state)][static_cast<size_t>(operation)], state,
                operation);
}

absl::Status AllowedForExec(ProcessState state, Operation operation) {
  return Answer(kExecs[static_cast<size_t>(state)][static_cast<size_t>(operation)], state,
                operation);
}

}  // namespace feather
