#include "shim/ttrpc/server_connection.h"

#include <algorithm>
#include <new>
#include <utility>

#include "proto/ttrpc.pb.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/utf8.h"
#include "shim/rpc/run.h"

namespace feather::ttrpc {
namespace {

rpc::CallContext MakeContext(::ttrpc::Request& request, std::shared_ptr<Event> gone) {
  rpc::CallContext context{.metadata = {}, .deadline = std::nullopt, .gone = std::move(gone)};
  for (::ttrpc::KeyValue& pair : *request.mutable_metadata())
    context.metadata.emplace_back(std::move(*pair.mutable_key()), std::move(*pair.mutable_value()));
  if (request.timeout_nano() == 0) return context;
  // A negative one has passed already. One that overflows the clock is none.
  Clock::time_point now = Clock::now();
  std::chrono::nanoseconds timeout(std::max<int64_t>(request.timeout_nano(), 0));
  if (timeout < Clock::time_point::max() - now) context.deadline = now + timeout;
  return context;
}

}  // namespace

class ServerConnection::Stream : public rpc::ServerStream {
 public:
  Stream(std::shared_ptr<ServerConnection> connection, uint32_t id, bool server_streams,
         std::optional<Clock::time_point> deadline, std::shared_ptr<Inbox> inbox)
      : connection_(std::move(connection)),
        id_(id),
        server_streams_(server_streams),
        deadline_(deadline),
        inbox_(std::move(inbox)) {}

  Async<absl::StatusOr<std::optional<std::string>>> Receive() override {
    absl::StatusOr<std::optional<Frame>> frame = co_await Inbox::Pop(inbox_, deadline_);
    if (!frame.ok()) co_return frame.status();
    std::optional<std::string> message;
    if (*frame) message = std::move((*frame)->payload);
    co_return message;
  }

  Async<absl::Status> Send(std::string message) override {
    if (!server_streams_)
      co_return absl::InternalError("ttrpc: the method does not stream responses");
    if (message.size() > kMaxPayload)
      co_return absl::ResourceExhaustedError(OversizeText(message.size()));
    std::shared_ptr<Connection> connection = connection_;
    bool room = co_await WaitUncongested(std::move(connection), deadline_);
    if (!room) co_return absl::DeadlineExceededError("context deadline exceeded");
    if (connection_->closed()) co_return absl::CancelledError("context canceled");
    // The client may have been told already that the stream failed.
    if (!connection_->calls_.contains(id_)) co_return absl::CancelledError("stream closed");
    connection_->Connection::Send(id_, kData, 0, message);
    co_return absl::OkStatus();
  }

 private:
  std::shared_ptr<ServerConnection> connection_;
  uint32_t id_;
  bool server_streams_;
  std::optional<Clock::time_point> deadline_;
  std::shared_ptr<Inbox> inbox_;
};

ServerConnection::ServerConnection(asio::io_context& io, UniqueFd socket,
                                   const rpc::MethodTable& methods,
                                   std::function<void(ServerConnection*)> closed)
    : Connection(io, std::move(socket)), methods_(&methods), on_closed_(std::move(closed)) {}

std::shared_ptr<Inbox> ServerConnection::OnFrame(Frame& frame) {
  uint32_t id = frame.header.stream;
  if (frame.oversize())
    SendStatus(id, absl::ResourceExhaustedError(OversizeText(frame.header.length)));
  else if (id % 2 == 0)
    SendStatus(id, absl::InvalidArgumentError("StreamID must be odd for client initiated streams"));
  else if (frame.header.type == kData)
    return OnData(frame);
  else if (frame.header.type == kRequest)
    OnRequest(frame);
  return nullptr;
}

std::shared_ptr<Inbox> ServerConnection::OnData(Frame& frame) {
  uint32_t id = frame.header.stream;
  auto call = calls_.find(id);
  if (call == calls_.end()) {
    SendStatus(id, absl::InvalidArgumentError("StreamID is no longer active"));
    return nullptr;
  }
  std::shared_ptr<Inbox> inbox = call->second;
  if (!inbox) return nullptr;  // a unary call: ignored
  uint8_t flags = frame.header.flags;
  bool closing = flags & kRemoteClosed;
  bool data_while_closing = closing && !frame.payload.empty();
  if (!(flags & kNoData)) {
    if (inbox->ended()) {
      Reject(id, absl::InvalidArgumentError("data handling error: ttrpc: stream closed"));
      return nullptr;
    }
    if (inbox->full()) return inbox;
    inbox->Push(std::move(frame));
  }
  if (closing) inbox->End(absl::OkStatus());
  if (data_while_closing)
    Reject(id, absl::InvalidArgumentError("data close message cannot include data"));
  return nullptr;
}

void ServerConnection::OnOverflow(uint32_t stream) {
  Reject(stream, absl::InvalidArgumentError("data handling error: ttrpc: stream buffer full"));
}

void ServerConnection::OnRequest(Frame& frame) {
  uint32_t id = frame.header.stream;
  if (id <= last_id_) {
    SendStatus(id, absl::InvalidArgumentError("StreamID cannot be re-used and must increment"));
    return;
  }
  last_id_ = id;
  ::ttrpc::Request request;
  if (!request.ParseFromString(frame.payload)) {
    SendStatus(id, absl::InvalidArgumentError("unmarshal request error: proto: cannot parse "
                                              "invalid wire-format data"));
    return;
  }
  frame.payload = std::string();
  StartCall(id, std::move(request));
}

void ServerConnection::StartCall(uint32_t id, ::ttrpc::Request request) {
  absl::StatusOr<std::shared_ptr<const rpc::Method>> found =
      methods_->Find(request.service(), request.method());
  if (!found.ok()) {
    SendStatus(id, found.status());
    return;
  }
  std::shared_ptr<const rpc::Method> method = *std::move(found);
  std::string payload = std::move(*request.mutable_payload());
  if (method->immediate) {
    Finish(id, rpc::RunImmediate(*method, std::move(payload)));
    return;
  }
  rpc::CallContext context = MakeContext(request, gone());
  if (method->unary) {
    calls_.emplace(id, nullptr);
    Spawn(io_, RunUnary(self(), id, std::move(method), std::move(context), std::move(payload)));
    return;
  }
  auto inbox = std::make_shared<Inbox>();
  calls_.emplace(id, inbox);
  // A client that streams sends its messages as data; an empty payload of its request is none.
  if (!payload.empty() || !method->client_streams)
    inbox->Push(Frame{.header = {}, .payload = std::move(payload)});
  if (!method->client_streams) inbox->End(absl::OkStatus());
  Spawn(io_, RunStream(self(), id, std::move(method), std::move(context), std::move(inbox)));
}

Async<> ServerConnection::RunUnary(std::shared_ptr<ServerConnection> self, uint32_t id,
                                   std::shared_ptr<const rpc::Method> method,
                                   rpc::CallContext context, std::string request) {
  absl::StatusOr<std::string> result = std::string();
  try {
    result = co_await rpc::RunUnary(method, std::move(context), std::move(request));
  } catch (const std::bad_alloc&) {
    result = NoMemoryError();
  }
  self->Finish(id, std::move(result));
}

Async<> ServerConnection::RunStream(std::shared_ptr<ServerConnection> self, uint32_t id,
                                    std::shared_ptr<const rpc::Method> method,
                                    rpc::CallContext context, std::shared_ptr<Inbox> inbox) {
  absl::StatusOr<std::string> result = std::string();
  try {
    auto stream =
        std::make_shared<Stream>(self, id, method->server_streams, context.deadline, inbox);
    result = co_await rpc::RunStream(method, std::move(context), std::move(stream));
  } catch (const std::bad_alloc&) {
    result = NoMemoryError();
  }
  if (!self->calls_.contains(id)) co_return;  // rejected meanwhile, or the connection ended
  if (result.ok() && method->server_streams) {
    self->Send(id, kData, kRemoteClosed | kNoData, "");
    self->Forget(id);
  } else {
    self->Finish(id, std::move(result));
  }
}

void ServerConnection::Finish(uint32_t id, absl::StatusOr<std::string> result) try {
  Forget(id);
  if (!result.ok()) {
    SendStatus(id, result.status());
    return;
  }
  ::ttrpc::Response response;
  response.set_payload(*std::move(result));
  if (size_t size = response.ByteSizeLong(); size > kMaxPayload)
    SendStatus(id, absl::ResourceExhaustedError(OversizeText(size)));
  else
    SendMessage(id, kResponse, 0, response);
} catch (...) {
  // No memory for the answer: the client must not wait for it.
  Close();
  throw;
}

void ServerConnection::Reject(uint32_t id, const absl::Status& status) {
  if (auto call = calls_.find(id); call != calls_.end() && call->second) {
    call->second->End(status);
    Forget(id);
  }
  SendStatus(id, status);
}

void ServerConnection::SendStatus(uint32_t id, const absl::Status& status) {
  // Room for the header of the message; a longer text tells nobody more.
  constexpr size_t kMaxText = 64 << 10;
  ::ttrpc::Response response;
  response.mutable_status()->set_code(status.raw_code());
  response.mutable_status()->set_message(ValidUtf8(status.message().substr(0, kMaxText)));
  SendMessage(id, kResponse, 0, response);
}

void ServerConnection::Forget(uint32_t id) {
  calls_.erase(id);
}

void ServerConnection::OnClosed() {
  for (auto& [id, inbox] : std::exchange(calls_, {}))
    if (inbox) inbox->End(absl::CancelledError("context canceled"));
  on_closed_(this);
}

}  // namespace feather::ttrpc
