#include "shim/ttrpc/server.h"

#include <sys/socket.h>

#include <algorithm>
#include <asio/local/stream_protocol.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "runtime/base/log.h"
#include "runtime/base/trim.h"
#include "shim/ttrpc/server_connection.h"

namespace feather::ttrpc {
namespace {

constexpr auto kFirstBackOff = std::chrono::milliseconds(1);
constexpr auto kLastBackOff = std::chrono::seconds(1);

bool SameUserAndGroup(int fd) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return false;
  if (peer.uid == geteuid() && peer.gid == getegid()) return true;
  LogWarning("ttrpc: refused a client of another user",
             {{"uid", std::to_string(peer.uid)}, {"gid", std::to_string(peer.gid)}});
  return false;
}

}  // namespace

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  Impl(asio::io_context& context, const rpc::MethodTable& table)
      : io(context), methods(&table), listener(context), back_off(context) {}

  static Async<> Accept(std::shared_ptr<Impl> self);
  void Open(UniqueFd socket);
  void Ended(ServerConnection* connection);
  void Stop();
  void Close();

  asio::io_context& io;
  const rpc::MethodTable* methods;
  asio::local::stream_protocol::acceptor listener;
  asio::steady_timer back_off;
  absl::flat_hash_map<ServerConnection*, std::shared_ptr<ServerConnection>> connections;
  std::function<void()> idle;
};

// accept4 instead of asio's accept, for SOCK_CLOEXEC from the start.
Async<> Server::Impl::Accept(std::shared_ptr<Impl> self) {
  Clock::duration pause = kFirstBackOff;
  while (self->listener.is_open()) {
    UniqueFd socket(
        accept4(self->listener.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.valid()) {
      pause = kFirstBackOff;
      self->Open(std::move(socket));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      co_await self->listener.async_wait(asio::socket_base::wait_read, kAwait);
    } else if (errno != EINTR && errno != ECONNABORTED) {
      // EMFILE, ENFILE, ENOMEM, ENOBUFS: the connection stays in the backlog, and the listener
      // readable, so only time helps.
      if (pause == kFirstBackOff) LogWarning("ttrpc: accept", {{"error", strerror(errno)}});
      self->back_off.expires_after(pause);
      co_await self->back_off.async_wait(kAwait);
      pause = std::min<Clock::duration>(pause * 2, kLastBackOff);
    }
  }
}

void Server::Impl::Open(UniqueFd socket) {
  if (!SameUserAndGroup(socket.get())) return;
  auto connection = std::make_shared<ServerConnection>(
      io, std::move(socket), *methods, [impl = weak_from_this()](ServerConnection* ended) {
        if (std::shared_ptr<Impl> self = impl.lock()) self->Ended(ended);
      });
  connections.emplace(connection.get(), connection);
  connection->Start();
}

void Server::Impl::Ended(ServerConnection* connection) {
  connections.erase(connection);
  // Gives the table back after a burst.
  if (connections.capacity() > 64 && connections.size() < connections.capacity() / 8)
    connections.rehash(0);
  TrimSoon(io);
  if (!connections.empty() || !idle) return;
  // Not from within whatever ended the connection.
  asio::post(io, [impl = weak_from_this()] {
    std::shared_ptr<Impl> self = impl.lock();
    if (!self || !self->connections.empty() || !self->idle) return;
    std::function<void()> callback = self->idle;
    callback();
  });
}

void Server::Impl::Stop() {
  asio::error_code ignored;
  listener.close(ignored);
  back_off.cancel();
}

void Server::Impl::Close() {
  Stop();
  std::vector<std::shared_ptr<ServerConnection>> open;
  for (auto& [key, connection] : connections) open.push_back(connection);
  for (auto& connection : open) connection->Close();
}

Server::Server(asio::io_context& io, const rpc::MethodTable& methods)
    : impl_(std::make_shared<Impl>(io, methods)) {}

Server::~Server() {
  impl_->idle = nullptr;
  impl_->Close();
}

void Server::Serve(UniqueFd listener) {
  asio::error_code error;
  impl_->listener.assign(asio::local::stream_protocol(), listener.get(), error);
  if (!error) {
    [[maybe_unused]] int owned = listener.Release();
    impl_->listener.native_non_blocking(true, error);
  }
  if (error) {
    LogError("ttrpc: cannot serve", {{"error", error.message()}});
    return;
  }
  Spawn(impl_->io, Impl::Accept(impl_));
}

void Server::Stop() { impl_->Stop(); }
void Server::Close() { impl_->Close(); }
size_t Server::connections() const { return impl_->connections.size(); }
void Server::OnIdle(std::function<void()> callback) { impl_->idle = std::move(callback); }

Async<> Server::Flush(Clock::duration limit) {
  Clock::time_point deadline = Clock::now() + limit;
  std::vector<std::shared_ptr<Connection>> open;
  for (auto& [key, connection] : impl_->connections) open.push_back(connection);
  for (std::shared_ptr<Connection>& connection : open)
    co_await Connection::WaitWritten(connection, deadline);
}

}  // namespace feather::ttrpc
