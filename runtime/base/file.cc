#include "runtime/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

// Reads with `next(buffer, size)` until it returns 0.
template <typename Next>
absl::StatusOr<std::string> ReadUntilEnd(size_t limit, Next next) {
  std::string data;
  std::array<char, 16384> buffer;
  while (true) {
    ssize_t n = next(buffer.data(), buffer.size(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(errno, "read");
    if (n == 0) return data;
    if (data.size() + static_cast<size_t>(n) > limit)
      return absl::ResourceExhaustedError(absl::StrCat("more than ", limit, " bytes"));
    data.append(buffer.data(), static_cast<size_t>(n));
  }
}

}  // namespace

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return ErrnoError(errno, absl::StrCat("open ", path));
  return fd;
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t limit) {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY));
  auto data = ReadToEof(fd.get(), limit);
  if (!data.ok()) return Annotate(data.status(), path);
  return data;
}

absl::StatusOr<std::string> ReadFd(int fd, size_t limit) {
  return ReadUntilEnd(limit, [fd](char* buffer, size_t size, size_t offset) {
    return pread(fd, buffer, size, static_cast<off_t>(offset));
  });
}

absl::StatusOr<std::string> ReadToEof(int fd, size_t limit) {
  return ReadUntilEnd(limit,
                      [fd](char* buffer, size_t size, size_t) { return read(fd, buffer, size); });
}

absl::StatusOr<UniqueFd> MemoryFile(const char* name, absl::string_view data) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd) return ErrnoError(errno, "memfd_create");
  RETURN_IF_ERROR(WriteAll(fd.get(), data));
  if (lseek(fd.get(), 0, SEEK_SET) < 0) return ErrnoError(errno, "lseek");
  return fd;
}

absl::StatusOr<std::vector<std::string>> ListNames(const std::string& path, bool directories) {
  auto close = [](DIR* stream) { closedir(stream); };
  std::unique_ptr<DIR, decltype(close)> stream(opendir(path.c_str()), close);
  if (!stream) return ErrnoError(errno, absl::StrCat("open ", path));
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream.get())) {
    absl::string_view name = entry->d_name;
    if (name == "." || name == ".." || (directories && entry->d_type != DT_DIR)) continue;
    names.emplace_back(name);
  }
  return names;
}

absl::Status WriteAll(int fd, absl::string_view data) {
  while (!data.empty()) {
    ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError(errno, "write");
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, absl::string_view data, mode_t mode) {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC, mode));
  return Annotate(WriteAll(fd.get(), data), path);
}

absl::Status WriteFileAtomically(const std::string& path, absl::string_view data, mode_t mode) {
  std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  absl::Status status = WriteFile(temporary, data, mode);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) < 0)
    status = ErrnoError(errno, absl::StrCat("rename to ", path));
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace feather
