#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/base/async.h"

namespace feather::rpc {

// What a handler knows of its call, whichever transport brought it.
struct CallContext {
  std::vector<std::pair<std::string, std::string>> metadata;
  // The caller's time-out; none: waits for ever.
  std::optional<Clock::time_point> deadline;
  // Set when the caller cannot be answered any more (its connection ended).
  std::shared_ptr<Event> gone = std::make_shared<Event>();

  // No answer reaches the caller any more.
  bool IsOver() const { return gone->set() || (deadline && Clock::now() >= *deadline); }
  // The error of a call that is over, for want of anything better.
  absl::Status OverError() const {
    return gone->set() ? absl::CancelledError("context canceled")
                       : absl::DeadlineExceededError("context deadline exceeded");
  }
};

// A unary method: serialized request in, serialized response out. Handlers run concurrently on the
// loop. They are never cancelled from outside: one that only waits (Wait) looks at the context
// itself, one that changes something runs to its end even if nobody waits for the answer.
using Handler =
    std::function<Async<absl::StatusOr<std::string>>(CallContext context, std::string request)>;

// The callee's end of a streaming call, whichever transport carries it.
class ServerStream {
 public:
  virtual ~ServerStream() = default;
  // The caller's next message, nullopt after its last one. A caller that does not stream sends
  // exactly one. An error when the call's connection ended, its deadline passed, or the handler
  // read too slowly.
  virtual Async<absl::StatusOr<std::optional<std::string>>> Receive() = 0;
  // Waits while the caller reads too slowly. An error when the connection ended.
  virtual Async<absl::Status> Send(std::string message) = 0;
};

// A streaming method. What it returns ends the call: an error; or the one response, which is not
// sent when the method streams responses.
using StreamHandler = std::function<Async<absl::StatusOr<std::string>>(
    CallContext context, std::shared_ptr<ServerStream> stream)>;

// A unary method that waits for nothing: its answer does not need a coroutine.
using Immediate = std::function<absl::StatusOr<std::string>(std::string request)>;

// What a name stands for: `unary` or `stream` is set.
struct Method {
  Handler unary;
  // Set beside `unary`, and does the same.
  Immediate immediate = nullptr;
  StreamHandler stream;
  bool client_streams = false;
  bool server_streams = false;
};

// Full method name ("/containerd.task.v3.Task/Create" is service "containerd.task.v3.Task", method
// "Create") to handler. Filled before serving, constant afterwards.
class MethodTable {
 public:
  void Add(absl::string_view service, absl::string_view method, Handler handler) {
    Add(service, method, Method{.unary = std::move(handler), .stream = nullptr});
  }
  void AddStream(absl::string_view service, absl::string_view method, bool client_streams,
                 bool server_streams, StreamHandler handler) {
    Add(service, method,
        Method{.unary = nullptr,
               .stream = std::move(handler),
               .client_streams = client_streams,
               .server_streams = server_streams});
  }

  // For a coroutine from request message to absl::StatusOr<Response>.
  template <typename Request, typename Response>
  void AddUnary(absl::string_view service, absl::string_view method,
                std::function<Async<absl::StatusOr<Response>>(CallContext, Request)> handler) {
    Add(service, method,
        [handler = std::move(handler)](CallContext context,
                                       std::string bytes) -> Async<absl::StatusOr<std::string>> {
          Request request;
          if (!request.ParseFromString(bytes)) co_return CannotParse();
          bytes = std::string();
          absl::StatusOr<Response> response =
              co_await handler(std::move(context), std::move(request));
          if (!response.ok()) co_return response.status();
          co_return response->SerializeAsString();
        });
  }

  // For a function from request message to absl::StatusOr<Response>.
  template <typename Request, typename Response>
  void AddImmediate(absl::string_view service, absl::string_view method,
                    std::function<absl::StatusOr<Response>(const Request&)> function) {
    Immediate immediate =
        [function = std::move(function)](std::string bytes) -> absl::StatusOr<std::string> {
      Request request;
      if (!request.ParseFromString(bytes)) return CannotParse();
      absl::StatusOr<Response> response = function(request);
      if (!response.ok()) return response.status();
      return response->SerializeAsString();
    };
    Handler unary = [immediate](CallContext,
                                std::string request) -> Async<absl::StatusOr<std::string>> {
      co_return immediate(std::move(request));
    };
    Add(service, method,
        Method{.unary = std::move(unary), .immediate = std::move(immediate), .stream = nullptr});
  }

  // In no order.
  std::vector<std::string> Services() const {
    std::vector<std::string> names;
    for (const auto& [name, methods] : services_) names.push_back(name);
    return names;
  }

  // Or which of the two is unknown: Unimplemented "service NAME" or "method NAME". A call holds its
  // method, so that it may outlive the table.
  absl::StatusOr<std::shared_ptr<const Method>> Find(absl::string_view service,
                                                     absl::string_view method) const {
    auto s = services_.find(std::string(service));
    if (s == services_.end()) return absl::UnimplementedError(absl::StrCat("service ", service));
    auto m = s->second.find(std::string(method));
    if (m == s->second.end()) return absl::UnimplementedError(absl::StrCat("method ", method));
    return m->second;
  }

 private:
  static absl::Status CannotParse() {
    return absl::InternalError(
        "ttrpc: error unmarshalling payload: proto: cannot parse invalid wire-format data");
  }
  void Add(absl::string_view service, absl::string_view name, Method method) {
    services_[std::string(service)][std::string(name)] =
        std::make_shared<const Method>(std::move(method));
  }

  absl::flat_hash_map<std::string, absl::flat_hash_map<std::string, std::shared_ptr<const Method>>>
      services_;
};

}  // namespace feather::rpc
