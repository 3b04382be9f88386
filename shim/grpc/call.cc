#include "shim/grpc/call.h"

#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"
#include "shim/rpc/run.h"

namespace feather::grpc {
namespace {

rpc::CallContext MakeContext(const Call& call) {
  rpc::CallContext context{.metadata = {}, .deadline = std::nullopt, .gone = call.gone};
  for (const auto& [key, value] : call.context.client_metadata())
    context.metadata.emplace_back(std::string(key.data(), key.size()),
                                  std::string(value.data(), value.size()));
  auto deadline = call.context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return context;
  // One that overflows the clock is none.
  auto left = deadline - std::chrono::system_clock::now();
  Clock::time_point now = Clock::now();
  if (left < Clock::time_point::max() - now)
    context.deadline = now + std::chrono::duration_cast<Clock::duration>(left);
  return context;
}

absl::Status Oversize(size_t size) {
  return absl::ResourceExhaustedError(
      absl::StrCat("message of ", size, " bytes is longer than ", kMaxMessage));
}

::grpc::Status ToGrpc(const absl::Status& status) {
  // A longer text tells nobody more, and header lists have their limits.
  constexpr size_t kMaxText = 64 << 10;
  return ::grpc::Status(static_cast<::grpc::StatusCode>(status.code()),
                        ValidUtf8(status.message().substr(0, kMaxText)));
}

class Stream : public rpc::ServerStream {
 public:
  Stream(std::shared_ptr<Completions> completions, std::shared_ptr<Call> call, bool client_streams)
      : completions_(std::move(completions)),
        call_(std::move(call)),
        client_streams_(client_streams) {}

  Async<absl::StatusOr<std::optional<std::string>>> Receive() override {
    std::optional<std::string> message;
    if (!std::exchange(more_, client_streams_)) co_return message;
    std::shared_ptr<Call> call = call_;
    bool ok = co_await Completions::Await(
        completions_, call, [c = call.get()](void* tag) { c->stream.Read(&c->incoming, tag); });
    if (call->gone->set()) co_return absl::CancelledError("context canceled");
    if (ok) message = ToString(call->incoming);
    call->incoming.Clear();
    co_return message;
  }

  Async<absl::Status> Send(std::string message) override {
    if (message.size() > kMaxMessage) co_return Oversize(message.size());
    if (call_->gone->set()) co_return absl::CancelledError("context canceled");
    std::shared_ptr<Call> call = call_;
    bool ok = co_await Completions::Await(
        completions_, call,
        [c = call.get(), &message](void* tag) { c->stream.Write(ToBuffer(message), tag); });
    if (!ok) co_return absl::CancelledError("context canceled");
    co_return absl::OkStatus();
  }

 private:
  std::shared_ptr<Completions> completions_;
  std::shared_ptr<Call> call_;
  bool client_streams_;
  bool more_ = true;
};

// The one response, if it is to be sent.
Async<> Answer(std::shared_ptr<Completions> completions, std::shared_ptr<Call> call,
               absl::StatusOr<std::string> result, bool respond, std::shared_ptr<int> answering) {
  if (result.ok() && result->size() > kMaxMessage) result = Oversize(result->size());
  ++*answering;
  co_await Completions::Await(completions, call, [&](void* tag) {
    if (result.ok() && respond)
      call->stream.WriteAndFinish(ToBuffer(*result), {}, ::grpc::Status::OK, tag);
    else
      call->stream.Finish(ToGrpc(result.status()), tag);
  });
  --*answering;
}

Async<absl::StatusOr<std::string>> RunMethod(std::shared_ptr<Completions> completions,
                                             std::shared_ptr<Call> call,
                                             std::shared_ptr<const rpc::Method> method) {
  auto stream = std::make_shared<Stream>(completions, call, method->client_streams);
  if (!method->unary)
    co_return co_await rpc::RunStream(method, MakeContext(*call), std::move(stream));
  absl::StatusOr<std::optional<std::string>> request = co_await stream->Receive();
  CO_RETURN_IF_ERROR(request.status());
  if (!*request) co_return absl::InternalError("the call ended without a request");
  co_return co_await rpc::RunUnary(method, MakeContext(*call), **std::move(request));
}

}  // namespace

Async<> RunCall(std::shared_ptr<Completions> completions, std::shared_ptr<Call> call,
                std::shared_ptr<const rpc::Method> method, std::shared_ptr<int> answering) {
  absl::StatusOr<std::string> result = std::string();
  // A call that is not finished would be waited for without end.
  try {
    result = co_await RunMethod(completions, call, method);
  } catch (const std::bad_alloc&) {
    result = NoMemoryError();
  }
  co_await Answer(completions, std::move(call), std::move(result), !method->server_streams,
                  std::move(answering));
}

Async<> RejectCall(std::shared_ptr<Completions> completions, std::shared_ptr<Call> call,
                   absl::Status status, std::shared_ptr<int> answering) {
  co_await Answer(completions, std::move(call), std::move(status), false, std::move(answering));
}

std::string ToString(const ::grpc::ByteBuffer& buffer) {
  std::vector<::grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Valid() || !buffer.Dump(&slices).ok()) return bytes;
  bytes.reserve(buffer.Length());
  for (const ::grpc::Slice& slice : slices)
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

::grpc::ByteBuffer ToBuffer(absl::string_view bytes) {
  ::grpc::Slice slice(bytes.data(), bytes.size());
  return ::grpc::ByteBuffer(&slice, 1);
}

}  // namespace feather::grpc
