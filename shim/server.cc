#include "shim/server.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <asio/io_context.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/async.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/base/trim.h"
#include "runtime/bundle.h"
#include "runtime/reaper.h"
#include "shim/commands/await_server.h"
#include "shim/commands/listener.h"
#include "shim/inspect/service.h"
#include "shim/publisher.h"
#include "shim/rpc/acceptor.h"
#include "shim/rpc/method_table.h"
#include "shim/rpc/server.h"
#include "shim/sandbox_service.h"
#include "shim/task_service.h"
#include "shim/version.h"

namespace feather {
namespace {

constexpr int kListener = 3;
constexpr int kDebugListener = 4;
constexpr size_t kMaxGivenPath = 106;

constexpr Clock::duration kIdleLimit = std::chrono::seconds(60);
// Since the last connection was closed, of one that has had a container.
constexpr Clock::duration kClosedLimit = std::chrono::seconds(5);
// containerd gives Shutdown 3 s.
constexpr auto kDrainLimit = std::chrono::seconds(2);
constexpr auto kDisconnectLimit = std::chrono::milliseconds(500);

// Empty if it has been removed.
std::string WorkingDirectory() {
  std::array<char, PATH_MAX> path;
  return getcwd(path.data(), path.size()) == nullptr ? "" : path.data();
}

std::string DirectoryOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

// A listening socket with its file, which it removes. The file may be another's by then: someone
// who took this process for dead.
class ListeningSocket {
 public:
  absl::Status Adopt(int fd) {
    int listening = 0;
    socklen_t size = sizeof listening;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 || listening == 0)
      return absl::InvalidArgumentError(absl::StrCat("descriptor ", fd, " is no listening socket"));
    // Whoever connects finds this process by SO_PEERCRED, no longer `start`.
    (void)listen(fd, SOMAXCONN);
    Take(UniqueFd(fd));
    return absl::OkStatus();
  }

  absl::Status Listen(const std::string& path) {
    if (path.size() > kMaxGivenPath)
      return absl::InvalidArgumentError(
          absl::StrCat("socket path is longer than ", kMaxGivenPath, " bytes: ", path));
    ASSIGN_OR_RETURN(UniqueFd fd, ListenOrFind(path));
    if (!fd) return absl::AlreadyExistsError(absl::StrCat("somebody listens at ", path));
    Take(std::move(fd));
    return absl::OkStatus();
  }

  UniqueFd Release() { return std::move(fd_); }

  // May be repeated: for a moment it may not be possible.
  void RemoveFile() {
    if (path_.empty()) return;
    RaisedCapabilities raised({CAP_DAC_OVERRIDE});
    struct stat now;
    const bool there = lstat(path_.c_str(), &now) == 0;
    if (!there && errno != ENOENT) return;
    // Inode numbers are used again at once.
    const bool own = there && now.st_dev == file_.st_dev && now.st_ino == file_.st_ino &&
                     now.st_ctim.tv_sec == file_.st_ctim.tv_sec &&
                     now.st_ctim.tv_nsec == file_.st_ctim.tv_nsec;
    if (!own || unlink(path_.c_str()) == 0) path_.clear();
  }

 private:
  void Take(UniqueFd fd) {
    fd_ = std::move(fd);
    fcntl(fd_.get(), F_SETFD, FD_CLOEXEC);
    path_ = BoundPath(fd_.get());
    // A relative path would not survive chdir(2).
    if (!path_.empty() && path_[0] != '/') path_ = absl::StrCat(WorkingDirectory(), "/", path_);
    if (lstat(path_.c_str(), &file_) < 0) path_.clear();
  }

  UniqueFd fd_;
  std::string path_;
  struct stat file_ = {};
};

// The bundle's FIFO, as standard error too, for what a library or a sanitizer has to say. Reading
// and writing: containerd may come and go, and a write never raises SIGPIPE.
void OpenLog(const Flags& flags) {
  SetLogLevel(flags.debug ? LogLevel::kDebug : LogLevel::kInfo);
  if (const char* format = getenv("FEATHER_LOG_FORMAT"); format != nullptr)
    SetLogFormat(absl::string_view(format) == "json" ? LogFormat::kJson : LogFormat::kText);
  SetLogCommonField("shim", flags.id);
  absl::StatusOr<UniqueFd> fifo = OpenFile("log", O_RDWR | O_NONBLOCK | O_NOCTTY);
  if (fifo.ok() && dup3(fifo->get(), STDERR_FILENO, O_CLOEXEC) == STDERR_FILENO)
    SetLogSink(UniqueFd(STDERR_FILENO));
}

std::string EventsAddress() {
  const char* address = getenv("TTRPC_ADDRESS");
  return address == nullptr ? "" : address;
}

// An operator's wish, in containerd's environment (or, from 2.0 on, its plugin's `env`).
bool KillsExecTrees() {
  const char* kill = getenv("FEATHER_EXEC_KILL");
  return kill != nullptr && absl::string_view(kill) == "tree";
}

class Shim {
 public:
  Shim(const Flags& flags, const rpc::Transport& transport)
      : flags_(flags),
        awaited_(transport.protocol == "grpc"),
        bundle_(WorkingDirectory()),
        signals_(io_),
        idle_timer_(io_),
        reaper_(io_),
        publisher_(io_, EventsAddress(), flags.name_space),
        sandbox_(io_, reaper_,
                 [this] {
                   service_.EndIfUnused();
                   Released(flags_.id);
                 }),
        service_(io_, reaper_, publisher_,
                 {.name_space = flags.name_space,
                  .bundle = bundle_,
                  .has_sandbox = [this] { return sandbox_.exists(); },
                  .prepare_bundle =
                      [this](const std::string& bundle, RuntimeOptions& options) {
                        used_ = true;
                        // The last to disconnect starts it again. Without them it would wake an
                        // idle shim once.
                        if (server_->connections() > 0) idle_timer_.cancel();
                        return sandbox_.PrepareBundle(bundle, options);
                      },
                  .released = [this](const std::string& id) { Released(id); },
                  .kill_exec_trees = KillsExecTrees()},
                 [this] { BeginEnd(/*answer=*/true); }),
        server_(transport.make_server(io_, methods_)),
        inspect_(flags.id, flags.name_space, bundle_, service_, sandbox_, publisher_,
                 [this] { return server_->connections(); }) {
    service_.Register(methods_);
    inspect_.Register(methods_);
    sandbox_.Register(methods_);
    asio::error_code error;
    for (int signal : {SIGTERM, SIGINT, SIGUSR1}) signals_.add(signal, error);
  }

  absl::Status Listen() {
    RETURN_IF_ERROR(flags_.socket.empty() ? socket_.Adopt(kListener)
                                          : socket_.Listen(flags_.socket));
    if (!flags_.debug_socket.empty()) return debug_socket_.Listen(flags_.debug_socket);
    // Older shims' `start` passes none.
    if (flags_.debug) (void)debug_socket_.Adopt(kDebugListener).ok();
    return absl::OkStatus();
  }

  int Run() {
    AwaitSignal();
    // Of the end of a pod's last container containerd 2.0 to 2.3 tells nothing but by closing its
    // connections.
    // It closes one before it creates anything, too: over gRPC it tries the socket first.
    server_->OnIdle(
        [this] { EndWhenIdle(used_ || sandbox_.exists() ? kClosedLimit : kIdleLimit); });
    EndWhenIdle(kIdleLimit);
    server_->Serve(socket_.Release());
    if (UniqueFd debug = debug_socket_.Release()) debug_acceptor_.Serve(std::move(debug));
    LogInfo("shim started", {{"version", kVersion}, {"pid", absl::StrCat(getpid())}});
    while (true) {
      try {
        RunAndTrim(io_);
        LogInfo("shim ended");
        return 0;
      } catch (const std::exception& exception) {
        // A bug, but no reason to abandon the containers.
        LogError("exception", {{"error", exception.what()}});
      }
    }
  }

 private:
  // `delete` of a container waits for it, if the transport is such that there is one.
  void Released(const std::string& id) {
    if (awaited_ && ValidateId(id).ok()) ReleaseBundle(absl::StrCat(DirectoryOf(bundle_), "/", id));
  }

  void AwaitSignal() {
    signals_.async_wait([this](const asio::error_code& error, int signal) {
      if (error) return;
      if (signal == SIGUSR1) {
        inspect_.Log();
      } else {
        LogInfo("signal received", {{"signal", absl::StrCat(signal)}});
        BeginEnd(/*answer=*/false);
      }
      AwaitSignal();
    });
  }

  void EndWhenIdle(Clock::duration limit) {
    if (ending_) return;
    idle_timer_.expires_after(limit);
    idle_timer_.async_wait([this](const asio::error_code& error) {
      // Who has no connection may have left something under way; nobody tells when that has failed.
      if (error || server_->connections() > 0) return;
      // containerd that finds no answer for a while, after a restart, takes a shim for dead.
      bool given_up = access(bundle_.c_str(), F_OK) < 0 && errno == ENOENT;
      if (!service_.idle() || service_.has_unheard_answer() || (sandbox_.exists() && !given_up))
        return EndWhenIdle(kIdleLimit);
      LogInfo("no container and no connection");
      BeginEnd(/*answer=*/false);
    });
  }

  // `answer`: somebody is to be told first.
  void BeginEnd(bool answer) {
    socket_.RemoveFile();
    debug_socket_.RemoveFile();
    debug_acceptor_.Stop();
    server_->Stop();
    if (std::exchange(ending_, true)) return;
    idle_timer_.cancel();
    absl::Cleanup at_once = [this] { io_.stop(); };
    Spawn(io_, End(answer));
    std::move(at_once).Cancel();
  }

  Async<> End(bool answer) {
    absl::Cleanup over = [this] {
      socket_.RemoveFile();
      debug_socket_.RemoveFile();
      io_.stop();
    };
    co_await publisher_.Drain(kDrainLimit);
    // Once it has the answer, containerd closes its connections.
    auto deadline = Clock::now() + kDisconnectLimit;
    while (answer && server_->connections() > 0 && Clock::now() < deadline)
      co_await SleepFor(std::chrono::milliseconds(5));
    co_await server_->Flush(kDisconnectLimit);
  }

  const Flags& flags_;
  const bool awaited_;
  const std::string bundle_;  // that it was started with
  asio::io_context io_{1};
  asio::signal_set signals_;
  asio::steady_timer idle_timer_;
  Reaper reaper_;
  Publisher publisher_;
  SandboxService sandbox_;
  TaskService service_;
  rpc::MethodTable methods_;
  const std::unique_ptr<rpc::Server> server_;
  inspect::Service inspect_;
  ListeningSocket socket_;
  ListeningSocket debug_socket_;
  // There is nothing to debug over it: whoever connects is told so by its end, and does not wait.
  rpc::Acceptor debug_acceptor_{io_, [](UniqueFd /*socket*/) {}};
  // It has been asked for a container.
  bool used_ = false;
  bool ending_ = false;
};

}  // namespace

int RunServer(const Flags& flags, const rpc::Transport& transport) {
  DropServerTunables();
  LimitHeap();
  // A stray one of the others would end every container of the pod.
  for (int ignored : {SIGPIPE, SIGHUP, SIGUSR2}) signal(ignored, SIG_IGN);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  OpenLog(flags);
  // Not destroyed: what still waits in it would be in its own way, and the process ends anyway.
  Shim* shim = new Shim(flags, transport);
  if (absl::Status status = shim->Listen(); !status.ok()) {
    LogError("cannot serve", {{"error", std::string(status.message())}});
    return 1;
  }
  if (absl::Status dropped = DropCapabilities(); !dropped.ok())
    LogWarning("cannot drop capabilities", {{"error", std::string(dropped.message())}});
  // The bundle may go before this process does.
  if (chdir("/") < 0) LogWarning("chdir /", {{"error", ErrnoText(errno)}});
  return shim->Run();
}

}  // namespace feather
