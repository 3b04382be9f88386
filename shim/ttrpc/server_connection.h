#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "shim/rpc/method_table.h"
#include "shim/ttrpc/connection.h"

namespace ttrpc {
class Request;
}

namespace feather::ttrpc {

// One client of a Server: starts a handler per request and writes its answer. Calls hold their
// connection; one that outlives it ends with its answer thrown away.
class ServerConnection : public Connection {
 public:
  // `closed` is called once, at the end.
  ServerConnection(asio::io_context& io, UniqueFd socket, const rpc::MethodTable& methods,
                   std::function<void(ServerConnection*)> closed);

 protected:
  std::shared_ptr<Inbox> OnFrame(Frame& frame) override;
  void OnOverflow(uint32_t stream) override;
  void OnClosed() override;

 private:
  class Stream;

  std::shared_ptr<ServerConnection> self() {
    return std::static_pointer_cast<ServerConnection>(shared_from_this());
  }
  std::shared_ptr<Inbox> OnData(Frame& frame);
  void OnRequest(Frame& frame);
  void StartCall(uint32_t id, ::ttrpc::Request request);
  static Async<> RunUnary(std::shared_ptr<ServerConnection> self, uint32_t id,
                          std::shared_ptr<const rpc::Method> method, rpc::CallContext context,
                          std::string request);
  static Async<> RunStream(std::shared_ptr<ServerConnection> self, uint32_t id,
                           std::shared_ptr<const rpc::Method> method, rpc::CallContext context,
                           std::shared_ptr<Inbox> inbox);
  void Finish(uint32_t id, absl::StatusOr<std::string> result);
  // Ends the stream, if it is one, with an error.
  void Reject(uint32_t id, const absl::Status& status);
  void SendStatus(uint32_t id, const absl::Status& status);
  void Forget(uint32_t id);

  const rpc::MethodTable* methods_;
  std::function<void(ServerConnection*)> on_closed_;
  uint32_t last_id_ = 0;
  // The calls that have not ended; unary ones have no inbox.
  std::map<uint32_t, std::shared_ptr<Inbox>> calls_;
};

}  // namespace feather::ttrpc
