#pragma once

namespace feather {

// Whether this process lives in a user namespace other than the machine's first, by
// /proc/self/uid_map. When that cannot be read, too: who is in one and does not know of it asks for
// what is refused there, and a mount, a pod, the shim would fail; who takes it for one needlessly
// keeps the flags that a mount has, and leaves a default as it is.
bool InUserNamespace();

}  // namespace feather
