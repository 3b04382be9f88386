// The operator new of the shim, in a child whose address space is full.

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

namespace {

// The number that `work` returns, in a child without memory: malloc(3) refuses even one byte.
int WithoutMemory(int (*work)()) {
  pid_t pid = fork();
  if (pid == 0) {
    const rlimit none = {0, 0};
    setrlimit(RLIMIT_AS, &none);
    for (size_t size = size_t{1} << 20; size > 0; size /= 2)
      while (malloc(size) != nullptr) {
      }
    _exit(malloc(1) == nullptr ? work() : 255);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void* New(size_t size) { return operator new(size, std::nothrow); }

TEST(Reserve, ServesWhatIsSmallAndTakesItBack) {
  EXPECT_EQ(WithoutMemory([] {
              void* last = nullptr;
              int served = 0;
              for (; void* piece = New(100); ++served) last = piece;
              if (served < 100 || served > 1000) return 1;
              operator delete(last);
              if (New(100) != last) return 2;
              return New(100) == nullptr ? 0 : 3;
            }),
            0);
}

TEST(Reserve, PiecesAreApartAndAligned) {
  EXPECT_EQ(WithoutMemory([] {
              char* pieces[64];
              for (size_t i = 0; i < 64; ++i) {
                const size_t size = 1 + i * 32;
                pieces[i] = static_cast<char*>(New(size));
                if (pieces[i] == nullptr) return 1;
                if (reinterpret_cast<uintptr_t>(pieces[i]) % alignof(std::max_align_t) != 0)
                  return 2;
                for (size_t at = 0; at < size; ++at) pieces[i][at] = static_cast<char>(i);
              }
              for (size_t i = 0; i < 64; ++i)
                for (size_t at = 0; at < 1 + i * 32; ++at)
                  if (pieces[i][at] != static_cast<char>(i)) return 3;
              return 0;
            }),
            0);
}

TEST(Reserve, RefusesWhatIsLarge) {
  EXPECT_EQ(WithoutMemory([] {
              try {
                operator delete(operator new(1 << 20));
              } catch (const std::bad_alloc&) {
                return 0;
              }
              return 1;
            }),
            0);
}

}  // namespace
