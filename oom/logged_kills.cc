#include "oom/logged_kills.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "oom/kernel_record.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {
namespace {

template <typename Kill>
void Keep(std::vector<Kill>& kills, Kill kill) {
  if (kills.size() == LoggedKills::kMostKept) kills.erase(kills.begin());
  kills.push_back(std::move(kill));
}

}  // namespace

// The descriptor, and who is told of what is read from it.
class LoggedKills::Log {
 public:
  static std::shared_ptr<Log> Join(LoggedKills* listener) {
    static std::weak_ptr<Log> shared;
    std::shared_ptr<Log> log = shared.lock();
    if (!log) shared = log = std::make_shared<Log>();
    // Again, if it could not be opened for the one before.
    if (!log->file_ && (log->file_ = OpenKernelLog())) lseek(log->file_.get(), 0, SEEK_END);
    // What was written before is the others', if anybody's.
    log->Read();
    log->listeners_.insert(listener);
    return log;
  }

  void Leave(LoggedKills* listener) { listeners_.erase(listener); }

  void Read() {
    ReadRecords(file_, [this](absl::string_view text) {
      const auto record = ParseRecord(text);
      if (!record) return;
      for (LoggedKills* listener : listeners_) listener->Add(record->text);
    });
  }

 private:
  UniqueFd file_;
  std::set<LoggedKills*> listeners_;
};

LoggedKills::LoggedKills(const std::string& directory)
    : directory_(directory), cgroup_(LogNameOf(directory)), knows_pids_(KnowsPidsOfLog()) {
  if (!cgroup_.empty() || knows_pids_) log_ = Log::Join(this);
}

LoggedKills::~LoggedKills() {
  if (log_) log_->Leave(this);
}

void LoggedKills::Read() {
  if (log_) log_->Read();
}

void LoggedKills::Add(absl::string_view text) {
  if (const auto choice = ParseChoice(text, cgroup_)) {
    chosen_ = Chosen{choice->pid, choice->below.has_value()};
    if (!choice->below) return;
    Keep(named_, {choice->pid, absl::StrCat(directory_, Unescaped(*choice->below)), false, false});
    return;
  }
  const auto victim = ParseVictim(text);
  if (!victim) return;
  const auto chosen = std::exchange(chosen_, std::nullopt);
  const bool same = chosen && chosen->pid == victim->pid;
  // It is the chosen one's in any case, unless the log has lost a line.
  if (chosen && chosen->ours && (same || victim->killed)) {
    const auto found = std::find_if(named_.rbegin(), named_.rend(),
                                    [&](const Named& named) { return named.pid == chosen->pid; });
    if (found != named_.rend()) {
      found->counted = true;
      if (!victim->killed) named_.erase(std::next(found).base());
    }
  }
  if (!knows_pids_ || !victim->killed) return;
  // Where no name means anything, pids do. The choice's is 0 if its line was broken in two.
  if (cgroup_.empty()) {
    Keep(unnamed_, {chosen && chosen->pid != 0 ? chosen->pid : victim->pid});
  } else if (!same) {
    Keep(unnamed_, {victim->pid});
  }
}

}  // namespace feather::oom
