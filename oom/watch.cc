#include "oom/watch.h"

#include <string>
#include <utility>

#include "oom/cgroup1.h"
#include "oom/cgroup2.h"
#include "oom/kernel_log.h"
#include "oom/kernel_record.h"

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

std::optional<Explanation> FindKillOfInit(const std::string& directory, KernelLogMark& log,
                                          pid_t init) {
  if (!KnowsPidsOfLog()) return std::nullopt;
  log.Read();
  OomChoice chosen;
  for (const std::string& line : log.lines()) {
    if (const auto choice = ParseChoice(line, "")) {
      chosen = *choice;
      continue;
    }
    const auto victim = ParseVictim(line);
    // The line names another thread if the first one has ended.
    if (victim && victim->killed && (victim->pid == init || chosen.pid == init)) {
      Explanation kill{directory, "", {}, {{init, std::string(victim->name), ""}}};
      if (chosen.pid == init) kill.victims[0].limit_of = std::string(chosen.limit_of);
      kill.counters.oom_kill = 1;
      return kill;
    }
    chosen = {};
  }
  return std::nullopt;
}

}  // namespace feather::oom
