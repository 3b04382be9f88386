#include "oom/watch.h"

#include <utility>
#include <vector>

#include "oom/cgroup1.h"
#include "oom/cgroup2.h"
#include "oom/kernel_log.h"

namespace feather::oom {

absl::StatusOr<std::unique_ptr<Watch>> Watch::Start(asio::io_context& io, bool unified,
                                                    std::string directory, OnKill on_kill,
                                                    Beginning beginning, OnExplained on_explained) {
  auto start = unified ? StartCgroup2 : StartCgroup1;
  return start(io, std::move(directory), std::move(on_kill), std::move(beginning),
               std::move(on_explained));
}

absl::StatusOr<uint64_t> CountKills(bool unified, const std::string& directory) {
  return unified ? CountKillsCgroup2(directory) : CountKillsCgroup1(directory);
}

std::optional<Explanation> FindKillOfInit(const std::string& directory,
                                          const Beginning& beginning) {
  KernelLog log(directory, beginning.at);
  log.SawProcesses({beginning.init});
  log.Read();
  Explanation kill{directory, "", {}, log.Take()};
  std::erase_if(kill.victims, [&](const Victim& victim) { return victim.pid != beginning.init; });
  if (kill.victims.empty()) return std::nullopt;
  kill.counters.oom_kill = 1;
  return kill;
}

}  // namespace feather::oom
