#include "runtime/process_state.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace feather {
namespace {

struct Row {
  ProcessState state;
  Operation operation;
  absl::StatusCode code;
  std::string text;
};

constexpr absl::StatusCode kOk = absl::StatusCode::kOk;
constexpr absl::StatusCode kUnknown = absl::StatusCode::kUnknown;
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;

using enum ProcessState;
using enum Operation;

TEST(ProcessState, AnswersEveryOperationOnAnInitAsTheContractSays) {
  const std::vector<Row> rows = {
      {kCreated, kStart, kOk, ""},
      {kCreated, kPause, kUnknown, "cannot pause task in created state"},
      {kCreated, kResume, kUnknown, "cannot resume task in created state"},
      {kCreated, kUpdate, kOk, ""},
      {kCreated, kCheckpoint, kUnknown, "cannot checkpoint a task in created state"},
      {kCreated, kExec, kOk, ""},
      {kCreated, kKill, kOk, ""},
      {kCreated, kDelete, kOk, ""},
      {kCreatedCheckpoint, kStart, kOk, ""},
      {kCreatedCheckpoint, kExec, kUnknown, "cannot exec in a created state"},
      {kCreatedCheckpoint, kDelete, kOk, ""},
      {kRunning, kStart, kUnknown, "cannot start a running process"},
      {kRunning, kPause, kOk, ""},
      {kRunning, kResume, kUnknown, "cannot resume a running process"},
      {kRunning, kUpdate, kOk, ""},
      {kRunning, kCheckpoint, kOk, ""},
      {kRunning, kExec, kOk, ""},
      {kRunning, kKill, kOk, ""},
      {kRunning, kDelete, kUnknown, "cannot delete a running process"},
      {kPaused, kStart, kUnknown, "cannot start a paused process"},
      {kPaused, kPause, kUnknown, "cannot pause a paused container"},
      {kPaused, kResume, kOk, ""},
      {kPaused, kUpdate, kOk, ""},
      {kPaused, kCheckpoint, kOk, ""},
      {kPaused, kExec, kUnknown, "cannot exec in a paused state"},
      {kPaused, kKill, kOk, ""},
      {kPaused, kDelete, kUnknown, "cannot delete a paused process"},
      {kStopped, kStart, kUnknown, "cannot start a stopped process"},
      {kStopped, kPause, kUnknown, "cannot pause a stopped container"},
      {kStopped, kResume, kUnknown, "cannot resume a stopped container"},
      {kStopped, kUpdate, kUnknown, "cannot update a stopped container"},
      {kStopped, kCheckpoint, kUnknown, "cannot checkpoint a stopped container"},
      {kStopped, kExec, kUnknown, "cannot exec in a stopped state"},
      {kStopped, kKill, kOk, ""},
      {kStopped, kDelete, kOk, ""},
      {kStopped, kResize, kOk, ""},
      {kDeleted, kStart, kUnknown, "cannot start a deleted process"},
      {kDeleted, kPause, kUnknown, "cannot pause a deleted process"},
      {kDeleted, kResume, kUnknown, "cannot resume a deleted process"},
      {kDeleted, kUpdate, kUnknown, "cannot update a deleted process"},
      {kDeleted, kCheckpoint, kUnknown, "cannot checkpoint a deleted process"},
      {kDeleted, kExec, kUnknown, "cannot exec in a deleted state"},
      {kDeleted, kKill, kNotFound, "cannot kill a deleted process: not found"},
      {kDeleted, kDelete, kNotFound, "cannot delete a deleted process: not found"},
      {kDeleted, kResize, kUnknown, "cannot resize a deleted process"},
  };
  for (const Row& row : rows) {
    absl::Status status = AllowedForInit(row.state, row.operation);
    EXPECT_EQ(status.code(), row.code) << row.text;
    EXPECT_EQ(status.message(), row.text);
  }
}

TEST(ProcessState, AnswersEveryOperationOnAnExecAsTheContractSays) {
  const std::vector<Row> rows = {
      {kCreated, kStart, kOk, ""},
      {kCreated, kResize, kOk, ""},
      {kCreated, kKill, kOk, ""},
      {kCreated, kDelete, kOk, ""},
      {kRunning, kStart, kUnknown, "cannot start a running process"},
      {kRunning, kResize, kOk, ""},
      {kRunning, kKill, kOk, ""},
      {kRunning, kDelete, kUnknown, "cannot delete a running process"},
      {kStopped, kStart, kUnknown, "cannot start a stopped process"},
      {kStopped, kResize, kUnknown, "cannot resize a stopped container"},
      {kStopped, kKill, kOk, ""},
      {kStopped, kDelete, kOk, ""},
      {kDeleted, kStart, kUnknown, "cannot start a deleted process"},
      {kDeleted, kResize, kUnknown, "cannot resize a deleted process"},
      {kDeleted, kKill, kNotFound, "cannot kill a deleted process: not found"},
      {kDeleted, kDelete, kNotFound, "cannot delete a deleted process: not found"},
  };
  for (const Row& row : rows) {
    absl::Status status = AllowedForExec(row.state, row.operation);
    EXPECT_EQ(status.code(), row.code) << row.text;
    EXPECT_EQ(status.message(), row.text);
  }
}

}  // namespace
}  // namespace feather
