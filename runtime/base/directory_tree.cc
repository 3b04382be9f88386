#include "runtime/base/directory_tree.h"

#include <dirent.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace feather {

std::vector<std::string> DirectoryTree(std::string top, size_t most, int* error) {
  std::vector<std::string> tree = {std::move(top)};
  auto close = [](DIR* stream) { closedir(stream); };
  for (size_t i = 0; i < tree.size() && tree.size() < most; ++i) {
    std::unique_ptr<DIR, decltype(close)> stream(opendir(tree[i].c_str()), close);
    if (!stream) {
      if (error != nullptr) *error = errno;
      continue;
    }
    while (const dirent* entry = tree.size() < most ? readdir(stream.get()) : nullptr) {
      absl::string_view name = entry->d_name;
      if (entry->d_type == DT_DIR && name != "." && name != "..")
        tree.push_back(absl::StrCat(tree[i], "/", name));
    }
  }
  return tree;
}

}  // namespace feather
