#include "runtime/base/user_namespace.h"

#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "runtime/base/file.h"

namespace feather {

bool InUserNamespace() {
  std::string map = ReadFile("/proc/self/uid_map").value_or("");
  std::vector<absl::string_view> numbers =
      absl::StrSplit(map, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  const std::vector<absl::string_view> everybody = {"0", "0", "4294967295"};
  return numbers != everybody;
}

}  // namespace feather
