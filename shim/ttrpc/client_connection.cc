#include "shim/ttrpc/client_connection.h"

#include <utility>

#include "proto/ttrpc.pb.h"

namespace feather::ttrpc {
namespace {

absl::Status ClosedError() { return absl::UnavailableError("ttrpc: closed"); }

}  // namespace

Async<absl::StatusOr<ClientConnection::Stream>> ClientConnection::Begin(
    std::shared_ptr<ClientConnection> self, uint8_t flags, ::ttrpc::Request request,
    std::optional<Clock::time_point> deadline) {
  // Converted outside of the await: g++ 12 compiles a conversion within it into a trap.
  std::shared_ptr<Connection> connection = self;
  bool room = co_await WaitUncongested(std::move(connection), deadline);
  if (!room) co_return absl::DeadlineExceededError("context deadline exceeded");
  // Ids only grow; when they are used up the connection is.
  if (self->next_id_ == 0xffffffff) self->Close();
  if (self->closed()) co_return ClosedError();
  if (deadline) {
    Clock::duration left = *deadline - Clock::now();
    if (left <= Clock::duration::zero())
      co_return absl::DeadlineExceededError("context deadline exceeded");
    request.set_timeout_nano(std::chrono::nanoseconds(left).count());
  }
  size_t size = request.ByteSizeLong();
  if (size > kMaxPayload) co_return absl::ResourceExhaustedError(OversizeText(size));
  Stream stream{.id = self->next_id_, .inbox = std::make_shared<Inbox>()};
  self->next_id_ += 2;
  self->streams_.emplace(stream.id, stream.inbox);
  self->SendMessage(stream.id, kRequest, flags, request);
  co_return stream;
}

void ClientConnection::Forget(uint32_t id) {
  streams_.erase(id);
}

std::shared_ptr<Inbox> ClientConnection::OnFrame(Frame& frame) {
  auto found = streams_.find(frame.header.stream);
  if (found == streams_.end()) return nullptr;  // late, or nobody's
  std::shared_ptr<Inbox> inbox = found->second;
  if (frame.oversize()) {
    inbox->End(absl::ResourceExhaustedError(OversizeText(frame.header.length)));
    return nullptr;
  }
  if (inbox->full() && !inbox->ended()) return inbox;
  inbox->Push(std::move(frame));
  return nullptr;
}

void ClientConnection::OnOverflow(uint32_t stream) {
  if (auto found = streams_.find(stream); found != streams_.end())
    found->second->End(absl::ResourceExhaustedError("ttrpc: stream buffer full"));
}

void ClientConnection::OnClosed() {
  for (auto& [id, inbox] : std::exchange(streams_, {})) inbox->End(ClosedError());
}

absl::StatusOr<std::string> ParseResponse(const Frame& frame) {
  ::ttrpc::Response response;
  if (!response.ParseFromString(frame.payload))
    return absl::InternalError("ttrpc: error unmarshalling response: invalid wire-format data");
  if (response.status().code() != 0)
    return absl::Status(static_cast<absl::StatusCode>(response.status().code()),
                        response.status().message());
  return std::move(*response.mutable_payload());
}

}  // namespace feather::ttrpc
