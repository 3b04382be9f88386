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
};

// A unary method: serialized request in, serialized response out. Handlers run concurrently on the
// loop. They are never cancelled from outside: one that only waits (Wait) looks at the context
// itself, one that changes something runs to its end even if nobody waits for the answer.
using Handler =
    std::function<Async<absl::StatusOr<std::string>>(CallContext context, std::string request)>;

// Full method name ("/containerd.task.v3.Task/Create" is service "containerd.task.v3.Task", method
// "Create") to handler. Filled before serving, constant afterwards.
class MethodTable {
 public:
  void Add(absl::string_view service, absl::string_view method, Handler handler) {
    services_[std::string(service)][std::string(method)] = std::move(handler);
  }

  // For a coroutine from request message to absl::StatusOr<Response>.
  template <typename Request, typename Response>
  void AddUnary(absl::string_view service, absl::string_view method,
                std::function<Async<absl::StatusOr<Response>>(CallContext, Request)> handler) {
    Add(service, method,
        [handler = std::move(handler)](CallContext context,
                                       std::string bytes) -> Async<absl::StatusOr<std::string>> {
          Request request;
          if (!request.ParseFromString(bytes))
            co_return absl::InternalError(
                "ttrpc: error unmarshalling payload: proto: cannot parse invalid wire-format data");
          bytes = std::string();
          absl::StatusOr<Response> response =
              co_await handler(std::move(context), std::move(request));
          if (!response.ok()) co_return response.status();
          co_return response->SerializeAsString();
        });
  }

  // Null and which of the two is unknown: Unimplemented "service NAME" or "method NAME".
  absl::StatusOr<const Handler*> Find(absl::string_view service, absl::string_view method) const {
    auto s = services_.find(std::string(service));
    if (s == services_.end()) return absl::UnimplementedError(absl::StrCat("service ", service));
    auto m = s->second.find(std::string(method));
    if (m == s->second.end()) return absl::UnimplementedError(absl::StrCat("method ", method));
    return &m->second;
  }

 private:
  absl::flat_hash_map<std::string, absl::flat_hash_map<std::string, Handler>> services_;
};

}  // namespace feather::rpc
