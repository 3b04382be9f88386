#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace feather::bench {

// Work in a thread of its own that counts what it does, up to a limit. Where it waits for ever, the
// thread is left behind with all that it uses: to wait for it ends nevertheless.
class CountingThread {
 public:
  using Counter = std::atomic<size_t>;
  CountingThread(std::string what, size_t limit, std::function<void(Counter&)> work);
  // Does not wait.
  ~CountingThread();
  CountingThread(const CountingThread&) = delete;
  CountingThread& operator=(const CountingThread&) = delete;

  // Until the work has ended. Throws, with what is missing, unless it has counted exactly to the
  // limit; also if the count has stood still for a minute.
  void Wait();

 private:
  struct Shared {
    explicit Shared(std::function<void(Counter&)> does) : work(std::move(does)) {}
    const std::function<void(Counter&)> work;
    Counter count = 0;
  };
  static void* Run(void* shared);

  const std::string what_;
  const size_t limit_;
  const std::shared_ptr<Shared> shared_;
  bool joined_ = false;
  pthread_t thread_;
};

// Reads a FIFO until EOF or until so many bytes have come, and throws them away: the fastest client
// that there can be.
class Drain : public CountingThread {
 public:
  Drain(std::string path, size_t bytes);
};

// Takes a shim's events at a socket, and answers each at once: the fastest containerd that there
// can be. It ends with that many events, or with the shim's connection.
class EventStub : public CountingThread {
 public:
  // Listens from here on. Throws if it cannot.
  EventStub(const std::string& path, size_t events);
};

}  // namespace feather::bench
