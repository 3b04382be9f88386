#include "tests/support/shim_test.h"

#include <stdexcept>

#include "runtime/base/file.h"

namespace feather::test {

std::string ShimTest::WriteRuntime(const std::string& name, const std::string& body) {
  std::string path = runtimes_.path() + "/" + name;
  if (!WriteFile(path, "#!/bin/sh\n" + body, 0755).ok()) throw std::runtime_error(path);
  return path;
}

}  // namespace feather::test
