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

// gRPC's operations as something that a coroutine awaits. Two threads serve them and do nothing
// else; everything else happens on the loop. One begins the operations, so that threads which gRPC
// may make at that never have what the loop's thread has: its signals, and a pod's namespaces
// (runtime/base/home_namespaces.h). The other waits for their completions and hands them to the
// loop. (The loop itself is not thread-safe: they share lists under a mutex, and an eventfd(2).)
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
  // Starts an operation: calls `start` in the other thread, in the order of these calls. `holds` is
  // kept until gRPC has finished with it; `done` is called on the loop with gRPC's verdict, after
  // `start` has returned.
  void Begin(std::shared_ptr<void> holds, Start start, std::function<void(bool ok)> done);
  // The same for a coroutine.
  static Async<bool> Await(std::shared_ptr<Completions> self, std::shared_ptr<void> holds,
                           Start start);
  // For a tag that gRPC does not hand back, after a later operation has been completed.
  static void Forget(void* tag);
  // Any other call of gRPC's, in that thread and in the same order.
  void Run(std::function<void()> call);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// Around a call of gRPC's in a thread that gets signals, if threads may be made.
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
