#include "shim/version.h"

namespace feather {

const char kVersion[] = FEATHER_VERSION;
const char kRevision[] = FEATHER_REVISION;

}  // namespace feather
