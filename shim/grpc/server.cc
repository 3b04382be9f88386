#include "shim/grpc/server.h"

#include <fcntl.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <poll.h>

#include <asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/log.h"
#include "runtime/base/trim.h"
#include "shim/grpc/call.h"
#include "shim/grpc/completions.h"
#include "shim/grpc/debug_services.h"
#include "shim/rpc/acceptor.h"

namespace feather::grpc {
namespace {

constexpr auto kFlushStep = std::chrono::milliseconds(1);

// Methods are only told from each other by the loop, so that gRPC needs to know none.
struct Engine {
  Engine() {
    SignalsBlocked blocked;
    ::grpc::ServerBuilder builder;
    builder.RegisterAsyncGenericService(&service);
    builder.SetMaxReceiveMessageSize(kMaxMessage);
    builder.AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 0);
    // Who asks often whether the connection lives is not to lose it for that.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
    queue = builder.AddCompletionQueue();
    calls = queue.get();
    server = builder.BuildAndStart();
  }

  ::grpc::AsyncGenericService service;
  std::unique_ptr<::grpc::ServerCompletionQueue> queue;
  ::grpc::ServerCompletionQueue* calls;  // the same, when it has been handed on
  std::unique_ptr<::grpc::Server> server;
};

class Server : public rpc::Server {
 public:
  Server(asio::io_context& io, const rpc::MethodTable& methods)
      : impl_(std::make_shared<Impl>(io, methods)) {}
  ~Server() override { impl_->Close(); }

  // gRPC begins here, so that its threads have what this one has by now (capabilities, say).
  void Serve(UniqueFd listener) override {
    impl_->engine = std::make_unique<Engine>();
    impl_->completions = std::make_shared<Completions>(impl_->io, std::move(impl_->engine->queue));
    Spawn(impl_->io, Impl::TakeCalls(impl_));
    impl_->acceptor.Serve(std::move(listener));
  }
  void Stop() override { impl_->acceptor.Stop(); }
  size_t connections() const override { return impl_->connections; }
  void OnIdle(std::function<void()> callback) override { impl_->idle = std::move(callback); }

  Async<> Flush(Clock::duration limit) override {
    Clock::time_point deadline = Clock::now() + limit;
    std::shared_ptr<int> answering = impl_->answering;
    while (*answering > 0 && Clock::now() < deadline) co_await SleepFor(kFlushStep);
  }

 private:
  struct Impl : std::enable_shared_from_this<Impl> {
    Impl(asio::io_context& context, const rpc::MethodTable& table)
        : io(context),
          methods(table),
          acceptor(context, [this](UniqueFd socket) { Open(std::move(socket)); }) {
      AddDebugServices(methods, debug_methods);
    }

    static Async<> TakeCalls(std::shared_ptr<Impl> self);
    static Async<> Watch(std::shared_ptr<Impl> self, UniqueFd socket);
    void Begin(std::shared_ptr<Call> call);
    void Open(UniqueFd socket);
    void Close();

    asio::io_context& io;
    const rpc::MethodTable& methods;
    rpc::MethodTable debug_methods;
    std::unique_ptr<Engine> engine;
    std::shared_ptr<Completions> completions;
    rpc::Acceptor acceptor;
    size_t connections = 0;
    std::shared_ptr<int> answering = std::make_shared<int>(0);
    std::function<void()> idle;
  };

  std::shared_ptr<Impl> impl_;
};

// "/service/method"
absl::StatusOr<std::shared_ptr<const rpc::Method>> FindMethod(const rpc::MethodTable& methods,
                                                              const rpc::MethodTable& debug_methods,
                                                              absl::string_view path) {
  absl::ConsumePrefix(&path, "/");
  size_t slash = path.rfind('/');
  if (slash == path.npos) return absl::UnimplementedError(absl::StrCat("method ", path));
  absl::string_view service = path.substr(0, slash), method = path.substr(slash + 1);
  absl::StatusOr<std::shared_ptr<const rpc::Method>> found = methods.Find(service, method);
  if (found.ok()) return found;
  absl::StatusOr<std::shared_ptr<const rpc::Method>> debug = debug_methods.Find(service, method);
  return debug.ok() ? debug : found;
}

Async<> Server::Impl::TakeCalls(std::shared_ptr<Impl> self) {
  while (true) {
    auto call = std::make_shared<Call>();
    void* ended = nullptr;
    self->completions->Begin(
        call, [&](void* tag) { call->context.AsyncNotifyWhenDone(ended = tag); },
        [call](bool) {
          if (call->context.IsCancelled()) call->gone->Set();
        });
    bool begun = co_await Completions::Await(self->completions, call, [&](void* tag) {
      self->engine->service.RequestCall(&call->context, &call->stream, self->completions->queue(),
                                        self->engine->calls, tag);
    });
    if (!begun) {
      // The tag comes back only for a call that has begun.
      Completions::Forget(ended);
      co_return;
    }
    self->Begin(std::move(call));
  }
}

void Server::Impl::Begin(std::shared_ptr<Call> call) {
  absl::StatusOr<std::shared_ptr<const rpc::Method>> method =
      FindMethod(methods, debug_methods, call->context.method());
  if (method.ok())
    Spawn(io, RunCall(completions, std::move(call), *std::move(method), answering));
  else
    Spawn(io, RejectCall(completions, std::move(call), method.status(), answering));
}

void Server::Impl::Open(UniqueFd socket) {
  UniqueFd watched(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!watched) {
    LogWarning("cannot accept a connection", {{"error", strerror(errno)}});
    return;
  }
  ++connections;
  Spawn(io, Watch(shared_from_this(), std::move(watched)));
  completions->Run([server = engine->server.get(), fd = socket.Release()] {
    ::grpc::AddInsecureChannelFromFd(server, fd);
  });
}

// gRPC tells nobody when a connection ends, but then one end or the other shuts the socket down.
Async<> Server::Impl::Watch(std::shared_ptr<Impl> self, UniqueFd socket) {
  asio::posix::stream_descriptor descriptor(self->io);
  asio::error_code error;
  descriptor.assign(socket.get(), error);
  if (!error) {
    int fd = socket.Release();
    pollfd state{fd, 0, 0};
    // A signal may interrupt even this.
    while (!error && poll(&state, 1, 0) <= 0) {
      auto [failed] =
          co_await descriptor.async_wait(asio::posix::stream_descriptor::wait_error, kAwait);
      error = failed;
    }
  }
  TrimSoon(self->io);
  if (--self->connections == 0 && self->idle) {
    std::function<void()> callback = self->idle;
    callback();
  }
}

void Server::Impl::Close() {
  idle = nullptr;
  acceptor.Stop();
  if (!engine) return;
  engine->server->Shutdown(std::chrono::system_clock::now());
  completions->Close();
}

}  // namespace

std::unique_ptr<rpc::Server> MakeServer(asio::io_context& io, const rpc::MethodTable& methods) {
  return std::make_unique<Server>(io, methods);
}

rpc::Transport Transport() { return {"grpc", &MakeServer}; }

}  // namespace feather::grpc
