#include "oom/cgroup1.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "oom/account.h"
#include "oom/cgroupfs.h"
#include "oom/explainer.h"
#include "oom/kernel_record.h"
#include "oom/logged_kills.h"
#include "oom/state_watch.h"
#include "oom/subtree_kills.h"
#include "runtime/base/async.h"
#include "runtime/base/descriptor.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"

namespace feather::oom {
namespace {

constexpr char kCounter[] = "memory.oom_control";

// After a signal the counter is read again 1, 2, 4, … ms later, then every second while the kernel
// says that the cgroup is still under_oom. An increase does not end that: it may be of the kill
// before the one that was signalled.
constexpr Clock::duration kFirstReread = std::chrono::milliseconds(1);
constexpr Clock::duration kLongestReread = std::chrono::seconds(1);

// Has `signal` signalled when the cgroup is out of memory.
absl::Status Register(const UniqueFd& signal, const UniqueFd& control,
                      const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/cgroup.event_control");
  ASSIGN_OR_RETURN(UniqueFd registration, OpenFile(path, O_WRONLY));
  return Annotate(WriteAll(registration.get(), absl::StrCat(signal.get(), " ", control.get())),
                  path);
}

// What is left to be woken by where the kernel does not signal: its log, from now on.
UniqueFd FollowKernelLog(const absl::Status& why) {
  UniqueFd log = OpenKernelLog();
  if (log) lseek(log.get(), 0, SEEK_END);
  static bool logged = false;
  if (!std::exchange(logged, true))
    LogWarning("this kernel does not signal OOM kills on cgroup1",
               {{"error", std::string(why.message())},
                {"reported", log ? "when the kernel's log has them" : "with the next exit"}});
  return log;
}

// Shared by the watch and its coroutines; ends when its files are closed.
class Cgroup1State : public std::enable_shared_from_this<Cgroup1State> {
 public:
  Cgroup1State(asio::io_context& io, SubtreeKills kills, Account account,
               std::shared_ptr<Explainer> explainer)
      : io_(io),
        signal_(io),
        timer_(io),
        kills_(std::move(kills)),
        account_(std::move(account)),
        explainer_(std::move(explainer)) {}

  // `signal`: the eventfd, or, with `is_log`, the kernel's log, which may be none.
  absl::Status Begin(UniqueFd control, UniqueFd signal, bool is_log) {
    if (signal) RETURN_IF_ERROR(Assign(signal_, std::move(signal)));
    is_log_ = is_log;
    control_ = std::move(control);
    explainer_->SetReadCounters([weak = weak_from_this()] {
      if (auto self = weak.lock()) TryToRead(*self, &Cgroup1State::Read);
    });
    Spawn(io_, Follow(shared_from_this()));
    return absl::OkStatus();
  }

  void Read() {
    if (!control_) return;
    kills_.ReadLog();
    // Before the counter: who is killed in between would be in neither.
    std::vector<pid_t> processes = Processes(kills_.directory());
    Content control = ReadAgain(control_.get());
    if (control.error != 0) return Gone();
    Counters now = ParseCounters(control.text);
    now.oom_kill = kills_.Add(now.oom_kill, std::move(processes));
    Observe(now);
    under_oom_ = false;
    ForEachKey(control.text, [this](absl::string_view key, uint64_t value) {
      if (key == "under_oom") under_oom_ = value != 0;
    });
  }

  void Finish() {
    Read();
    End();
  }

  void Close() {
    asio::error_code ignored;
    control_.Reset();
    signal_.close(ignored);
    timer_.cancel();
    kills_.Close();
    explainer_->Drop();
  }

  const Counters& counters() const { return account_.last(); }

 private:
  void Observe(const Counters& now) {
    const uint64_t before = account_.last().oom_kill;
    const bool told = account_.Observe(now, Clock::now());
    explainer_->Counted(now, told || now.oom_kill != before, told, kills_.TakeVictims());
  }

  // The cgroup was removed before this reading, and its counter with it.
  void Gone() {
    Counters now = account_.last();
    now.oom_kill = kills_.AddRemoved();
    Observe(now);
    End();
  }

  void End() {
    explainer_->End();
    Close();
  }

  static Async<> Follow(std::shared_ptr<Cgroup1State> self) {
    // on_kill is never called from inside Start.
    co_await asio::post(self->io_, asio::use_awaitable);
    while (true) {
      if (!TryToRead(*self, &Cgroup1State::Read)) {
        co_await SleepFor(kRetryAfter);
        continue;
      }
      if (!self->control_ || !self->signal_.is_open()) co_return;
      auto [error] =
          co_await self->signal_.async_wait(asio::posix::descriptor_base::wait_read, kAwait);
      if (error) co_return;
      if (self->is_log_) {
        // Its lines do not matter, and whoever writes many must not keep this loop. "Killed
        // process" comes after the count.
        lseek(self->signal_.native_handle(), 0, SEEK_END);
        continue;
      }
      eventfd_t signals = 0;
      eventfd_read(self->signal_.native_handle(), &signals);
      self->next_reread_ = kFirstReread;
      if (self->rereading_) {
        self->timer_.cancel();
      } else {
        Spawn(self->io_, ReadSoon(self));
      }
    }
  }

  static Async<> ReadSoon(std::shared_ptr<Cgroup1State> self) {
    self->rereading_ = true;
    while (self->control_ && (self->next_reread_ < kLongestReread || self->under_oom_)) {
      const Clock::duration delay = self->next_reread_;
      self->timer_.expires_after(delay);
      auto [error] = co_await self->timer_.async_wait(kAwait);
      // A new signal, or the end.
      if (error) continue;
      TryToRead(*self, &Cgroup1State::Read);
      // Unless the signal came when the timer was due already.
      if (self->next_reread_ == delay) self->next_reread_ = std::min(delay * 2, kLongestReread);
    }
    self->rereading_ = false;
  }

  asio::io_context& io_;
  UniqueFd control_;
  asio::posix::stream_descriptor signal_;
  asio::steady_timer timer_;
  SubtreeKills kills_;
  Account account_;
  std::shared_ptr<Explainer> explainer_;
  bool is_log_ = false;
  bool under_oom_ = false;
  bool rereading_ = false;
  Clock::duration next_reread_ = kFirstReread;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Watch>> StartCgroup1(asio::io_context& io, std::string directory,
                                                    Watch::OnKill on_kill, Beginning beginning,
                                                    Watch::OnExplained on_explained) {
  const std::string path = absl::StrCat(directory, "/", kCounter);
  ASSIGN_OR_RETURN(UniqueFd control, OpenFile(path, O_RDONLY));
  UniqueFd signal(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signal) return ErrnoError(errno, "eventfd");
  const absl::Status registered = Register(signal, control, directory);
  // The cgroup is not the container's own then, but that of whoever runs containers without root.
  if (absl::IsPermissionDenied(registered)) return registered;
  if (!registered.ok()) signal = FollowKernelLog(registered);
  // Before the counters, so that a kill is in either.
  SubtreeKills kills(directory, kCounter, std::make_unique<LoggedKills>(directory, beginning.log),
                     beginning.init);
  std::vector<pid_t> processes = Processes(directory);
  Content content = ReadAgain(control.get());
  if (content.error != 0) return ErrnoError(content.error, absl::StrCat("read ", path));
  Counters now = ParseCounters(content.text);
  auto explainer =
      std::make_shared<Explainer>(io, directory, "memory.limit_in_bytes", std::move(on_explained));
  now.oom_kill = kills.Add(now.oom_kill, std::move(processes));
  Account account(std::move(on_kill), now, beginning.kills);
  auto state = std::make_shared<Cgroup1State>(io, std::move(kills), std::move(account),
                                              std::move(explainer));
  // First, so that nothing is left of a beginning for which there is no memory.
  auto watch = std::make_unique<StateWatch<Cgroup1State>>(state);
  RETURN_IF_ERROR(state->Begin(std::move(control), std::move(signal), !registered.ok()));
  return watch;
}

absl::StatusOr<uint64_t> CountKillsCgroup1(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/", kCounter);
  const Content control = ReadPath(path);
  if (IsShortage(control.error)) return ErrnoError(control.error, path);
  if (control.error != 0) return 0;
  SubtreeKills kills(directory, kCounter);
  const uint64_t count = kills.Add(ParseCounters(control.text).oom_kill, {});
  if (IsShortage(kills.error())) return ErrnoError(kills.error(), absl::StrCat("read ", directory));
  return count;
}

}  // namespace feather::oom
