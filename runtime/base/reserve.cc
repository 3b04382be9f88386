// operator new of the programs that serve. What is small has a reserve when malloc(3) refuses
// memory: Asio's operations begin in await_suspend, out of which an exception leaves a coroutine
// that is destroyed and resumed at once, and a handler that undoes something needs a few hundred
// bytes to do it. What is larger, or comes when the reserve is used up, throws as ever. Until it is
// needed it costs no memory.
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

// Pieces of one size.
template <size_t kSize, size_t kCount>
class Pieces {
 public:
  void* Take(size_t size) {
    if (size > kSize) return nullptr;
    for (size_t i = 0; i < used_.size(); ++i) {
      if (used_[i] == ~uint64_t{0}) continue;
      const auto bit = static_cast<size_t>(std::countr_one(used_[i]));
      used_[i] |= uint64_t{1} << bit;
      return memory_.data() + (i * 64 + bit) * kSize;
    }
    return nullptr;
  }
  bool Owns(const void* piece) const { return Offset(piece) < memory_.size(); }
  void Give(const void* piece) {
    const size_t number = Offset(piece) / kSize;
    used_[number / 64] &= ~(uint64_t{1} << number % 64);
  }

 private:
  size_t Offset(const void* piece) const {
    return reinterpret_cast<uintptr_t>(piece) - reinterpret_cast<uintptr_t>(memory_.data());
  }

  std::array<uint64_t, kCount / 64> used_ = {};
  alignas(std::max_align_t) std::array<char, kSize* kCount> memory_ = {};
};

constinit Pieces<128, 256> g_small;
constinit Pieces<512, 64> g_middle;
constinit Pieces<2048, 64> g_large;
// gRPC's program has threads.
constinit std::atomic_flag g_locked;

class Lock {
 public:
  Lock() {
    while (g_locked.test_and_set(std::memory_order_acquire)) {
    }
  }
  ~Lock() { g_locked.clear(std::memory_order_release); }
};

void* TakeReserve(size_t size) {
  Lock lock;
  void* piece = g_small.Take(size);
  if (piece == nullptr) piece = g_middle.Take(size);
  if (piece == nullptr) piece = g_large.Take(size);
  return piece;
}

template <typename Kind>
bool GiveBack(Kind& pieces, void* memory) {
  if (!pieces.Owns(memory)) return false;
  Lock lock;
  pieces.Give(memory);
  return true;
}

}  // namespace

void* operator new(size_t size) {
  void* memory = malloc(size == 0 ? 1 : size);
  if (memory == nullptr) memory = TakeReserve(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void operator delete(void* memory) noexcept {
  if (!GiveBack(g_small, memory) && !GiveBack(g_middle, memory) && !GiveBack(g_large, memory))
    free(memory);
}

void operator delete(void* memory, size_t) noexcept { operator delete(memory); }
