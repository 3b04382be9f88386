// On a real cgroup2 memory controller.
#include "tests/support/oom_shim_tests.h"

namespace feather::test {

std::optional<std::string> MemoryController() { return Cgroup2MemoryRoot(); }

}  // namespace feather::test
