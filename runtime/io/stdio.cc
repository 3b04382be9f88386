#include "runtime/io/stdio.h"

#include <utility>

#include "runtime/base/status.h"
#include "runtime/io/pipe_stdio.h"

namespace feather {

Async<absl::StatusOr<std::shared_ptr<Stdio>>> Stdio::Prepare(asio::io_context& io, Reaper& reaper,
                                                             StdioRequest request, Owner owner,
                                                             StdioLimits limits) {
  static_cast<void>(reaper);
  auto pipes = std::make_shared<PipeStdio>(io, limits);
  CO_RETURN_IF_ERROR(pipes->Open(request, owner));
  std::shared_ptr<Stdio> stdio = pipes;
  co_return stdio;
}

}  // namespace feather
