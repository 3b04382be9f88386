#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "shim/ttrpc/client.h"
#include "shim/ttrpc/connection.h"

namespace ttrpc {
class Request;
}

namespace feather::ttrpc {

// What a Client and its calls share. Each call, unary ones too, has an inbox of frames until it is
// forgotten; frames of other streams are dropped.
class ClientConnection : public Connection {
 public:
  using Connection::Connection;

  struct Stream {
    uint32_t id = 0;
    std::shared_ptr<Inbox> inbox;
  };
  // Sends the request on a new stream. Waits while the peer reads too slowly.
  static Async<absl::StatusOr<Stream>> Begin(std::shared_ptr<ClientConnection> self, uint8_t flags,
                                             ::ttrpc::Request request,
                                             std::optional<Clock::time_point> deadline);
  void Forget(uint32_t id);

 protected:
  std::shared_ptr<Inbox> OnFrame(Frame& frame) override;
  void OnOverflow(uint32_t stream) override;
  void OnClosed() override;

 private:
  uint32_t next_id_ = 1;
  std::map<uint32_t, std::shared_ptr<Inbox>> streams_;
};

// The payload of a response frame, or its status.
absl::StatusOr<std::string> ParseResponse(const Frame& frame);

}  // namespace feather::ttrpc
