#pragma once

#include <pthread.h>

#include <string>

#include "runtime/base/unique_fd.h"

namespace feather::bench {

// Reads a FIFO in a thread of its own until EOF or until so many bytes have come, and throws them
// away: the fastest client that there can be.
class Drain {
 public:
  explicit Drain(std::string path, size_t limit = ~size_t{0});
  ~Drain() { Wait(); }
  Drain(const Drain&) = delete;
  Drain& operator=(const Drain&) = delete;

  // The bytes that were read. The FIFO is closed then.
  size_t Wait();

 private:
  static void* Run(void* self);

  std::string path_;
  size_t limit_;
  size_t bytes_ = 0;
  bool joined_ = false;
  pthread_t thread_;
};

// Takes a shim's events at a socket in a thread of its own, and answers each at once: the fastest
// containerd that there can be. It ends with that many events, or with the shim's connection.
class EventStub {
 public:
  // Listens from here on. Throws if it cannot.
  EventStub(const std::string& path, size_t events);
  ~EventStub();
  EventStub(const EventStub&) = delete;
  EventStub& operator=(const EventStub&) = delete;

  // The events that were answered.
  size_t Wait();

 private:
  static void* Run(void* self);

  UniqueFd listener_;
  size_t limit_;
  size_t events_ = 0;
  bool joined_ = false;
  pthread_t thread_;
};

}  // namespace feather::bench
