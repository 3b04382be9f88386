#pragma once

// Where this build and its sources are. One object file knows, so that a compiler cache can serve
// all others to a clone elsewhere.
namespace feather::test {

extern const char kSourceDirectory[];
// The programs of this build.
extern const char kBuiltShim[];
extern const char kBuiltGrpcShim[];
// The first, able to be refused memory (tests/refusing/gate.h).
extern const char kRefusingShim[];
// Release and static: the one whose memory is worth measuring.
extern const bool kReleaseBuild;
// With any of them, programs are slow.
extern const bool kSanitizers;

}  // namespace feather::test
