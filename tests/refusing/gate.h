#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace feather::test {

// What a test and the shim of this build that can be refused memory (kRefusingShim) share: a file
// of one of these, mapped by both. Its path is in the shim's environment.
struct MemoryGate {
  enum Mode : uint32_t {
    kOpen,
    // The `at`th allocation of more than kSmall bytes, and no other; without the reserve.
    kOne,
    // malloc(3) from the `at`th on; operator new has its reserve.
    kAllFrom,
  };
  // Without the reserve so little is never refused (runtime/base/reserve.cc).
  static constexpr size_t kSmall = 256;
  static constexpr char kVariable[] = "FEATHER_TEST_MEMORY_GATE";

  std::atomic<uint32_t> mode;
  std::atomic<uint64_t> at;
  // Since the mode was set, by the shim and its forked children.
  std::atomic<uint64_t> asked;
  std::atomic<uint64_t> refused;
};

}  // namespace feather::test
