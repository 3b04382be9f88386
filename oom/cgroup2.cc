#include "oom/cgroup2.h"

#include <fcntl.h>

#include <algorithm>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "oom/account.h"
#include "oom/cgroupfs.h"
#include "oom/explainer.h"
#include "oom/logged_kills.h"
#include "oom/siblings.h"
#include "oom/state_watch.h"
#include "oom/subtree_kills.h"
#include "runtime/base/async.h"
#include "runtime/base/descriptor.h"
#include "runtime/base/file.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"

namespace feather::oom {
namespace {

// Readings after an `oom` without its oom_kill: 1, 2, 4 and 8 ms later; after that the kernel's own
// notification is due, but for that of a cgroup below which is counted alone: for a second there,
// after each `oom`, since an increase may be of an earlier one.
constexpr auto kFirstReread = std::chrono::milliseconds(1);
constexpr int kRereads = 4;
constexpr int kRereadsBelow = 10;

// What counts the kills of a cgroup and of those below it; of a cgroup alone.
constexpr char kCounter[] = "memory.events";
constexpr char kLocalCounter[] = "memory.events.local";

// memory.oom.group is set in the cgroup or one above it, or may have been: the cgroup is gone.
bool MayKillInGroups(const std::string& directory) {
  for (std::string above = directory;; above += "/..") {
    const Content group = ReadPath(absl::StrCat(above, "/memory.oom.group"));
    // The root has no such file.
    if (group.error != 0) return above == directory;
    if (absl::StartsWith(group.text, "1")) return true;
  }
}

// Shared by the watch and its coroutines; ends when its files are closed.
class Cgroup2State : public std::enable_shared_from_this<Cgroup2State> {
 public:
  Cgroup2State(asio::io_context& io, SubtreeKills kills, bool local, Account account,
               std::shared_ptr<Explainer> explainer)
      : io_(io),
        directory_(kills.directory()),
        local_(local),
        kills_(std::move(kills)),
        memory_(io),
        cgroup_(io),
        parent_(io),
        timer_(io),
        account_(std::move(account)),
        explainer_(std::move(explainer)),
        siblings_(directory_) {}

  // `parent` may be none.
  absl::Status Begin(UniqueFd memory, UniqueFd cgroup, UniqueFd parent) {
    RETURN_IF_ERROR(Assign(memory_, std::move(memory)));
    RETURN_IF_ERROR(Assign(cgroup_, std::move(cgroup)));
    if (parent) RETURN_IF_ERROR(Assign(parent_, std::move(parent)));
    ReadParent();
    Populated();
    explainer_->SetReadCounters([weak = weak_from_this()] {
      if (auto self = weak.lock()) TryToRead(*self, &Cgroup2State::Read);
    });
    Spawn(io_, Follow(shared_from_this(), memory_, &Cgroup2State::Read));
    Spawn(io_, Follow(shared_from_this(), cgroup_, &Cgroup2State::Read));
    // What is this cgroup's own wakes by its own files, too. The parent's is woken by whatever
    // reaches a limit in it, in system.slice a hundred times a second for each container there.
    Spawn(io_, Follow(shared_from_this(), parent_, &Cgroup2State::ReadParent));
    return absl::OkStatus();
  }

  void Read() {
    if (!memory_.is_open()) return;
    kills_.ReadLog();
    // First, so that a kill between the two is in one of the counts (siblings.h).
    ReadParent();
    // Before the counters: the kill that empties the cgroup in between would be in neither reading.
    bool populated = Populated();
    std::vector<pid_t> processes;
    if (populated) processes = Processes(directory_);
    Content events = ReadAgain(memory_.native_handle());
    if (events.error != 0) return Gone();
    Counters now = ParseCounters(events.text);
    const Counters& last = account_.last();
    const uint64_t own_rise = now.oom_kill - std::min(now.oom_kill, kills_.own());
    now.oom_kill = kills_.Add(now.oom_kill, std::move(processes));
    const bool below = now.oom_kill > last.oom_kill + own_rise;
    const bool kill_due = now.oom > last.oom && (local_ || now.oom_kill == last.oom_kill);
    Observe(now, below);
    // Not from the first on: where nobody can be killed, `oom` rises all the time.
    if (kill_due) rereads_ = std::min(rereads_, kRereads);
    if (kill_due && !rereading_) Spawn(io_, ReadSoon(shared_from_this()));
    if (!populated) End();
  }

  void Finish() {
    Read();
    End();
  }

  void Close() {
    asio::error_code ignored;
    memory_.close(ignored);
    cgroup_.close(ignored);
    parent_.close(ignored);
    timer_.cancel();
    kills_.Close();
    explainer_->Drop();
  }

  const Counters& counters() const { return account_.last(); }

 private:
  // `file`: of `self`.
  static Async<> Follow(std::shared_ptr<Cgroup2State> self, asio::posix::stream_descriptor& file,
                        void (Cgroup2State::*read)()) {
    // on_kill is never called from inside Start.
    co_await asio::post(self->io_, asio::use_awaitable);
    while (true) {
      const bool done = TryToRead(*self, read);
      if (!file.is_open()) co_return;
      if (!done) {
        co_await SleepFor(kRetryAfter);
        continue;
      }
      auto [error] = co_await file.async_wait(asio::posix::descriptor_base::wait_error, kAwait);
      if (error) co_return;
    }
  }

  static Async<> ReadSoon(std::shared_ptr<Cgroup2State> self) {
    self->rereading_ = true;
    self->rereads_ = 0;
    const uint64_t before = self->counters().oom_kill;
    const int most = self->local_ ? kRereadsBelow : kRereads;
    while (self->rereads_ < most) {
      self->timer_.expires_after(kFirstReread * (1 << self->rereads_++));
      auto [error] = co_await self->timer_.async_wait(kAwait);
      if (error) break;
      TryToRead(*self, &Cgroup2State::Read);
      if (!self->memory_.is_open()) break;
      if (!self->local_ && self->counters().oom_kill != before) break;
    }
    self->rereading_ = false;
  }

  // `below`: one of the kills was in a cgroup below whose group nobody has counted.
  void Observe(const Counters& now, bool below) {
    const uint64_t before = account_.last().oom_kill;
    const bool told = account_.Observe(now, Clock::now());
    bool group = told;
    if (told && !below) CatchNoMemory([&] { group = MayKillInGroups(directory_); }).IgnoreError();
    if (group) account_.MarkMaybeGroup();
    explainer_->Counted(now, told || now.oom_kill != before, told, kills_.TakeVictims());
  }

  void End() {
    explainer_->End();
    Close();
  }

  // True until the cgroup has turned empty after there were processes in it: a watch may start
  // before the first has joined.
  bool Populated() {
    Content events = ReadAgain(cgroup_.native_handle());
    bool populated = false;
    ForEachKey(events.text, [&populated](absl::string_view key, uint64_t value) {
      if (key == "populated") populated = value != 0;
    });
    if (events.error == 0 && populated) was_populated_ = true;
    return populated || !was_populated_;
  }

  void ReadParent() {
    if (!parent_.is_open()) return;
    const Content events = ReadAgain(parent_.native_handle());
    if (events.error == 0)
      return siblings_.Remember(ParseCounters(events.text).oom_kill, Clock::now());
    asio::error_code ignored;
    parent_.close(ignored);
  }

  // The cgroup was removed before this reading.
  void Gone() {
    Counters now = account_.last();
    const uint64_t logged = kills_.AddRemoved();
    now.oom_kill = std::max(now.oom_kill, siblings_.LastCount().value_or(logged));
    Observe(now, /*below=*/false);
    End();
  }

  asio::io_context& io_;
  const std::string directory_;
  const bool local_;
  SubtreeKills kills_;
  asio::posix::stream_descriptor memory_;
  asio::posix::stream_descriptor cgroup_;
  asio::posix::stream_descriptor parent_;
  asio::steady_timer timer_;
  Account account_;
  std::shared_ptr<Explainer> explainer_;
  Siblings siblings_;
  bool was_populated_ = false;
  bool rereading_ = false;
  int rereads_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Watch>> StartCgroup2(asio::io_context& io, std::string directory,
                                                    Watch::OnKill on_kill, Beginning beginning,
                                                    Watch::OnExplained on_explained) {
  const bool local = beginning.local_events;
  const std::string path = absl::StrCat(directory, "/", local ? kLocalCounter : kCounter);
  ASSIGN_OR_RETURN(UniqueFd memory, OpenFile(path, O_RDONLY));
  ASSIGN_OR_RETURN(UniqueFd cgroup, OpenFile(absl::StrCat(directory, "/cgroup.events"), O_RDONLY));
  UniqueFd parent;
  // Where each cgroup is counted alone, it has nothing of its children's.
  if (!local && absl::EndsWith(directory, ".scope")) {
    auto opened = OpenFile(absl::StrCat(directory, "/../", kCounter), O_RDONLY);
    if (opened.ok()) parent = *std::move(opened);
  }
  // Before the counters, so that a kill is in either.
  SubtreeKills kills(directory, local ? kLocalCounter : nullptr,
                     std::make_unique<LoggedKills>(directory, beginning.log), beginning.init);
  Content events = ReadAgain(memory.get());
  if (events.error != 0) return ErrnoError(events.error, absl::StrCat("read ", path));
  Counters now = ParseCounters(events.text);
  now.oom_kill = kills.Add(now.oom_kill, {});
  Account account(std::move(on_kill), now, beginning.kills);
  auto explainer =
      std::make_shared<Explainer>(io, directory, "memory.max", std::move(on_explained));
  auto state = std::make_shared<Cgroup2State>(io, std::move(kills), local, std::move(account),
                                              std::move(explainer));
  // First, so that nothing is left of a beginning for which there is no memory.
  auto watch = std::make_unique<StateWatch<Cgroup2State>>(state);
  RETURN_IF_ERROR(state->Begin(std::move(memory), std::move(cgroup), std::move(parent)));
  return watch;
}

absl::StatusOr<uint64_t> CountKillsCgroup2(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/", kCounter);
  const Content events = ReadPath(path);
  if (IsShortage(events.error)) return ErrnoError(events.error, path);
  if (events.error != 0) return 0;
  // With memory_localevents those below are not in it.
  const Content local = ReadPath(absl::StrCat(directory, "/", kLocalCounter));
  SubtreeKills kills(directory, kLocalCounter);
  const uint64_t sum = kills.Add(ParseCounters(local.text).oom_kill, {});
  for (const int error : {local.error, kills.error()})
    if (IsShortage(error)) return ErrnoError(error, absl::StrCat("read ", directory));
  return std::max(ParseCounters(events.text).oom_kill, sum);
}

}  // namespace feather::oom
