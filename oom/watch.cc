#include "oom/watch.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "oom/cgroup1.h"
#include "oom/cgroup2.h"
#include "oom/logged_kills.h"

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
  LoggedKills log(directory, beginning.log);
  std::vector<Victim> victims;
  for (const LoggedKills::Named& kill : log.named())
    if (kill.counted) victims.push_back(kill.victim);
  for (const LoggedKills::Unnamed& kill : log.unnamed()) victims.push_back(kill.victim);
  const auto init = std::find_if(victims.begin(), victims.end(), [&](const Victim& victim) {
    return victim.pid == beginning.init;
  });
  if (init == victims.end()) return std::nullopt;
  Explanation kill{directory, "", {}, {*init}};
  kill.counters.oom_kill = 1;
  return kill;
}

}  // namespace feather::oom
