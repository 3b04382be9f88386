#include "runtime/io/stdio.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/child.h"
#include "runtime/io/logger.h"
#include "runtime/io/pipe_stdio.h"
#include "runtime/io/terminal_stdio.h"

namespace feather {
namespace {

using StdioPtr = std::shared_ptr<Stdio>;

absl::Status MakeParents(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    std::string directory = path.substr(0, slash);
    if (mkdir(directory.c_str(), 0755) < 0 && errno != EEXIST)
      return ErrnoError(errno, absl::StrCat("mkdir ", directory));
  }
  return absl::OkStatus();
}

// Blocks: the file may be on any file system.
absl::Status MakeLogFile(const std::string& path) {
  RETURN_IF_ERROR(MakeParents(path));
  return OpenFile(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0644).status();
}

bool IsLogger(const StdioUri& uri) { return uri.scheme == "binary" || uri.scheme == "binary-v2"; }

Async<absl::StatusOr<StdioPtr>> PrepareTerminal(asio::io_context* io, Reaper* reaper,
                                                StdioLimits limits, StdioRequest request,
                                                std::shared_ptr<Logger> logger) {
  auto terminal = std::make_shared<TerminalStdio>(*io, *reaper, limits, std::move(logger));
  if (absl::Status status = terminal->Open(request); !status.ok()) {
    co_await terminal->Close();
    co_return absl::UnknownError(status.message());
  }
  StdioPtr stdio = std::move(terminal);
  co_return stdio;
}

absl::StatusOr<StdioPtr> PreparePipes(asio::io_context& io, Reaper& reaper, StdioLimits limits,
                                      const StdioRequest& request, const Stdio::Owner& owner) {
  auto pipes = std::make_shared<PipeStdio>(io, reaper, limits);
  RETURN_IF_ERROR(pipes->Open(request, owner));
  return pipes;
}

}  // namespace

Async<absl::StatusOr<StdioPtr>> Stdio::Prepare(asio::io_context& io, Reaper& reaper,
                                               StdioRequest request, Owner owner,
                                               StdioLimits limits) {
  CO_ASSIGN_OR_RETURN(StdioUri uri, ParseStdioUri(request.out));
  std::shared_ptr<Logger> logger;
  if (IsLogger(uri)) {
    absl::StatusOr<std::shared_ptr<Logger>> started =
        co_await Logger::Start(io, reaper, uri, owner, limits);
    CO_RETURN_IF_ERROR(started.status());
    logger = *std::move(started);
  }
  if (request.terminal) {
    absl::StatusOr<StdioPtr> terminal =
        co_await PrepareTerminal(&io, &reaper, limits, request, logger);
    co_return terminal;
  }
  if (logger) {
    StdioPtr stdio = std::make_shared<LoggerStdio>(std::move(logger));
    co_return stdio;
  }
  if (uri.scheme == "file") {
    std::function<absl::Status()> make = [path = uri.path] { return MakeLogFile(path); };
    CO_RETURN_IF_ERROR(co_await RunInChild(reaper, std::move(make)));
    // From here on both streams are paths of a file that exists.
    request.out = uri.path;
    if (!request.err.empty()) request.err = uri.path;
  } else if (!uri.scheme.empty() && uri.scheme != "fifo") {
    co_return absl::UnknownError(absl::StrCat("unknown STDIO scheme ", uri.scheme));
  }
  co_return PreparePipes(io, reaper, limits, request, owner);
}

}  // namespace feather
