#include "shim/rpc/acceptor.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <asio/local/stream_protocol.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "runtime/base/async.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"

namespace feather::rpc {
namespace {

constexpr auto kFirstBackOff = std::chrono::milliseconds(1);
constexpr auto kLastBackOff = std::chrono::seconds(1);

bool SameUserAndGroup(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return false;
  if (peer.uid == geteuid() && peer.gid == getegid()) return true;
  LogWarning("refused a client of another user",
             {{"uid", std::to_string(peer.uid)}, {"gid", std::to_string(peer.gid)}});
  return false;
}

}  // namespace

struct Acceptor::Impl {
  Impl(asio::io_context& context, Callback callback)
      : io(context), accepted(std::move(callback)), listener(context), back_off(context) {}

  static Async<> Accept(std::shared_ptr<Impl> self);

  asio::io_context& io;
  Callback accepted;
  asio::local::stream_protocol::acceptor listener;
  asio::steady_timer back_off;
};

// accept4 instead of asio's accept, for SOCK_CLOEXEC from the start.
Async<> Acceptor::Impl::Accept(std::shared_ptr<Impl> self) {
  Clock::duration pause = kFirstBackOff;
  while (self->listener.is_open()) {
    UniqueFd socket(
        accept4(self->listener.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.valid()) {
      pause = kFirstBackOff;
      try {
        if (SameUserAndGroup(socket.get())) self->accepted(std::move(socket));
      } catch (const std::bad_alloc&) {
        // It has been closed; others come.
        NoMemoryError().IgnoreError();
      }
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      co_await self->listener.async_wait(asio::socket_base::wait_read, kAwait);
    } else if (errno != EINTR && errno != ECONNABORTED) {
      // EMFILE, ENFILE, ENOMEM, ENOBUFS: the connection stays in the backlog, and the listener
      // readable, so only time helps.
      if (pause == kFirstBackOff)
        LogWarning("cannot accept a connection", {{"error", strerror(errno)}});
      self->back_off.expires_after(pause);
      co_await self->back_off.async_wait(kAwait);
      pause = std::min<Clock::duration>(pause * 2, kLastBackOff);
    }
  }
}

Acceptor::Acceptor(asio::io_context& io, Callback callback)
    : impl_(std::make_shared<Impl>(io, std::move(callback))) {}

Acceptor::~Acceptor() { Stop(); }

void Acceptor::Serve(UniqueFd listener) {
  asio::error_code error;
  impl_->listener.assign(asio::local::stream_protocol(), listener.get(), error);
  if (!error) {
    [[maybe_unused]] int owned = listener.Release();
    impl_->listener.native_non_blocking(true, error);
  }
  if (error) {
    LogError("cannot accept connections", {{"error", error.message()}});
    return;
  }
  Spawn(impl_->io, Impl::Accept(impl_));
}

void Acceptor::Stop() {
  asio::error_code ignored;
  impl_->listener.close(ignored);
  impl_->back_off.cancel();
}

}  // namespace feather::rpc
