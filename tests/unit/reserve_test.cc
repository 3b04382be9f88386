// The operator new of the shim, in a child whose address space is full.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

namespace {

constexpr int kNoLimit = 254;

// The number that `work` returns, in a child without memory: malloc(3) refuses even one byte.
// kNoLimit where that cannot be had: under qemu-user a program's address space has no limit.
int WithoutMemory(int (*work)()) {
  pid_t pid = fork();
  if (pid == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_AS, &none);
    size_t total = 0;
    for (size_t size = size_t{1} << 20; size > 0; size /= 2)
      while (malloc(size) != nullptr)
        if ((total += size) > size_t{64} << 20) _exit(kNoLimit);
    _exit(malloc(1) == nullptr ? work() : 255);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void ExpectSuccess(int (*work)()) {
  const int result = WithoutMemory(work);
  if (result == kNoLimit) GTEST_SKIP() << "no limit of the address space holds here (qemu-user)";
  EXPECT_EQ(result, 0);
}

void* New(size_t size) { return operator new(size, std::nothrow); }

TEST(Reserve, ServesWhatIsSmallAndTakesItBack) {
  ExpectSuccess([] {
    void* last = nullptr;
    int served = 0;
    for (; void* piece = New(100); ++served) last = piece;
    if (served < 100 || served > 1000) return 1;
    operator delete(last);
    if (New(100) != last) return 2;
    return New(100) == nullptr ? 0 : 3;
  });
}

TEST(Reserve, PiecesAreApartAndAligned) {
  ExpectSuccess([] {
    char* pieces[64];
    for (size_t i = 0; i < 64; ++i) {
      const size_t size = 1 + i * 32;
      pieces[i] = static_cast<char*>(New(size));
      if (pieces[i] == nullptr) return 1;
      if (reinterpret_cast<uintptr_t>(pieces[i]) % alignof(std::max_align_t) != 0) return 2;
      for (size_t at = 0; at < size; ++at) pieces[i][at] = static_cast<char>(i);
    }
    for (size_t i = 0; i < 64; ++i)
      for (size_t at = 0; at < 1 + i * 32; ++at)
        if (pieces[i][at] != static_cast<char>(i)) return 3;
    return 0;
  });
}

TEST(Reserve, RefusesWhatIsLarge) {
  ExpectSuccess([] {
    try {
      operator delete(operator new(1 << 20));
    } catch (const std::bad_alloc&) {
      return 0;
    }
    return 1;
  });
}

}  // namespace
