#include "shim/grpc/completions.h"

#include <grpcpp/completion_queue.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <asio/posix/stream_descriptor.hpp>
#include <asio/post.hpp>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace feather::grpc {
namespace {

struct Operation {
  std::shared_ptr<void> holds;
  std::function<void(bool ok)> done;
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
    for (auto& [operation, ok] : finished) delete operation;
  }

  // The thread.
  void Collect() {
    void* tag = nullptr;
    bool ok = false;
    while (queue->Next(&tag, &ok)) {
      bool first;
      {
        std::lock_guard<std::mutex> lock(mutex);
        first = finished.empty();
        finished.emplace_back(static_cast<Operation*>(tag), ok);
      }
      const uint64_t one = 1;
      // It cannot be full, and once is enough.
      if (first) (void)!write(wakeup_fd, &one, sizeof one);
    }
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
    std::vector<std::pair<Operation*, bool>> batch;
    {
      std::lock_guard<std::mutex> lock(mutex);
      batch.swap(finished);
    }
    for (auto& [raw, ok] : batch) {
      std::unique_ptr<Operation> operation(raw);
      operation->done(ok);
    }
  }

  std::unique_ptr<::grpc::CompletionQueue> queue;
  asio::posix::stream_descriptor wakeup;
  int wakeup_fd = -1;
  std::thread thread;
  std::mutex mutex;
  std::vector<std::pair<Operation*, bool>> finished;  // under the mutex
};

Completions::Completions(asio::io_context& io, std::unique_ptr<::grpc::CompletionQueue> queue)
    : impl_(std::make_shared<Impl>(io, std::move(queue))) {
  impl_->wakeup_fd = impl_->wakeup.native_handle();
  impl_->Listen();
  SignalsBlocked blocked;
  impl_->thread = std::thread([impl = impl_.get()] { impl->Collect(); });
}

Completions::~Completions() { Close(); }

void Completions::Close() {
  if (!impl_->thread.joinable()) return;
  impl_->queue->Shutdown();
  impl_->thread.join();
  asio::error_code ignored;
  impl_->wakeup.close(ignored);
}

::grpc::CompletionQueue* Completions::queue() const { return impl_->queue.get(); }

void Completions::Begin(std::shared_ptr<void> holds, const Start& start,
                        std::function<void(bool ok)> done) {
  if (!impl_->thread.joinable()) {
    asio::post(impl_->wakeup.get_executor(), [done = std::move(done)] { done(false); });
    return;
  }
  SignalsBlocked blocked;
  start(new Operation{std::move(holds), std::move(done)});
}

Async<bool> Completions::Await(std::shared_ptr<Completions> self, std::shared_ptr<void> holds,
                               Start start) {
  auto verdict = std::make_shared<Verdict>();
  self->Begin(std::move(holds), start, [verdict](bool ok) {
    verdict->ok = ok;
    verdict->given.Set();
  });
  co_await verdict->given.Wait();
  co_return verdict->ok;
}

void Completions::Forget(void* tag) { delete static_cast<Operation*>(tag); }

}  // namespace feather::grpc
