#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// Small whole-file helpers. Paths are absolute, or relative to the directory descriptor `dir`
// (AT_FDCWD by default). Errors name the path.

// Opens with O_CLOEXEC added.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode = 0);

// At most `limit` bytes; a longer file is ResourceExhausted.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit = size_t{64} << 20);
// From offset 0 of an open file (kernfs files are read again that way).
absl::StatusOr<std::string> ReadFd(int fd, size_t limit = size_t{64} << 20);
// From the current position to EOF of a pipe or socket.
absl::StatusOr<std::string> ReadToEof(int fd, size_t limit);

// A file without a name that holds `data`, read from its start; other processes reach it as
// /proc/<our pid>/fd/<descriptor>. `name` is for people who look there.
absl::StatusOr<UniqueFd> MemoryFile(const char* name, absl::string_view data);

// Names in a directory but "." and "..", as the kernel gives them; `directories`: those of
// directories alone.
absl::StatusOr<std::vector<std::string>> ListNames(const std::string& path, bool directories);

// Creates or truncates.
absl::Status WriteFile(const std::string& path, absl::string_view data, mode_t mode);
// Temporary file in the same directory and rename(2), so that a reader sees all or nothing.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view data, mode_t mode);
// Everything, over short writes and EINTR.
absl::Status WriteAll(int fd, absl::string_view data);

}  // namespace feather
