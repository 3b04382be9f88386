#pragma once

#include <signal.h>

#include <asio/io_context.hpp>
#include <functional>
#include <memory>

#include "runtime/base/async.h"

namespace grpc {
class CompletionQueue;
}

namespace feather::grpc {

// gRPC's operations as something that a coroutine awaits. A thread waits for their completions and
// hands them to the loop; it does nothing else, and everything else happens on the loop. (The loop
// itself is not thread-safe: the two share a list under a mutex, and an eventfd(2).)
//
// Signals are the loop's: they are blocked in this thread and in those that gRPC makes.
class Completions {
 public:
  // `io` must outlive it.
  Completions(asio::io_context& io, std::unique_ptr<::grpc::CompletionQueue> queue);
  ~Completions();
  // To be called when whatever uses the queue has been shut down. Waits until gRPC has let go of
  // every operation, of which nobody is told any more; further ones fail.
  void Close();

  ::grpc::CompletionQueue* queue() const;

  using Start = std::function<void(void* tag)>;
  // Starts an operation. `holds` is kept until gRPC has finished with it; `done` is called on the
  // loop with gRPC's verdict.
  void Begin(std::shared_ptr<void> holds, const Start& start, std::function<void(bool ok)> done);
  // The same for a coroutine.
  static Async<bool> Await(std::shared_ptr<Completions> self, std::shared_ptr<void> holds,
                           Start start);
  // For a tag that gRPC does not hand back.
  static void Forget(void* tag);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// Around a call of gRPC's that might make a thread.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace feather::grpc
