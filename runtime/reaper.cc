#include "runtime/reaper.h"

#include <signal.h>
#include <sys/wait.h>

#include <asio/post.hpp>
#include <asio/signal_set.hpp>
#include <cerrno>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace feather {
namespace {

// Exits that are collected before other work of the loop gets its turn.
constexpr int kBatch = 128;

// Reaps one child that has ended. `child`: whether there is such a child at all.
std::optional<Exit> ReapOne(idtype_t type, pid_t pid, bool* child = nullptr) {
  siginfo_t info = {};
  int result;
  do {
    result = waitid(type, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | __WALL);
  } while (result < 0 && errno == EINTR);
  if (child != nullptr) *child = result == 0;
  if (result < 0 || info.si_pid == 0) return std::nullopt;
  auto value = static_cast<uint32_t>(info.si_status);
  return Exit{info.si_pid, info.si_code == CLD_EXITED ? value & 0xff : 128 + value, absl::Now()};
}

struct Waiter {
  Event done;
  Exit exit;
};

Async<Exit> AwaitWaiter(std::shared_ptr<Waiter> waiter) {
  co_await waiter->done.Wait();
  co_return waiter->exit;
}

}  // namespace

struct Reaper::Impl : std::enable_shared_from_this<Impl> {
  explicit Impl(asio::io_context& context) : io(context), signals(context) {}

  void Listen() {
    signals.async_wait([self = shared_from_this()](const asio::error_code& error, int) {
      if (error) return;
      // Armed before collecting: a child that ends meanwhile raises the signal again.
      self->Listen();
      self->Collect();
    });
  }

  void CollectSoon() {
    asio::post(io, [self = shared_from_this()] { self->Collect(); });
  }

  void Collect() {
    if (closed) return;
    if (expectations > 0) return CollectWatched();
    for (int i = 0; i < kBatch; ++i) {
      std::optional<Exit> exit = ReapOne(P_ALL, 0);
      if (!exit) return;
      Deliver(*exit);
    }
    CollectSoon();
  }

  void CollectWatched() {
    std::vector<Exit> exits;
    // Before any is reaped: for want of memory none must be lost.
    exits.reserve(watched.size());
    for (const auto& [pid, callbacks] : watched)
      if (std::optional<Exit> exit = ReapOne(P_PID, pid)) exits.push_back(*exit);
    for (const Exit& exit : exits) Deliver(exit);
  }

  void Deliver(const Exit& exit) {
    auto node = watched.extract(exit.pid);
    if (node.empty()) return;
    asio::post(io, [exit, callbacks = std::move(node.mapped())] {
      for (const Callback& callback : callbacks) callback(exit);
    });
  }

  void Watch(pid_t pid, Callback callback) {
    watched[pid].push_back(std::move(callback));
    bool child = false;
    std::optional<Exit> exit;
    if (pid > 0) exit = ReapOne(P_PID, pid, &child);
    bool gone = pid <= 0 || (!child && kill(pid, 0) < 0 && errno == ESRCH);
    if (gone) exit = Exit{pid, kUnknownExitStatus, absl::Now()};
    if (exit) Deliver(*exit);
  }

  asio::io_context& io;
  asio::signal_set signals;
  std::map<pid_t, std::vector<Callback>> watched;
  int expectations = 0;
  bool closed = false;
};

Reaper::Reaper(asio::io_context& io) : impl_(std::make_shared<Impl>(io)) {
  asio::error_code error;
  impl_->signals.add(SIGCHLD, error);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  impl_->Listen();
  impl_->CollectSoon();
}

Reaper::~Reaper() {
  impl_->closed = true;
  impl_->watched.clear();
  asio::error_code error;
  impl_->signals.clear(error);
  impl_->signals.cancel(error);
}

Reaper::Expectation::Expectation(Reaper& reaper) : reaper_(reaper) {
  ++reaper_.impl_->expectations;
}

Reaper::Expectation::~Expectation() {
  if (--reaper_.impl_->expectations == 0) reaper_.impl_->CollectSoon();
}

bool Reaper::CanWatch(pid_t pid) {
  siginfo_t info = {};
  constexpr int kLook = WEXITED | WNOHANG | WNOWAIT | __WALL;
  if (waitid(P_PID, static_cast<id_t>(pid), &info, kLook) == 0) return true;
  return kill(pid, 0) < 0 && errno == ESRCH;
}

void Reaper::Watch(pid_t pid, Callback callback) { impl_->Watch(pid, std::move(callback)); }

Async<Exit> Reaper::WaitFor(pid_t pid) {
  auto waiter = std::make_shared<Waiter>();
  Watch(pid, [waiter](const Exit& exit) {
    waiter->exit = exit;
    waiter->done.Set();
  });
  return AwaitWaiter(std::move(waiter));
}

}  // namespace feather
