#include "shim/ttrpc/client.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/home_namespaces.h"
#include "shim/ttrpc/client_connection.h"

namespace feather::ttrpc {
namespace {

// How long Connect waits for room in a full backlog.
constexpr auto kConnectLimit = std::chrono::seconds(5);

std::optional<Clock::time_point> DeadlineAfter(std::optional<Clock::duration> timeout) {
  if (!timeout) return std::nullopt;
  Clock::time_point now = Clock::now();
  if (*timeout >= Clock::time_point::max() - now) return std::nullopt;
  return now + *timeout;
}

::ttrpc::Request MakeRequest(std::string service, std::string method, std::string payload,
                             Client::Metadata metadata) {
  ::ttrpc::Request request;
  request.set_service(std::move(service));
  request.set_method(std::move(method));
  request.set_payload(std::move(payload));
  for (auto& [key, value] : metadata) {
    ::ttrpc::KeyValue* pair = request.add_metadata();
    pair->set_key(std::move(key));
    pair->set_value(std::move(value));
  }
  return request;
}

// Go's name of the type, as in its client's error text.
absl::Status UnexpectedFrame(uint8_t type) {
  absl::string_view name = type == kRequest ? "request" : type == kData ? "data" : "unknown";
  return absl::UnknownError(
      absl::StrCat("unexpected \"", name, "\" message received: protocol error"));
}

// Forgets its stream at the end.
class OpenStream {
 public:
  OpenStream(std::shared_ptr<ClientConnection> connection, ClientConnection::Stream stream)
      : connection_(std::move(connection)), stream_(std::move(stream)) {}
  OpenStream(const OpenStream&) = delete;
  OpenStream& operator=(const OpenStream&) = delete;
  ~OpenStream() { Forget(); }

  void Forget() { connection_->Forget(stream_.id); }
  const std::shared_ptr<ClientConnection>& connection() const { return connection_; }
  uint32_t id() const { return stream_.id; }
  const std::shared_ptr<Inbox>& inbox() const { return stream_.inbox; }

 private:
  std::shared_ptr<ClientConnection> connection_;
  ClientConnection::Stream stream_;
};

Async<absl::StatusOr<std::string>> UnaryCall(std::shared_ptr<ClientConnection> connection,
                                             ::ttrpc::Request request,
                                             std::optional<Clock::time_point> deadline) {
  auto begun = co_await ClientConnection::Begin(connection, 0, std::move(request), deadline);
  if (!begun.ok()) co_return begun.status();
  OpenStream stream(std::move(connection), *std::move(begun));
  absl::StatusOr<std::optional<Frame>> frame = co_await Inbox::Pop(stream.inbox(), deadline);
  if (!frame.ok()) co_return frame.status();
  // The inbox of a unary call has no regular end, so there is a frame.
  if ((*frame)->header.type != kResponse) co_return UnexpectedFrame((*frame)->header.type);
  co_return ParseResponse(**frame);
}

class StreamCall : public ClientStream {
 public:
  StreamCall(std::shared_ptr<ClientConnection> connection, ClientConnection::Stream stream,
             bool client_streams, bool server_streams, std::optional<Clock::time_point> deadline)
      : stream_(std::move(connection), std::move(stream)),
        can_send_(client_streams),
        server_streams_(server_streams),
        deadline_(deadline) {}

  Async<absl::Status> Send(std::string message) override {
    if (message.size() > kMaxPayload)
      co_return absl::ResourceExhaustedError(OversizeText(message.size()));
    std::shared_ptr<Connection> connection = stream_.connection();
    bool room = co_await Connection::WaitUncongested(std::move(connection), deadline_);
    if (!room) co_return absl::DeadlineExceededError("context deadline exceeded");
    co_return SendNow(0, message);
  }

  absl::Status CloseSend() override {
    absl::Status sent = SendNow(kRemoteClosed | kNoData, "");
    can_send_ = false;
    return sent;
  }

  Async<absl::StatusOr<std::optional<std::string>>> Receive() override {
    if (ended_) co_return std::optional<std::string>();
    absl::StatusOr<std::optional<Frame>> next = co_await Inbox::Pop(stream_.inbox(), deadline_);
    if (!next.ok()) co_return next.status();
    Frame frame = **std::move(next);
    if (frame.header.type == kData && server_streams_) {
      if (frame.header.flags & kRemoteClosed) End();
      std::optional<std::string> message;
      if (!(frame.header.flags & kNoData)) message = std::move(frame.payload);
      co_return message;
    }
    End();
    if (frame.header.type != kResponse) co_return UnexpectedFrame(frame.header.type);
    absl::StatusOr<std::string> response = ParseResponse(frame);
    if (!response.ok()) co_return response.status();
    co_return std::optional<std::string>(*std::move(response));
  }

 private:
  absl::Status SendNow(uint8_t flags, absl::string_view message) {
    if (stream_.connection()->closed()) return absl::UnavailableError("ttrpc: closed");
    if (!can_send_ || ended_) return absl::FailedPreconditionError("ttrpc: stream closed");
    stream_.connection()->Send(stream_.id(), kData, flags, message);
    return absl::OkStatus();
  }
  void End() {
    ended_ = true;
    stream_.Forget();
  }

  OpenStream stream_;
  bool can_send_;
  bool server_streams_;
  bool ended_ = false;
  std::optional<Clock::time_point> deadline_;
};

class ClientImpl : public Client {
 public:
  explicit ClientImpl(std::shared_ptr<ClientConnection> connection)
      : connection_(std::move(connection)) {}
  ~ClientImpl() override { connection_->Close(); }

  Async<absl::StatusOr<std::string>> Call(std::string service, std::string method,
                                          std::string request,
                                          std::optional<Clock::duration> timeout,
                                          Metadata metadata) override {
    return UnaryCall(
        connection_,
        MakeRequest(std::move(service), std::move(method), std::move(request), std::move(metadata)),
        DeadlineAfter(timeout));
  }

  Async<absl::StatusOr<std::shared_ptr<ClientStream>>> Open(std::string service, std::string method,
                                                            StreamOptions options) override {
    std::shared_ptr<ClientConnection> connection = connection_;
    std::optional<Clock::time_point> deadline = DeadlineAfter(options.timeout);
    uint8_t flags = options.client_streams ? kRemoteOpen : kRemoteClosed;
    auto begun = co_await ClientConnection::Begin(
        connection, flags,
        MakeRequest(std::move(service), std::move(method), std::move(options.request),
                    std::move(options.metadata)),
        deadline);
    if (!begun.ok()) co_return begun.status();
    co_return std::make_shared<StreamCall>(connection, *std::move(begun), options.client_streams,
                                           options.server_streams, deadline);
  }

  bool closed() const override { return connection_->closed(); }
  void Close() override { connection_->Close(); }

 private:
  std::shared_ptr<ClientConnection> connection_;
};

// containerd's socket may belong to another user, by its configuration.
int ConnectTo(int fd, const sockaddr_un& address) {
  RaisedCapabilities raised({CAP_DAC_OVERRIDE});
  return connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

absl::Status ConnectError(int error, const std::string& file) {
  const std::string text = absl::StrCat("connect ", file, ": ", strerror(error));
  if (error == EAGAIN) return absl::DeadlineExceededError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::UnavailableError(text);
}

}  // namespace

// connect(2) by hand: asio takes EAGAIN of a unix socket, which means a full backlog, for a
// connection in progress. It never blocks on a non-blocking socket.
Async<absl::StatusOr<UniqueFd>> ConnectSocket(std::string path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string file(absl::StripPrefix(path, "unix://"));
  if (!absl::StartsWith(file, "/") || file.size() >= sizeof(address.sun_path))
    co_return absl::InvalidArgumentError(absl::StrCat("not a socket path: ", path));
  memcpy(address.sun_path, file.data(), file.size());
  UniqueFd fd;
  {
    // Or a pod's network namespace would live as long as the connection.
    AtHome at_home;
    fd.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  }
  if (!fd.valid()) co_return absl::UnavailableError(absl::StrCat("socket: ", strerror(errno)));
  Clock::time_point deadline = Clock::now() + kConnectLimit;
  Clock::duration pause = std::chrono::milliseconds(1);
  while (ConnectTo(fd.get(), address) < 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN || Clock::now() >= deadline) co_return ConnectError(errno, file);
    co_await SleepFor(pause);
    pause = std::min<Clock::duration>(pause * 2, std::chrono::milliseconds(50));
  }
  co_return fd;
}

Async<absl::StatusOr<std::shared_ptr<Client>>> Client::Connect(asio::io_context& io,
                                                               std::string path) {
  absl::StatusOr<UniqueFd> fd = co_await ConnectSocket(std::move(path));
  if (!fd.ok()) co_return fd.status();
  co_return FromSocket(io, *std::move(fd));
}

std::shared_ptr<Client> Client::FromSocket(asio::io_context& io, UniqueFd socket) {
  auto connection = std::make_shared<ClientConnection>(io, std::move(socket));
  connection->Start();
  return std::make_shared<ClientImpl>(std::move(connection));
}

}  // namespace feather::ttrpc
