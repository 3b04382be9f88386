#pragma once

#include <deque>
#include <utility>

#include "runtime/base/async.h"

namespace feather {

// Lets one coroutine at a time through, in the order of their arrival. It must outlive its locks.
class Mutex {
 public:
  class Lock {
   public:
    explicit Lock(Mutex* mutex) : mutex_(mutex) {}
    Lock(Lock&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    Lock& operator=(Lock&&) = delete;
    ~Lock() {
      if (mutex_ != nullptr) mutex_->Unlock();
    }

   private:
    Mutex* mutex_;
  };

  Async<Lock> Acquire() {
    if (std::exchange(locked_, true)) {
      Event turn;
      queue_.push_back(&turn);
      co_await turn.Wait();
    }
    co_return Lock(this);
  }

 private:
  // The lock is handed to the next in the queue without being free in between.
  void Unlock() {
    if (queue_.empty()) {
      locked_ = false;
      return;
    }
    Event* next = queue_.front();
    queue_.pop_front();
    next->Set();
  }

  bool locked_ = false;
  std::deque<Event*> queue_;
};

}  // namespace feather
