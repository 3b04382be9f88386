#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "runtime/runtime_log.h"
#include "tests/fuzz/support.h"

// The log of an OCI runtime, of which the first byte says how much was there before.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  feather::UniqueFd file(memfd_create("log", MFD_CLOEXEC));
  absl::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (!file || !feather::WriteAll(file.get(), text).ok()) abort();
  std::string path = absl::StrCat("/proc/self/fd/", file.get());
  if (feather::RuntimeLogEnd(path) != static_cast<off_t>(size - 1)) abort();
  if (!feather::LastRuntimeError(path, 0).ok()) abort();
  if (!feather::LastRuntimeError(path, data[0]).ok()) abort();
  return 0;
}

std::vector<std::pair<std::string, std::string>> feather::fuzz::Seeds() {
  const std::string lines =
      "{\"level\":\"info\",\"msg\":\"x\",\"time\":\"2026-01-01T00:00:00Z\"}\n"
      "{\"level\":\"error\",\"msg\":\" no luck \\u00e9\\n\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
  return {{"lines", std::string(1, '\0') + lines},
          {"offset", "\x20" + lines},
          {"rubbish", std::string("\0not json\n{\"level\":5}\n[]\n", 24)}};
}
