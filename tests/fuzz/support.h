#pragma once

#include <string>
#include <utility>
#include <vector>

namespace feather::fuzz {

// A seed corpus written by code; a target may define this. `NAME_fuzz --seeds DIR` writes it into
// DIR (name and content) and ends; its test does so before it starts fuzzing.
std::vector<std::pair<std::string, std::string>> Seeds();

}  // namespace feather::fuzz
