#include "runtime/io/streams.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <new>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

// Code Unknown whatever the error, which is how such a failure reaches containerd from a creation.
absl::Status OpenError(absl::string_view what, absl::string_view path, absl::string_view why) {
  return absl::UnknownError(
      absl::StrCat("containerd-shim: opening ", what, " \"", path, "\" failed: ", why));
}

void CloseDescriptor(const DescriptorPtr& descriptor) {
  asio::error_code ignored;
  if (descriptor) descriptor->close(ignored);
}

// What is copied by nobody has no copier, and its closing waits for nothing.
void SpawnOrForget(asio::io_context& io, std::shared_ptr<Copier>& copier,
                   const std::function<Async<>()>& run) {
  absl::Cleanup forget = [&copier] { copier.reset(); };
  Spawn(io, run());
  std::move(forget).Cancel();
}

// The errno of what has ended it early, or 0.
Async<int> RunCopier(std::shared_ptr<Copier> copier) {
  try {
    co_await copier->Run();
  } catch (const std::bad_alloc&) {
    co_return ENOMEM;
  }
  co_return copier->error();
}

}  // namespace

Async<absl::Status> OutputStream::OpenPath(UniqueFd handle, std::string path,
                                           Clock::time_point deadline) {
  std::shared_ptr<OutputStream> self = shared_from_this();
  path_ = std::move(path);
  UniqueFd sink;
  if (IsFifo(handle.get())) {
    absl::StatusOr<UniqueFd> writer = co_await OpenFifoWriter(handle.get(), deadline, &given_up_);
    if (absl::IsUnknown(writer.status()))
      co_return OpenError("w/o fifo", path_, writer.status().message());
    CO_RETURN_IF_ERROR(writer.status());
    own_reader_ = Reopen(handle.get(), O_RDONLY);
    if (!own_reader_) co_return OpenError("r/o fifo", path_, ErrnoText(errno));
    sink = *std::move(writer);
  } else {
    sink = Reopen(handle.get(), O_WRONLY | O_APPEND);
    if (!sink) co_return OpenError("file", path_, ErrnoText(errno));
  }
  CO_ASSIGN_OR_RETURN(sink_, MakeDescriptor(io_, std::move(sink)));
  co_return absl::OkStatus();
}

absl::Status OutputStream::OpenPipe(UniqueFd pipe) {
  ASSIGN_OR_RETURN(sink_, MakeDescriptor(io_, std::move(pipe)));
  return absl::OkStatus();
}

void OutputStream::Start(DescriptorPtr source, bool terminal) {
  source_ = std::move(source);
  Copier::Options options;
  options.from_terminal = terminal;
  copier_ = std::make_shared<Copier>(io_, source_, sink_, options);
  SpawnOrForget(io_, copier_, [this] { return Run(shared_from_this()); });
}

Async<> OutputStream::Run(std::shared_ptr<OutputStream> self) {
  // Also when there is no memory to go on with: whoever closes the stream waits for this.
  absl::Cleanup over = [self] {
    self->own_reader_.Reset();
    CloseDescriptor(self->source_);
    CloseDescriptor(self->sink_);
    self->done_.Set();
  };
  const int error = co_await RunCopier(self->copier_);
  if (error != 0)
    LogWarning("copying the output of a process has ended early",
               {{"path", self->path_}, {"error", ErrnoText(error)}});
  CloseDescriptor(self->source_);
  if (self->own_reader_) {
    self->own_reader_.Reset();
    co_await self->WaitForClient();
  }
}

// The kernel tells a writer nothing of an open(2) for reading, so it is asked now and then.
Async<> OutputStream::WaitForClient() {
  Clock::duration pause = std::chrono::milliseconds(10);
  while (!closed_.set() && !abandoned_.set() && !HasReader(sink_->native_handle())) {
    std::vector<Event*> events;
    events.push_back(&closed_);
    events.push_back(&abandoned_);
    co_await WaitAny(std::move(events), Clock::now() + pause);
    pause = std::min<Clock::duration>(pause * 2, std::chrono::seconds(1));
  }
}

void OutputStream::EndWhenEmpty() {
  if (copier_) copier_->EndWhenEmpty();
}

void OutputStream::Abandon() { abandoned_.Set(); }

Async<bool> OutputStream::WaitForEnd(Clock::time_point deadline) {
  std::shared_ptr<OutputStream> self = shared_from_this();
  if (!copier_) co_return true;
  co_return co_await done_.WaitUntil(deadline);
}

Async<> OutputStream::Close() {
  std::shared_ptr<OutputStream> self = shared_from_this();
  closed_.Set();
  given_up_.Set();
  if (copier_) copier_->Stop();
  own_reader_.Reset();
  CloseDescriptor(source_);
  CloseDescriptor(sink_);
  if (copier_) co_await done_.Wait();
}

absl::Status InputStream::OpenPath(UniqueFd handle, const std::string& path) {
  path_ = path;
  auto failed = [&path](int error) {
    return absl::UnknownError(
        absl::StrCat("failed to open stdin fifo ", path, ": ", ErrnoText(error)));
  };
  UniqueFd reader = Reopen(handle.get(), O_RDONLY);
  if (!reader) return failed(errno);
  if (IsFifo(handle.get()) && !writer_closed_) {
    own_writer_ = Reopen(handle.get(), O_WRONLY);
    if (!own_writer_) return failed(errno);
  }
  ASSIGN_OR_RETURN(source_, MakeDescriptor(io_, std::move(reader)));
  return absl::OkStatus();
}

void InputStream::Start(DescriptorPtr sink, bool terminal, std::function<void()> ended) {
  sink_ = std::move(sink);
  terminal_ = terminal;
  ended_ = std::move(ended);
  Copier::Options options;
  options.to_terminal = terminal;
  copier_ = std::make_shared<Copier>(io_, source_, sink_, options);
  SpawnOrForget(io_, copier_, [this] { return Run(shared_from_this()); });
}

Async<> InputStream::Run(std::shared_ptr<InputStream> self) {
  absl::Cleanup over = [self] {
    self->own_writer_.Reset();
    CloseDescriptor(self->source_);
    if (!self->terminal_) CloseDescriptor(self->sink_);
    if (self->ended_) std::exchange(self->ended_, nullptr)();
    self->done_.Set();
  };
  const int error = co_await RunCopier(self->copier_);
  // A process that has closed its stdin is no fault.
  if (error != 0 && error != EPIPE)
    LogWarning("copying the stdin of a process has ended early",
               {{"path", self->path_}, {"error", ErrnoText(error)}});
}

void InputStream::CloseWriter() {
  writer_closed_ = true;
  own_writer_.Reset();
}

Async<> InputStream::Close() {
  std::shared_ptr<InputStream> self = shared_from_this();
  CloseWriter();
  if (copier_) copier_->Stop();
  CloseDescriptor(source_);
  CloseDescriptor(sink_);
  if (copier_) co_await done_.Wait();
}

}  // namespace feather
