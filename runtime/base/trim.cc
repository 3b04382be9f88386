#include "runtime/base/trim.h"

#include <malloc.h>

#include <algorithm>
#include <asio/detail/epoll_reactor.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"

namespace feather {
namespace {

constexpr char kTunables[] = "GLIBC_TUNABLES";
constexpr char kNoCache[] = "glibc.malloc.tcache_count=0";

constexpr auto kDelay = std::chrono::milliseconds(100);

// Asio keeps a record of each descriptor that it has ever watched, for use with another. After a
// thousand connections they lie all over the heap, and none of its pages is free. There is no
// interface to this pool; an explicit instantiation may name private members ([temp.spec]/6).
using asio::detail::epoll_reactor;
using State = epoll_reactor::descriptor_state;
using Pool = asio::detail::object_pool<State>;

struct EpollFd {
  friend int epoll_reactor::*Member(EpollFd);
};
struct States {
  friend Pool epoll_reactor::*Member(States);
};
struct FreeList {
  friend State* Pool::*Member(FreeList);
};
template <typename Tag, auto kMember>
struct Expose {
  friend auto Member(Tag) -> decltype(kMember) { return kMember; }
};
template struct Expose<EpollFd, &epoll_reactor::epoll_fd_>;
template struct Expose<States, &epoll_reactor::registered_descriptors_>;
template struct Expose<FreeList, &Pool::free_list_>;

// The records that the kernel may still name in an event: a descriptor that was closed here stays
// in the epoll set while another process has it too.
bool ReadWatched(int epoll, std::vector<uint64_t>& watched) {
  absl::StatusOr<std::string> info = ReadFile(absl::StrCat("/proc/self/fdinfo/", epoll));
  if (!info.ok()) return false;
  for (absl::string_view line : absl::StrSplit(*info, '\n')) {
    size_t data = line.find("data:");
    if (data == line.npos) continue;
    absl::string_view value = line.substr(data + 5);
    value = value.substr(value.find_first_not_of(' '));
    uint64_t pointer = 0;
    if (!absl::SimpleHexAtoi(value.substr(0, value.find(' ')), &pointer)) return false;
    watched.push_back(pointer);
  }
  std::sort(watched.begin(), watched.end());
  return true;
}

// Nothing may be ready in the loop: its queue holds such records too.
void TrimPool(asio::io_context& io) {
  using asio::detail::object_pool_access;
  epoll_reactor& reactor = asio::use_service<epoll_reactor>(io);
  State*& first = reactor.*Member(States()).*Member(FreeList());
  if (first == nullptr) return;
  std::vector<uint64_t> watched;
  if (!ReadWatched(reactor.*Member(EpollFd()), watched)) return;
  State** next = &first;
  while (State* state = *next) {
    if (std::binary_search(watched.begin(), watched.end(), reinterpret_cast<uintptr_t>(state))) {
      next = &object_pool_access::next(state);
    } else {
      *next = object_pool_access::next(state);
      object_pool_access::destroy(state);
    }
  }
}

// One for each io_context.
class Trimmer : public asio::execution_context::service {
 public:
  using key_type = Trimmer;
  static asio::execution_context::id id;

  explicit Trimmer(asio::execution_context& context)
      : service(context), io_(static_cast<asio::io_context&>(context)), timer_(io_) {}

  void Run() {
    running_ = true;
    while (true) {
      io_.run();
      if (!std::exchange(due_, false)) return;
      io_.restart();
      // Until nothing is ready. Whatever stops it is for the next turn.
      io_.poll();
      if (io_.stopped()) continue;
      TrimPool(io_);
      malloc_trim(0);
    }
  }

  void Soon() {
    asked_ = true;
    if (!running_ || waiting_) return;
    waiting_ = true;
    Wait();
  }

 private:
  void shutdown() override {}

  // Until nobody has asked for the length of the delay.
  void Wait() {
    asked_ = false;
    timer_.expires_after(kDelay);
    timer_.async_wait([this](const asio::error_code& error) {
      if (!error && asked_) return Wait();
      waiting_ = false;
      if (error) return;
      due_ = true;
      io_.stop();
    });
  }

  asio::io_context& io_;
  asio::steady_timer timer_;
  bool running_ = false;
  bool asked_ = false;
  bool waiting_ = false;
  bool due_ = false;
};
asio::execution_context::id Trimmer::id;

}  // namespace

void AddServerTunables(std::vector<std::string>& environment) {
  for (std::string& variable : environment) {
    if (!absl::StartsWith(variable, absl::StrCat(kTunables, "="))) continue;
    absl::StrAppend(&variable, ":", kNoCache);
    return;
  }
  environment.push_back(absl::StrCat(kTunables, "=", kNoCache));
}

void DropServerTunables() {
  const char* value = getenv(kTunables);
  if (value == nullptr) return;
  std::string rest = value;
  if (rest == kNoCache) {
    unsetenv(kTunables);
  } else if (absl::EndsWith(rest, absl::StrCat(":", kNoCache))) {
    rest.resize(rest.size() - 1 - strlen(kNoCache));
    setenv(kTunables, rest.c_str(), 1);
  }
}

void LimitHeap() {
  constexpr int kThreshold = 64 << 10;
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, kThreshold);
  mallopt(M_TRIM_THRESHOLD, kThreshold);
}

void RunAndTrim(asio::io_context& io) { asio::use_service<Trimmer>(io).Run(); }

void TrimSoon(asio::io_context& io) { asio::use_service<Trimmer>(io).Soon(); }

}  // namespace feather
