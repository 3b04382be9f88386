#pragma once

namespace feather {

extern const char kVersion[];
// The commit that it was built from; "unknown" outside a clone.
extern const char kRevision[];

}  // namespace feather
