#include "oom/watch.h"

#include <utility>

#include "oom/cgroup1.h"
#include "oom/cgroup2.h"

namespace feather::oom {

absl::StatusOr<std::unique_ptr<Watch>> Watch::Start(asio::io_context& io, bool unified,
                                                    std::string directory, OnKill on_kill,
                                                    std::optional<uint64_t> told,
                                                    OnExplained on_explained) {
  auto start = unified ? StartCgroup2 : StartCgroup1;
  return start(io, std::move(directory), std::move(on_kill), told, std::move(on_explained));
}

}  // namespace feather::oom
