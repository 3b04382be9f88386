#include "shim/grpc/completions.h"

#include <grpcpp/completion_queue.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace feather::grpc {
namespace {

// Finished when both threads have done with it.
struct Operation {
  std::shared_ptr<void> holds;
  std::function<void(bool ok)> done;
  bool started = false;
  bool completed = false;
  bool ok = false;
};

struct Verdict {
  Event given;
  bool ok = false;
};

}  // namespace

SignalsBlocked::SignalsBlocked() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before_);
}

SignalsBlocked::~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

struct Completions::Impl : std::enable_shared_from_this<Impl> {
  Impl(asio::io_context& io, std::unique_ptr<::grpc::CompletionQueue> q)
      : queue(std::move(q)), wakeup(io) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    // Not even a descriptor is left: nothing can be served.
    if (fd < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    wakeup.assign(fd);
  }

  ~Impl() {
    for (Operation* operation : finished) delete operation;
    for (auto& [operation, call] : calls) delete operation;
  }

  // The thread that begins.
  void Call() {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return closing || !calls.empty(); });
      if (closing) return;
      auto [operation, call] = std::move(calls.front());
      calls.pop_front();
      lock.unlock();
      call();
      call = nullptr;
      lock.lock();
      if (operation == nullptr) continue;
      operation->started = true;
      if (operation->completed) Finish(operation);
    }
  }

  // The thread that waits.
  void Collect() {
    void* tag = nullptr;
    bool ok = false;
    while (queue->Next(&tag, &ok)) {
      std::lock_guard<std::mutex> lock(mutex);
      auto* operation = static_cast<Operation*>(tag);
      operation->completed = true;
      operation->ok = ok;
      if (operation->started) Finish(operation);
    }
  }

  // Under the mutex.
  void Finish(Operation* operation) {
    finished.push_back(operation);
    const uint64_t one = 1;
    // It cannot be full, and once is enough.
    if (finished.size() == 1) (void)!write(wakeup_fd, &one, sizeof one);
  }

  void Enqueue(Operation* operation, std::function<void()> call) {
    std::lock_guard<std::mutex> lock(mutex);
    calls.emplace_back(operation, std::move(call));
    changed.notify_one();
  }

  void Listen() {
    wakeup.async_wait(asio::posix::stream_descriptor::wait_read,
                      [self = shared_from_this()](const asio::error_code& error) {
                        if (error) return;
                        self->Listen();
                        self->Deliver();
                      });
  }

  void Deliver() {
    uint64_t count;
    (void)!read(wakeup_fd, &count, sizeof count);
    std::vector<Operation*> batch;
    {
      std::lock_guard<std::mutex> lock(mutex);
      batch.swap(finished);
    }
    for (Operation* raw : batch) {
      std::unique_ptr<Operation> operation(raw);
      operation->done(operation->ok);
    }
  }

  std::unique_ptr<::grpc::CompletionQueue> queue;
  asio::posix::stream_descriptor wakeup;
  int wakeup_fd = -1;
  std::thread beginner;
  std::thread collector;
  std::mutex mutex;
  std::condition_variable changed;
  // Under the mutex, as are the members of operations that say how far they are.
  bool closing = false;
  std::deque<std::pair<Operation*, std::function<void()>>> calls;
  std::vector<Operation*> finished;
};

Completions::Completions(asio::io_context& io, std::unique_ptr<::grpc::CompletionQueue> queue)
    : impl_(std::make_shared<Impl>(io, std::move(queue))) {
  impl_->wakeup_fd = impl_->wakeup.native_handle();
  impl_->Listen();
  SignalsBlocked blocked;
  impl_->beginner = std::thread([impl = impl_.get()] { impl->Call(); });
  impl_->collector = std::thread([impl = impl_.get()] { impl->Collect(); });
}

Completions::~Completions() { Close(); }

void Completions::Close() {
  if (!impl_->collector.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->closing = true;
    impl_->changed.notify_one();
  }
  impl_->beginner.join();
  impl_->queue->Shutdown();
  impl_->collector.join();
  asio::error_code ignored;
  impl_->wakeup.close(ignored);
}

::grpc::CompletionQueue* Completions::queue() const { return impl_->queue.get(); }

void Completions::Begin(std::shared_ptr<void> holds, Start start,
                        std::function<void(bool ok)> done) {
  if (!impl_->collector.joinable()) {
    asio::post(impl_->wakeup.get_executor(), [done = std::move(done)] { done(false); });
    return;
  }
  auto* operation = new Operation{.holds = std::move(holds), .done = std::move(done)};
  impl_->Enqueue(operation, [operation, start = std::move(start)] { start(operation); });
}

void Completions::Run(std::function<void()> call) {
  if (impl_->collector.joinable()) impl_->Enqueue(nullptr, std::move(call));
}

Async<bool> Completions::Await(std::shared_ptr<Completions> self, std::shared_ptr<void> holds,
                               Start start) {
  auto verdict = std::make_shared<Verdict>();
  self->Begin(std::move(holds), std::move(start), [verdict](bool ok) {
    verdict->ok = ok;
    verdict->given.Set();
  });
  co_await verdict->given.Wait();
  co_return verdict->ok;
}

void Completions::Forget(void* tag) { delete static_cast<Operation*>(tag); }

}  // namespace feather::grpc
