#include "tests/bench/threads.h"

#include <fcntl.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "runtime/base/unique_fd.h"

namespace feather::bench {

Drain::Drain(std::string path, size_t limit) : path_(std::move(path)), limit_(limit) {
  pthread_create(&thread_, nullptr, &Drain::Run, this);
}

size_t Drain::Wait() {
  if (!std::exchange(joined_, true)) pthread_join(thread_, nullptr);
  return bytes_;
}

void* Drain::Run(void* self) {
  Drain& drain = *static_cast<Drain*>(self);
  constexpr size_t kSize = 256 << 10;
  auto buffer = std::make_unique<char[]>(kSize);
  UniqueFd fifo(open(drain.path_.c_str(), O_RDONLY | O_CLOEXEC));
  while (drain.bytes_ < drain.limit_) {
    ssize_t n = read(fifo.get(), buffer.get(), kSize);
    if (n <= 0) break;
    drain.bytes_ += static_cast<size_t>(n);
  }
  return nullptr;
}

}  // namespace feather::bench
