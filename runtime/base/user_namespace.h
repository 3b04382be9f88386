#pragma once

namespace feather {

// Whether this process lives in a user namespace other than the machine's first (by
// /proc/self/uid_map; false when that cannot be read).
bool InUserNamespace();

}  // namespace feather
