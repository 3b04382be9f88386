#include "runtime/io/console_socket.h"

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

// Descriptors that a message may carry before the kernel truncates it: one more than is right is
// enough to see that it is wrong.
constexpr size_t kMostDescriptors = 4;

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

std::vector<UniqueFd> TakeDescriptors(msghdr* message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr; c = CMSG_NXTHDR(message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

// The terminal that came with one message; Unavailable if there is no message yet.
absl::StatusOr<UniqueFd> ReadMaster(int connection) {
  std::array<char, 4096> name;  // of the terminal, which nobody needs
  iovec data = {name.data(), name.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostDescriptors * sizeof(int))> control;
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t n = recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return absl::UnavailableError("not yet");
  if (n < 0) return absl::UnknownError(absl::StrCat("recvmsg: ", ErrnoText(errno)));
  std::vector<UniqueFd> fds = TakeDescriptors(&message);
  if (fds.size() != 1 || (message.msg_flags & MSG_CTRUNC) != 0)
    return absl::UnknownError(absl::StrCat("the runtime sent ", fds.size(), " descriptors, not 1"));
  unsigned int number;
  if (ioctl(fds[0].get(), TIOCGPTN, &number) < 0)
    return absl::UnknownError("what the runtime sent is not the master of a terminal");
  return std::move(fds[0]);
}

}  // namespace

absl::StatusOr<std::shared_ptr<ConsoleSocket>> ConsoleSocket::Listen(asio::io_context& io) {
  std::string runtime_dir = Environment("XDG_RUNTIME_DIR");
  // The directory may be the user's who started containerd.
  RaisedCapabilities raised({CAP_DAC_OVERRIDE});
  std::string parent = runtime_dir.empty() ? Environment("TMPDIR") : runtime_dir;
  auto socket = std::make_shared<ConsoleSocket>(io);
  RETURN_IF_ERROR(socket->Bind(parent.empty() ? "/tmp" : parent));
  // The XDG specification lets a cleaner remove what has no sticky bit.
  if (!runtime_dir.empty() && chmod(socket->path_.c_str(), 01755) < 0)
    return ErrnoError(errno, absl::StrCat("chmod ", socket->path_));
  return socket;
}

absl::Status ConsoleSocket::Bind(const std::string& parent) {
  std::string directory = absl::StrCat(parent, "/ptyXXXXXX");
  if (mkdtemp(directory.data()) == nullptr)
    return ErrnoError(errno, absl::StrCat("make a directory in ", parent));
  directory_ = std::move(directory);
  path_ = absl::StrCat(directory_, "/pty.sock");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof(address.sun_path))
    return absl::UnknownError(absl::StrCat("console socket path too long: ", path_));
  memcpy(address.sun_path, path_.data(), path_.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return ErrnoError(errno, "make the console socket");
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (bind(fd.get(), generic, sizeof(address)) < 0 || listen(fd.get(), 1) < 0)
    return ErrnoError(errno, absl::StrCat("listen on ", path_));
  ASSIGN_OR_RETURN(awaited_, MakeDescriptor(io_, std::move(fd)));
  return absl::OkStatus();
}

Async<absl::StatusOr<UniqueFd>> ConsoleSocket::Receive(Clock::time_point deadline) {
  std::shared_ptr<ConsoleSocket> self = shared_from_this();
  asio::steady_timer timer(io_, deadline);
  timer.async_wait([self](const asio::error_code& error) {
    if (error) return;
    self->late_ = true;
    asio::error_code ignored;
    if (self->awaited_) self->awaited_->cancel(ignored);
  });
  absl::StatusOr<UniqueFd> master = co_await AcceptAndRead();
  Close();
  co_return master;
}

Async<absl::StatusOr<UniqueFd>> ConsoleSocket::AcceptAndRead() {
  UniqueFd connection;
  while (true) {
    if (!awaited_) co_return absl::CancelledError("the console socket has been closed");
    connection.Reset(
        accept4(awaited_->native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection) break;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      co_return absl::UnknownError(absl::StrCat("accept: ", ErrnoText(errno)));
    absl::Status readable = co_await WaitReadable();
    CO_RETURN_IF_ERROR(readable);
  }
  CO_ASSIGN_OR_RETURN(awaited_, MakeDescriptor(io_, std::move(connection)));
  while (true) {
    absl::StatusOr<UniqueFd> master = ReadMaster(awaited_->native_handle());
    if (!absl::IsUnavailable(master.status())) co_return master;
    absl::Status readable = co_await WaitReadable();
    CO_RETURN_IF_ERROR(readable);
  }
}

Async<absl::Status> ConsoleSocket::WaitReadable() {
  DescriptorPtr awaited = awaited_;
  if (!late_) co_await awaited->async_wait(Descriptor::wait_read, kAwait);
  if (!awaited_) co_return absl::CancelledError("the console socket has been closed");
  if (late_) co_return absl::DeadlineExceededError("the runtime has not sent a terminal");
  co_return absl::OkStatus();
}

void ConsoleSocket::Close() {
  RaisedCapabilities raised({CAP_DAC_OVERRIDE});
  asio::error_code ignored;
  if (awaited_) awaited_->close(ignored);
  awaited_.reset();
  if (!path_.empty()) unlink(path_.c_str());
  if (!directory_.empty()) rmdir(directory_.c_str());
  directory_.clear();
  path_.clear();
}

}  // namespace feather
