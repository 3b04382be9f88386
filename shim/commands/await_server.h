#pragma once

#include <string>

namespace feather {

// Waits until nobody serves at `socket` any more. False when nobody reads this process' standard
// output any more before that.
bool AwaitServerEnd(const std::string& socket);

}  // namespace feather
