#include "tests/support/build.h"

namespace feather::test {

const char kSourceDirectory[] = FEATHER_SOURCE_DIR;
const char kBuiltShim[] = FEATHER_BUILT_SHIM;
const char kRefusingShim[] = FEATHER_REFUSING_SHIM;
const char kBuiltGrpcShim[] = FEATHER_BUILT_GRPC_SHIM;
const bool kReleaseBuild = FEATHER_RELEASE_BUILD;
const bool kSanitizers = FEATHER_SANITIZERS;

}  // namespace feather::test
