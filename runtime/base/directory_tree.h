#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace feather {

// What is looked at of a container's cgroups in one turn of the loop: some 20 ms.
inline constexpr size_t kMostCgroups = 1000;

// `top` and the directories below it, the nearer ones first, at most `most` of them: a container
// may make any number of cgroups below its own. No symbolic link is followed; what cannot be read,
// or vanishes meanwhile, has nothing below it. `top` is there even if it does not exist. `error`:
// the errno of the last that could not be read.
std::vector<std::string> DirectoryTree(std::string top, size_t most, int* error = nullptr);

}  // namespace feather
