#include "shim/ttrpc/server.h"

#include <asio/post.hpp>
#include <map>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/trim.h"
#include "shim/rpc/acceptor.h"
#include "shim/ttrpc/server_connection.h"

namespace feather::ttrpc {

struct Server::Impl : std::enable_shared_from_this<Server::Impl> {
  Impl(asio::io_context& context, const rpc::MethodTable& table)
      : io(context),
        methods(&table),
        acceptor(context, [this](UniqueFd socket) { Open(std::move(socket)); }) {}

  void Open(UniqueFd socket);
  void Ended(ServerConnection* connection);
  void Close();

  asio::io_context& io;
  const rpc::MethodTable* methods;
  rpc::Acceptor acceptor;
  std::map<ServerConnection*, std::shared_ptr<ServerConnection>> connections;
  std::function<void()> idle;
};

void Server::Impl::Open(UniqueFd socket) {
  auto connection = std::make_shared<ServerConnection>(
      io, std::move(socket), *methods, [impl = weak_from_this()](ServerConnection* ended) {
        if (std::shared_ptr<Impl> self = impl.lock()) self->Ended(ended);
      });
  connections.emplace(connection.get(), connection);
  absl::Cleanup unread = [&connection] { connection->Close(); };
  connection->Start();
  std::move(unread).Cancel();
}

void Server::Impl::Ended(ServerConnection* connection) {
  connections.erase(connection);
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

void Server::Impl::Close() {
  acceptor.Stop();
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

void Server::Serve(UniqueFd listener) { impl_->acceptor.Serve(std::move(listener)); }
void Server::Stop() { impl_->acceptor.Stop(); }
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

rpc::Transport Transport() {
  return {
      "ttrpc",
      [](asio::io_context& io, const rpc::MethodTable& methods) -> std::unique_ptr<rpc::Server> {
        return std::make_unique<Server>(io, methods);
      }};
}

}  // namespace feather::ttrpc
