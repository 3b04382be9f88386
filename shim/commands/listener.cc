#include "shim/commands/listener.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
constexpr useconds_t kLockStep = 1000;

std::string Directory(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash == 0 ? 1 : slash);
}

sockaddr_un Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::Status MakeDirectories(const std::string& path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    std::string directory = path.substr(0, slash);
    if (mkdir(directory.c_str(), 0700) < 0 && errno != EEXIST)
      return ErrnoError(errno, absl::StrCat("mkdir ", directory));
    if (slash == std::string::npos) return absl::OkStatus();
  }
}

// Whoever else may write into the directory could put a socket of his own in the place of a shim's,
// and with a sticky bit before there is one: the names can be foretold.
absl::Status CheckDirectory(int fd, const std::string& directory) {
  struct stat status;
  if (fstat(fd, &status) < 0) return ErrnoError(errno, absl::StrCat("stat ", directory));
  if (status.st_uid != geteuid() && status.st_uid != 0)
    return absl::PermissionDeniedError(
        absl::StrCat("socket directory ", directory, " belongs to user ", status.st_uid));
  if ((status.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return absl::PermissionDeniedError(
        absl::StrCat("other users may write into socket directory ", directory));
  return absl::OkStatus();
}

// A lock of the given kind (flock(2)). Shims hold it for the time of two system calls, but whoever
// may read the directory can hold it for ever.
absl::Status Lock(int fd, int kind, std::chrono::milliseconds limit, const std::string& directory) {
  const Clock::time_point end = Clock::now() + limit;
  while (flock(fd, kind | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK && errno != EINTR)
      return ErrnoError(errno, absl::StrCat("flock ", directory));
    if (Clock::now() >= end)
      return absl::DeadlineExceededError(
          absl::StrCat("socket directory ", directory, " is locked by another process"));
    usleep(kLockStep);
  }
  return absl::OkStatus();
}

// The directory, made when it is missing, with a lock.
absl::StatusOr<UniqueFd> LockDirectory(const std::string& directory, int kind,
                                       std::chrono::milliseconds limit) {
  absl::StatusOr<UniqueFd> fd = OpenFile(directory, O_RDONLY | O_DIRECTORY);
  if (absl::IsNotFound(fd.status())) {
    RETURN_IF_ERROR(MakeDirectories(directory));
    fd = OpenFile(directory, O_RDONLY | O_DIRECTORY);
  }
  if (!fd.ok()) return fd;
  RETURN_IF_ERROR(CheckDirectory(fd->get(), directory));
  RETURN_IF_ERROR(Lock(fd->get(), kind, limit, directory));
  return fd;
}

// Invalid, without an error, when the name is taken.
absl::StatusOr<UniqueFd> BindAndListen(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return ErrnoError(errno, "socket");
  // The file will have the mode that the socket has when it is bound.
  if (fchmod(fd.get(), 0600) < 0) return ErrnoError(errno, "fchmod of a socket");
  sockaddr_un address = Address(path);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0) {
    if (errno == EADDRINUSE) return UniqueFd();
    return ErrnoError(errno, absl::StrCat("bind ", path));
  }
  if (listen(fd.get(), SOMAXCONN) < 0) {
    absl::Status error = ErrnoError(errno, absl::StrCat("listen ", path));
    unlink(path.c_str());
    return error;
  }
  return fd;
}

absl::Status CheckLength(const std::string& path) {
  if (!path.empty() && path.size() <= kMaxPath) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("socket path of ", path.size(), " bytes, at most ", kMaxPath, ": ", path));
}

}  // namespace

bool SomebodyListens(const std::string& path) {
  if (!CheckLength(path).ok()) return false;
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = Address(path);
  return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 ||
         (errno != ECONNREFUSED && errno != ENOENT);
}

pid_t ListenerPid(const std::string& path) {
  if (!CheckLength(path).ok()) return 0;
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = Address(path);
  ucred peer = {};
  socklen_t size = sizeof peer;
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) < 0 ||
      getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
    return 0;
  return peer.pid;
}

absl::StatusOr<UniqueFd> ListenOrFind(const std::string& path) {
  RETURN_IF_ERROR(CheckLength(path));
  {
    ASSIGN_OR_RETURN(UniqueFd lock, LockDirectory(Directory(path), LOCK_SH, kLockLimit));
    ASSIGN_OR_RETURN(UniqueFd listener, BindAndListen(path));
    if (listener) return listener;
  }
  if (SomebodyListens(path)) return UniqueFd();
  ASSIGN_OR_RETURN(UniqueFd lock, LockDirectory(Directory(path), LOCK_EX, kLockLimit));
  // It may have been about to listen.
  if (SomebodyListens(path)) return UniqueFd();
  if (unlink(path.c_str()) < 0 && errno != ENOENT)
    return ErrnoError(errno, absl::StrCat("remove dead socket ", path));
  ASSIGN_OR_RETURN(UniqueFd listener, BindAndListen(path));
  if (!listener) return absl::AlreadyExistsError(absl::StrCat("bind ", path, ": address in use"));
  return listener;
}

absl::StatusOr<UniqueFd> ListenAnew(const std::string& path) {
  RETURN_IF_ERROR(CheckLength(path));
  ASSIGN_OR_RETURN(UniqueFd lock, LockDirectory(Directory(path), LOCK_EX, kLockLimit));
  unlink(path.c_str());
  ASSIGN_OR_RETURN(UniqueFd listener, BindAndListen(path));
  if (!listener) return absl::AlreadyExistsError(absl::StrCat("bind ", path, ": address in use"));
  return listener;
}

absl::Status RemoveDeadSocket(const std::string& path) {
  RETURN_IF_ERROR(CheckLength(path));
  struct stat status;
  if (lstat(path.c_str(), &status) < 0)
    return errno == ENOENT ? absl::OkStatus() : ErrnoError(errno, absl::StrCat("stat ", path));
  if (!S_ISSOCK(status.st_mode))
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a socket"));
  if (SomebodyListens(path)) return absl::OkStatus();
  ASSIGN_OR_RETURN(UniqueFd lock, LockDirectory(Directory(path), LOCK_EX, kRemovalLockLimit));
  if (SomebodyListens(path)) return absl::OkStatus();
  if (unlink(path.c_str()) < 0 && errno != ENOENT)
    return ErrnoError(errno, absl::StrCat("remove dead socket ", path));
  return absl::OkStatus();
}

std::string BoundPath(int socket) {
  sockaddr_un address = {};
  socklen_t size = sizeof address;
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) < 0) return "";
  if (address.sun_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path)) return "";
  return std::string(address.sun_path, strnlen(address.sun_path, sizeof address.sun_path));
}

}  // namespace feather
