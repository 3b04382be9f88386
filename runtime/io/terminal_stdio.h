#pragma once

#include <array>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "runtime/io/console_socket.h"
#include "runtime/io/file_output.h"
#include "runtime/io/logger.h"
#include "runtime/io/stdio.h"
#include "runtime/io/streams.h"
#include "runtime/reaper.h"

namespace feather {

// A process with a terminal. The runtime opens the pseudo-terminal and sends its master; what the
// process writes goes to the stdout FIFO, a file or a logger, the stdin FIFO goes to the process.
//
// That no process has the terminal open is not its end as long as the process lives; after
// ProcessExited it is. The end of stdin hangs the terminal up, as with the stock shim.
class TerminalStdio : public Stdio, public std::enable_shared_from_this<TerminalStdio> {
 public:
  // `logger` may be null; then request.out is a path, and an empty one discards.
  TerminalStdio(asio::io_context& io, Reaper& reaper, StdioLimits limits,
                std::shared_ptr<Logger> logger);

  absl::Status Open(const StdioRequest& request);

  std::array<int, 3> child_fds() const override { return {-1, -1, -1}; }
  std::string console_socket() const override { return socket_ ? socket_->path() : ""; }
  void RuntimeStarted() override {}
  Async<absl::Status> Attach() override;
  void GiveUpOpening() override { output_->GiveUpOpening(); }
  void CloseStdin() override;
  absl::Status Resize(uint16_t width, uint16_t height) override;
  void ProcessExited() override;
  Async<bool> Drain(Clock::duration limit) override;
  Async<> Close() override;

 private:
  Async<absl::Status> ReceiveMaster();
  Async<absl::Status> StartCopying();
  Async<absl::Status> OpenOutput();

  asio::io_context& io_;
  Reaper& reaper_;
  const StdioLimits limits_;
  std::shared_ptr<Logger> logger_;
  std::shared_ptr<ConsoleSocket> socket_;
  DescriptorPtr master_;
  std::string input_path_;
  UniqueFd input_handle_;
  std::shared_ptr<InputStream> input_;
  std::string output_path_;
  UniqueFd output_handle_;
  std::shared_ptr<OutputStream> output_;
  std::shared_ptr<FileOutput> file_;
  bool exited_ = false;
  bool closed_ = false;
};

}  // namespace feather
