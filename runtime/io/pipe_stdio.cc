#include "runtime/io/pipe_stdio.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

absl::StatusOr<ChildPipe> Divide(UniqueFd ours, UniqueFd childs, const Stdio::Owner& owner) {
  RETURN_IF_ERROR(SetNonBlocking(ours.get()));
  RETURN_IF_ERROR(ChangeOwner(childs.get(), owner.uid, owner.gid));
  ChildPipe pipe;
  pipe.ours = std::move(ours);
  pipe.childs = std::move(childs);
  return pipe;
}

}  // namespace

absl::StatusOr<ChildPipe> MakeOutputPipe(const Stdio::Owner& owner) {
  ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  return Divide(std::move(pipe.read), std::move(pipe.write), owner);
}

absl::StatusOr<ChildPipe> MakeInputPipe(const Stdio::Owner& owner) {
  ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  return Divide(std::move(pipe.write), std::move(pipe.read), owner);
}

absl::Status PipeStdio::Open(const StdioRequest& request, const Owner& owner) {
  if (!request.in.empty()) RETURN_IF_ERROR(OpenInput(request.in, owner));
  RETURN_IF_ERROR(OpenOutput(request.out, owner, &outputs_[0], &child_fds_[1]));
  return OpenOutput(request.err, owner, &outputs_[1], &child_fds_[2]);
}

absl::Status PipeStdio::OpenInput(const std::string& path, const Owner& owner) {
  absl::StatusOr<UniqueFd> handle = OpenHandle(path);
  if (!handle.ok())
    return absl::UnknownError(
        absl::StrCat("failed to open stdin fifo ", path, ": ", handle.status().message()));
  ASSIGN_OR_RETURN(ChildPipe pipe, MakeInputPipe(owner));
  input_path_ = path;
  input_handle_ = *std::move(handle);
  input_pipe_ = std::move(pipe.ours);
  child_fds_[0] = std::move(pipe.childs);
  input_ = std::make_shared<InputStream>(io_);
  return absl::OkStatus();
}

absl::Status PipeStdio::OpenOutput(const std::string& path, const Owner& owner, Output* output,
                                   UniqueFd* childs) {
  if (path.empty()) {
    ASSIGN_OR_RETURN(*childs, OpenFile("/dev/null", O_RDWR));
    return absl::OkStatus();
  }
  absl::StatusOr<UniqueFd> handle = OpenHandle(path);
  if (!handle.ok())
    return absl::UnknownError(absl::StrCat("containerd-shim: opening file \"", path,
                                           "\" failed: ", handle.status().message()));
  ASSIGN_OR_RETURN(ChildPipe pipe, MakeOutputPipe(owner));
  output->path = path;
  output->handle = *std::move(handle);
  output->pipe = std::move(pipe.ours);
  output->stream = std::make_shared<OutputStream>(io_);
  *childs = std::move(pipe.childs);
  return absl::OkStatus();
}

std::array<int, 3> PipeStdio::child_fds() const {
  return {child_fds_[0].get(), child_fds_[1].get(), child_fds_[2].get()};
}

void PipeStdio::RuntimeStarted() {
  for (UniqueFd& fd : child_fds_) fd.Reset();
}

Async<absl::Status> PipeStdio::Attach() {
  std::shared_ptr<PipeStdio> self = shared_from_this();
  Clock::time_point deadline = Clock::now() + limits_.open;
  if (closed_) co_return absl::CancelledError("the streams have been closed");
  if (input_) CO_RETURN_IF_ERROR(StartInput());
  for (Output& output : outputs_)
    if (output.stream) CO_RETURN_IF_ERROR(co_await StartOutput(&output, deadline));
  co_return absl::OkStatus();
}

void PipeStdio::GiveUpOpening() {
  for (Output& output : outputs_)
    if (output.stream) output.stream->GiveUpOpening();
}

absl::Status PipeStdio::StartInput() {
  RETURN_IF_ERROR(input_->OpenPath(std::move(input_handle_), input_path_));
  ASSIGN_OR_RETURN(DescriptorPtr sink, MakeDescriptor(io_, std::move(input_pipe_)));
  input_->Start(std::move(sink), /*terminal=*/false, nullptr);
  return absl::OkStatus();
}

Async<absl::Status> PipeStdio::StartOutput(Output* output, Clock::time_point deadline) {
  if (IsRegularFile(output->handle.get())) {
    output->file = std::make_shared<FileOutput>();
    output->file->Start(io_, reaper_, std::move(output->pipe), std::move(output->handle),
                        output->path);
    co_return absl::OkStatus();
  }
  absl::Status opened =
      co_await output->stream->OpenPath(std::move(output->handle), output->path, deadline);
  CO_RETURN_IF_ERROR(opened);
  if (closed_) co_return absl::CancelledError("the streams have been closed");
  CO_ASSIGN_OR_RETURN(DescriptorPtr source, MakeDescriptor(io_, std::move(output->pipe)));
  output->stream->Start(std::move(source), /*terminal=*/false);
  co_return absl::OkStatus();
}

void PipeStdio::CloseStdin() {
  if (input_) input_->CloseWriter();
}

void PipeStdio::ProcessExited() {
  for (Output& output : outputs_)
    if (output.stream) output.stream->MoveNow();
}

Async<bool> PipeStdio::Drain(Clock::duration limit) {
  std::shared_ptr<PipeStdio> self = shared_from_this();
  Clock::time_point deadline = Clock::now() + limit;
  for (Output& output : outputs_)
    if (output.stream) output.stream->Abandon();
  bool all = true;
  for (Output& output : outputs_) {
    bool ended = true;
    if (output.file) {
      ended = co_await output.file->WaitForEnd(deadline);
    } else if (output.stream) {
      ended = co_await output.stream->WaitForEnd(deadline);
    }
    all = all && ended;
  }
  co_return all;
}

Async<> PipeStdio::Close() {
  std::shared_ptr<PipeStdio> self = shared_from_this();
  closed_ = true;
  RuntimeStarted();
  input_handle_.Reset();
  input_pipe_.Reset();
  for (Output& output : outputs_) {
    output.handle.Reset();
    output.pipe.Reset();
  }
  if (input_) co_await input_->Close();
  for (Output& output : outputs_) {
    if (output.stream) co_await output.stream->Close();
    if (output.file) co_await output.file->Close();
  }
}

}  // namespace feather
