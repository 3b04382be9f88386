// A client of the shim's gRPC in the place of one of its TTRPC, for the programs that this is
// linked into: FEATHER_TEST_TRANSPORT=grpc has FakeContainerd use it.
#include "tests/support/grpc_client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shim/grpc/call.h"
#include "shim/grpc/completions.h"

namespace feather::test {
namespace {

constexpr auto kConnectLimit = std::chrono::seconds(30);

struct Call {
  ::grpc::ClientContext context;
  std::unique_ptr<::grpc::GenericClientAsyncResponseReader> reader;
  ::grpc::ByteBuffer answer;
  ::grpc::Status status;
};

class Client : public ttrpc::Client {
 public:
  Client(asio::io_context& io, absl::string_view address) {
    ::grpc::ChannelArguments arguments;
    // A connection of its own, as containerd has for each container.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, 1 << 20);
    arguments.SetMaxReceiveMessageSize(-1);
    grpc::SignalsBlocked blocked;
    completions_ =
        std::make_shared<grpc::Completions>(io, std::make_unique<::grpc::CompletionQueue>());
    channel_ = ::grpc::CreateCustomChannel(std::string(address),
                                           ::grpc::InsecureChannelCredentials(), arguments);
    stub_ = std::make_shared<::grpc::GenericStub>(channel_);
  }
  ~Client() override { CloseNow(); }

  static Async<absl::Status> WaitReady(std::shared_ptr<Client> self) {
    auto deadline = std::chrono::system_clock::now() + kConnectLimit;
    while (true) {
      if (!self->channel_) co_return absl::UnavailableError("closed");
      grpc_connectivity_state state = self->channel_->GetState(/*try_to_connect=*/true);
      if (state == GRPC_CHANNEL_READY) co_return absl::OkStatus();
      if (state == GRPC_CHANNEL_TRANSIENT_FAILURE)
        co_return absl::UnavailableError("nobody listens");
      std::shared_ptr<::grpc::Channel> channel = self->channel_;
      std::shared_ptr<grpc::Completions> completions = self->completions_;
      bool changed = co_await grpc::Completions::Await(completions, channel, [&](void* tag) {
        channel->NotifyOnStateChange(state, deadline, completions->queue(), tag);
      });
      if (!changed) co_return absl::DeadlineExceededError("cannot connect");
    }
  }

  Async<absl::StatusOr<std::string>> Call(std::string service, std::string method,
                                          std::string request,
                                          std::optional<Clock::duration> timeout,
                                          Metadata metadata) override {
    auto call = std::make_shared<test::Call>();
    if (timeout)
      call->context.set_deadline(
          std::chrono::system_clock::now() +
          std::chrono::duration_cast<std::chrono::system_clock::duration>(*timeout));
    for (const auto& [key, value] : metadata) call->context.AddMetadata(key, value);
    std::shared_ptr<grpc::Completions> completions = completions_;
    if (!channel_) co_return absl::UnavailableError("ttrpc: closed");
    calls_.push_back(call);
    std::string path = absl::StrCat("/", service, "/", method);
    std::shared_ptr<::grpc::GenericStub> stub = stub_;
    co_await grpc::Completions::Await(completions, call, [&](void* tag) {
      call->reader = stub->PrepareUnaryCall(&call->context, path, grpc::ToBuffer(request),
                                            completions->queue());
      call->reader->StartCall();
      call->reader->Finish(&call->answer, &call->status, tag);
    });
    if (call->status.ok()) co_return grpc::ToString(call->answer);
    // In the words of the other transport, which the tests know.
    if (call->status.error_code() == ::grpc::StatusCode::UNAVAILABLE)
      co_return absl::UnavailableError(
          absl::StrCat("ttrpc: closed (", call->status.error_message(), ")"));
    if (call->status.error_code() == ::grpc::StatusCode::DEADLINE_EXCEEDED)
      co_return absl::DeadlineExceededError("context deadline exceeded");
    co_return absl::Status(static_cast<absl::StatusCode>(call->status.error_code()),
                           call->status.error_message());
  }

  Async<absl::StatusOr<std::shared_ptr<ttrpc::ClientStream>>> Open(std::string, std::string,
                                                                   StreamOptions) override {
    co_return absl::UnimplementedError("no streams");
  }

  bool closed() const override {
    return !channel_ || channel_->GetState(false) != GRPC_CHANNEL_READY;
  }
  void Close() override { CloseNow(); }

 private:
  void CloseNow() {
    for (const std::weak_ptr<test::Call>& weak : calls_)
      if (std::shared_ptr<test::Call> call = weak.lock()) call->context.TryCancel();
    // Calls hold the rest until they have been told.
    stub_.reset();
    channel_.reset();
    completions_.reset();
  }

  std::shared_ptr<grpc::Completions> completions_;
  std::shared_ptr<::grpc::Channel> channel_;
  std::shared_ptr<::grpc::GenericStub> stub_;
  std::vector<std::weak_ptr<test::Call>> calls_;
};

Async<absl::StatusOr<std::shared_ptr<ttrpc::Client>>> Connect(asio::io_context& io,
                                                              std::string path) {
  auto client = std::make_shared<Client>(io, absl::StrCat("unix:", path));
  absl::Status status = co_await Client::WaitReady(client);
  if (!status.ok()) co_return status;
  co_return std::shared_ptr<ttrpc::Client>(std::move(client));
}

[[maybe_unused]] const bool registered = [] {
  GrpcConnect() = &Connect;
  return true;
}();

}  // namespace
}  // namespace feather::test
