#include "runtime/io/terminal_stdio.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/io/fifo.h"

namespace feather {

TerminalStdio::TerminalStdio(asio::io_context& io, Reaper& reaper, StdioLimits limits,
                             std::shared_ptr<Logger> logger)
    : io_(io),
      reaper_(reaper),
      limits_(limits),
      logger_(std::move(logger)),
      output_(std::make_shared<OutputStream>(io)) {
  if (!logger_) return;
  // Only the terminal writes into it.
  logger_->TakeContainersEnd(0).Reset();
  logger_->TakeContainersEnd(1).Reset();
}

absl::Status TerminalStdio::Open(const StdioRequest& request) {
  if (!request.in.empty()) {
    ASSIGN_OR_RETURN(input_handle_, OpenHandle(request.in));
    input_path_ = request.in;
    input_ = std::make_shared<InputStream>(io_);
  }
  if (!logger_) {
    output_path_ = request.out.empty() ? "/dev/null" : request.out;
    ASSIGN_OR_RETURN(output_handle_, OpenHandle(output_path_));
  }
  ASSIGN_OR_RETURN(socket_, ConsoleSocket::Listen(io_));
  return absl::OkStatus();
}

Async<absl::Status> TerminalStdio::Attach() {
  std::shared_ptr<TerminalStdio> self = shared_from_this();
  absl::Status status = co_await ReceiveMaster();
  if (!status.ok()) co_return Annotate(status, "failed to retrieve console master");
  status = co_await StartCopying();
  if (absl::IsDeadlineExceeded(status)) co_return status;
  co_return Annotate(status, "failed to start console copy");
}

Async<absl::Status> TerminalStdio::ReceiveMaster() {
  if (closed_) co_return absl::CancelledError("the streams have been closed");
  absl::StatusOr<UniqueFd> master = co_await socket_->Receive(Clock::now() + limits_.console);
  CO_RETURN_IF_ERROR(master.status());
  if (closed_) co_return absl::CancelledError("the streams have been closed");
  CO_RETURN_IF_ERROR(SetNonBlocking(master->get()));
  CO_ASSIGN_OR_RETURN(master_, MakeDescriptor(io_, *std::move(master)));
  co_return absl::OkStatus();
}

Async<absl::Status> TerminalStdio::OpenOutput() {
  if (logger_) co_return output_->OpenPipe(logger_->TakeOwnEnd(0));
  if (!IsRegularFile(output_handle_.get())) {
    Clock::time_point deadline = Clock::now() + limits_.open;
    absl::Status opened =
        co_await output_->OpenPath(std::move(output_handle_), output_path_, deadline);
    co_return opened;
  }
  CO_ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  CO_RETURN_IF_ERROR(SetNonBlocking(pipe.write.get()));
  file_ = std::make_shared<FileOutput>();
  file_->Start(io_, reaper_, std::move(pipe.read), std::move(output_handle_), output_path_);
  co_return output_->OpenPipe(std::move(pipe.write));
}

Async<absl::Status> TerminalStdio::StartCopying() {
  if (input_) CO_RETURN_IF_ERROR(input_->OpenPath(std::move(input_handle_), input_path_));
  absl::Status opened = co_await OpenOutput();
  CO_RETURN_IF_ERROR(opened);
  if (closed_) co_return absl::CancelledError("the streams have been closed");
  output_->Start(master_, /*terminal=*/true);
  if (exited_) output_->EndWhenEmpty();
  if (input_)
    input_->Start(master_, /*terminal=*/true, [output = output_] { output->EndWhenEmpty(); });
  co_return absl::OkStatus();
}

void TerminalStdio::CloseStdin() {
  if (input_) input_->CloseWriter();
}

absl::Status TerminalStdio::Resize(uint16_t width, uint16_t height) {
  if (!master_ || !master_->is_open()) return absl::OkStatus();
  winsize size = {};
  size.ws_col = width;
  size.ws_row = height;
  if (ioctl(master_->native_handle(), TIOCSWINSZ, &size) < 0)
    return ErrnoError(errno, "resize the terminal");
  return absl::OkStatus();
}

void TerminalStdio::ProcessExited() {
  exited_ = true;
  output_->MoveNow();
  output_->EndWhenEmpty();
}

Async<bool> TerminalStdio::Drain(Clock::duration limit) {
  std::shared_ptr<TerminalStdio> self = shared_from_this();
  Clock::time_point deadline = Clock::now() + limit;
  output_->Abandon();
  bool ended = co_await output_->WaitForEnd(deadline);
  // Its pipe has ended with the stream.
  if (ended && file_) ended = co_await file_->WaitForEnd(deadline);
  co_return ended;
}

Async<> TerminalStdio::Close() {
  std::shared_ptr<TerminalStdio> self = shared_from_this();
  closed_ = true;
  if (socket_) socket_->Close();
  asio::error_code ignored;
  if (master_) master_->close(ignored);
  input_handle_.Reset();
  output_handle_.Reset();
  if (input_) co_await input_->Close();
  co_await output_->Close();
  if (file_) co_await file_->Close();
  if (logger_) co_await logger_->End(/*terminate=*/false);
}

}  // namespace feather
