#include "tests/support/shim_events.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "proto/ttrpc_events.pb.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "shim/rpc/method_table.h"
#include "shim/ttrpc/server.h"

namespace feather::test {
namespace {

constexpr char kService[] = "containerd.services.events.ttrpc.v1.Events";

UniqueFd Listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) throw std::runtime_error("path too long: " + path);
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  unlink(path.c_str());
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) < 0 ||
      listen(fd.get(), 128) < 0)
    throw std::runtime_error("listen " + path + ": " + strerror(errno));
  return fd;
}

absl::Time ToTime(const google::protobuf::Timestamp& t) {
  return absl::FromUnixSeconds(t.seconds()) + absl::Nanoseconds(t.nanos());
}

template <typename Message>
Message Common(RecordedEvent& event) {
  Message message = event.As<Message>();
  event.container = message.container_id();
  event.id = message.container_id();
  return message;
}

void Decode(RecordedEvent& event) {
  using namespace containerd::events;
  if (event.topic == "/tasks/create") {
    event.pid = Common<TaskCreate>(event).pid();
  } else if (event.topic == "/tasks/start") {
    event.pid = Common<TaskStart>(event).pid();
  } else if (event.topic == "/tasks/exec-added") {
    event.id = Common<TaskExecAdded>(event).exec_id();
  } else if (event.topic == "/tasks/exec-started") {
    auto message = Common<TaskExecStarted>(event);
    event.id = message.exec_id();
    event.pid = message.pid();
  } else if (event.topic == "/tasks/exit") {
    auto message = Common<TaskExit>(event);
    event.id = message.id();
    event.pid = message.pid();
    event.status = message.exit_status();
    event.exited_at = ToTime(message.exited_at());
  } else if (event.topic == "/tasks/delete") {
    auto message = Common<TaskDelete>(event);
    event.pid = message.pid();
    event.status = message.exit_status();
    event.exited_at = ToTime(message.exited_at());
  } else {
    Common<TaskOOM>(event);  // all others begin with the container's id
  }
}

}  // namespace

std::string RecordedEvent::Summary() const {
  std::string line = absl::StrCat(topic, " ", container);
  if (id != container) absl::StrAppend(&line, " ", id);
  if (topic == "/tasks/exit" || topic == "/tasks/delete") absl::StrAppend(&line, " ", status);
  return line;
}

struct EventsServer::Service {
  static Async<absl::StatusOr<std::string>> Forward(EventsServer* self, std::string request);
  asio::io_context& io;
  rpc::MethodTable methods;
  std::unique_ptr<ttrpc::Server> server;
};

EventsServer::EventsServer(asio::io_context& io, std::string path) : path_(std::move(path)) {
  service_.reset(new Service{io, {}, nullptr});
  service_->methods.Add(kService, "Forward", [this](rpc::CallContext, std::string request) {
    return Service::Forward(this, std::move(request));
  });
  Start();
}

EventsServer::~EventsServer() { Stop(); }

void EventsServer::Start() {
  if (service_->server) return;
  service_->server = std::make_unique<ttrpc::Server>(service_->io, service_->methods);
  service_->server->Serve(Listen(path_));
}

void EventsServer::Stop() {
  if (!service_->server) return;
  service_->server->Stop();
  service_->server->Close();
  service_->server.reset();
  unlink(path_.c_str());
}

Async<absl::StatusOr<std::string>> EventsServer::Service::Forward(EventsServer* self,
                                                                  std::string request) {
  ++self->in_flight_;
  self->most_in_flight_ = std::max(self->most_in_flight_, self->in_flight_);
  containerd::services::events::ttrpc::v1::ForwardRequest message;
  bool parsed = message.ParseFromString(request);
  RecordedEvent event;
  event.topic = message.envelope().topic();
  event.name_space = message.envelope().namespace_();
  event.type = message.envelope().event().type_url();
  event.value = message.envelope().event().value();
  event.timestamp = ToTime(message.envelope().timestamp());
  event.arrived = Clock::now();
  Decode(event);
  if (self->delay_ > Clock::duration::zero()) co_await SleepFor(self->delay_);
  --self->in_flight_;
  if (!parsed) co_return absl::InvalidArgumentError("cannot parse the request");
  if (!self->refusal_.ok()) {
    self->refused_.push_back(std::move(event));
    co_return self->refusal_;
  }
  self->events_.push_back(std::move(event));
  co_return std::string();
}

std::vector<std::string> EventsServer::Summaries(const std::string& container) const {
  std::vector<std::string> lines;
  for (const RecordedEvent& event : events_)
    if (container.empty() || event.container == container) lines.push_back(event.Summary());
  return lines;
}

const RecordedEvent* EventsServer::Find(
    const std::function<bool(const RecordedEvent&)>& fits) const {
  auto found = std::find_if(events_.begin(), events_.end(), fits);
  return found == events_.end() ? nullptr : &*found;
}

const RecordedEvent* EventsServer::FindExit(const std::string& container,
                                            const std::string& id) const {
  return Find([&](const RecordedEvent& event) {
    return event.topic == "/tasks/exit" && event.container == container && event.id == id;
  });
}

}  // namespace feather::test
