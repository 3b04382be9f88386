#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace feather {

// The module information that the Go linker leaves in an ELF executable (section .go.buildinfo,
// format of Go 1.18 and later; package debug/buildinfo): lines of tab-separated words, "path" with
// the main package, "mod" with the main module and, in module mode, a "dep" for each other. Read
// with a few preads of headers and that section; nothing is executed.
//
// InvalidArgument for anything but a 64-bit ELF file of this machine's byte order with such a
// section.
absl::StatusOr<std::string> ReadGoBuildInfo(const std::string& path);

// Whether such lines name a package or module ".../containerd/v2", which is how containerd 2.x
// differs from 1.x.
bool IsContainerd2(const std::string& build_info);

}  // namespace feather
