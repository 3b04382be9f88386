// The shim's operator new above a malloc(3) that refuses what the test wants it to.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

#include "tests/refusing/gate.h"

namespace {

using feather::test::MemoryGate;

MemoryGate* g_gate = nullptr;

__attribute__((constructor)) void MapGate() {
  const char* path = getenv(MemoryGate::kVariable);
  const int fd = path == nullptr ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void* shared = mmap(nullptr, sizeof(MemoryGate), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (shared != MAP_FAILED) g_gate = static_cast<MemoryGate*>(shared);
}

void* GatedMalloc(size_t size) {
  const uint32_t mode = g_gate == nullptr ? MemoryGate::kOpen : g_gate->mode.load();
  if (mode == MemoryGate::kOpen) return malloc(size);
  if (mode == MemoryGate::kOne && size <= MemoryGate::kSmall) return malloc(size);
  const uint64_t number = ++g_gate->asked;
  const bool refused = mode == MemoryGate::kOne ? number == g_gate->at : number >= g_gate->at;
  if (!refused) return malloc(size);
  ++g_gate->refused;
  if (mode == MemoryGate::kOne) throw std::bad_alloc();
  return nullptr;
}

}  // namespace

#define malloc GatedMalloc
#include "runtime/base/reserve.cc"  // NOLINT
