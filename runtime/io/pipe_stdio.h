#pragma once

#include <array>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/io/file_output.h"
#include "runtime/io/stdio.h"
#include "runtime/io/streams.h"

namespace feather {

// A pipe whose one end the OCI runtime hands to the process; that end belongs to the container's
// user (fchown(2)), and its open file description is the container's alone.
struct ChildPipe {
  UniqueFd ours;    // non-blocking
  UniqueFd childs;  // blocking
};
absl::StatusOr<ChildPipe> MakeOutputPipe(const Stdio::Owner& owner);
absl::StatusOr<ChildPipe> MakeInputPipe(const Stdio::Owner& owner);

// Null and FIFO mode, and appending to files: a pipe for each stream that is named, /dev/null for
// the others.
class PipeStdio : public Stdio, public std::enable_shared_from_this<PipeStdio> {
 public:
  PipeStdio(asio::io_context& io, Reaper& reaper, StdioLimits limits)
      : io_(io), reaper_(reaper), limits_(limits) {}

  // Paths in `request`. The files exist.
  absl::Status Open(const StdioRequest& request, const Owner& owner);

  std::array<int, 3> child_fds() const override;
  std::string console_socket() const override { return ""; }
  void RuntimeStarted() override;
  Async<absl::Status> Attach() override;
  void GiveUpOpening() override;
  void CloseStdin() override;
  absl::Status Resize(uint16_t, uint16_t) override { return absl::OkStatus(); }
  void ProcessExited() override;
  Async<bool> Drain(Clock::duration limit) override;
  Async<> Close() override;

 private:
  struct Output {
    std::string path;
    UniqueFd handle;  // O_PATH, until Attach
    UniqueFd pipe;    // until Attach
    std::shared_ptr<OutputStream> stream;
    std::shared_ptr<FileOutput> file;  // instead of it, from Attach on
  };
  absl::Status OpenInput(const std::string& path, const Owner& owner);
  absl::Status OpenOutput(const std::string& path, const Owner& owner, Output* output,
                          UniqueFd* childs);
  absl::Status StartInput();
  Async<absl::Status> StartOutput(Output* output, Clock::time_point deadline);

  asio::io_context& io_;
  Reaper& reaper_;
  const StdioLimits limits_;
  std::array<UniqueFd, 3> child_fds_;
  std::string input_path_;
  UniqueFd input_handle_;
  UniqueFd input_pipe_;
  std::shared_ptr<InputStream> input_;
  std::array<Output, 2> outputs_;
  bool closed_ = false;
};

}  // namespace feather
