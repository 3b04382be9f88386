#include "runtime/sandbox/pod_namespaces.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <asio/posix/stream_descriptor.hpp>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/descriptor.h"
#include "runtime/base/file.h"
#include "runtime/base/home_namespaces.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/sandbox/pod_init.h"
#include "runtime/sandbox/sysctl.h"
#include "runtime/spawn.h"

namespace feather {
namespace {

// For making a few namespaces; the kernel may have to wait for others that are being torn down.
constexpr Clock::duration kLimit = std::chrono::seconds(20);
constexpr Clock::duration kEndLimit = std::chrono::seconds(5);
constexpr size_t kMaxReport = 4096;

absl::StatusOr<PodInit> InitFor(const PodConfig& config) {
  PodInit init;
  init.user = config.own_user;
  init.net = config.own_net();
  init.ipc = config.own_ipc;
  init.uts = config.own_uts();
  init.pid = config.own_pid;
  init.hostname = config.hostname;
  if (init.uts && init.hostname.empty()) {
    std::array<char, 256> host = {};
    if (gethostname(host.data(), host.size() - 1) < 0) return ErrnoError(errno, "gethostname");
    init.hostname = host.data();
  }
  const OwnNamespaces own = {.net = init.net, .ipc = init.ipc, .uts = init.uts, .pid = init.pid};
  for (const auto& [name, value] : config.sysctls) {
    ASSIGN_OR_RETURN(std::string path, SysctlPath(name, own));
    init.sysctls.emplace_back(std::move(path), value);
  }
  return init;
}

// It may be another user, in a user namespace.
void Kill(pid_t pid) {
  RaisedCapabilities raised({CAP_KILL});
  kill(pid, SIGKILL);
}

absl::StatusOr<pid_t> ParseReport(absl::string_view report) {
  pid_t pid = 0;
  if (absl::ConsumePrefix(&report, "ok ") && absl::SimpleAtoi(report, &pid) && pid > 0) return pid;
  if (absl::ConsumePrefix(&report, "error "))
    return absl::UnknownError(absl::StrCat("make the pod's namespaces: ", report));
  return absl::UnknownError("make the pod's namespaces: the process for it ended without a word");
}

}  // namespace

std::string DescriptorPath(int fd) { return absl::StrCat("/proc/./", getpid(), "/fd/", fd); }

// The child that makes the namespaces.
struct PodNamespaces::Holder {
  pid_t pid = 0;
  UniqueFd report;
  UniqueFd life;
};

namespace {

// Up to EOF, or until the process has been killed because it took too long.
Async<absl::StatusOr<std::string>> ReadReport(asio::io_context& io, UniqueFd report, pid_t pid) {
  asio::posix::stream_descriptor stream(io);
  CO_RETURN_IF_ERROR(Assign(stream, std::move(report)));
  stream.non_blocking(true);
  asio::steady_timer timer(io, kLimit);
  timer.async_wait([pid](const asio::error_code& error) {
    if (!error) Kill(pid);
  });
  std::string text;
  std::array<char, 512> buffer;
  while (text.size() < kMaxReport) {
    auto [error, count] = co_await stream.async_read_some(asio::buffer(buffer), kAwait);
    if (error) break;
    text.append(buffer.data(), count);
  }
  co_return text;
}

}  // namespace

int PodNamespaces::Descriptor(absl::string_view type) const {
  for (const auto& [kind, fd] : own_)
    if (kind == type) return fd.get();
  return -1;
}

NamespacePaths PodNamespaces::Paths() const {
  NamespacePaths paths;
  for (const auto& [type, fd] : own_) paths.emplace_back(type, DescriptorPath(fd.get()));
  return paths;
}

absl::Status PodNamespaces::OpenGiven(const PodConfig& config) {
  if (config.own_user && !config.own_net())
    return absl::UnimplementedError("a user namespace for a pod on the host's network");
  if (!config.own_net()) return absl::OkStatus();
  UniqueFd net;
  {
    // It may be that of another process.
    RaisedCapabilities raised({CAP_SYS_PTRACE});
    ASSIGN_OR_RETURN(net, OpenFile(config.netns_path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  }
  if (ioctl(net.get(), NS_GET_NSTYPE) != CLONE_NEWNET)
    return absl::InvalidArgumentError(absl::StrCat(config.netns_path, " is no network namespace"));
  if (config.own_user) {
    // ioctl_ns(2): the descriptor is close-on-exec already.
    UniqueFd user(ioctl(net.get(), NS_GET_USERNS));
    if (!user)
      return ErrnoError(errno, absl::StrCat("find the user namespace of ", config.netns_path));
    own_.emplace_back("user", std::move(user));
  }
  own_.emplace_back("network", std::move(net));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PodNamespaces::Holder>> PodNamespaces::StartHolder(
    const PodConfig& config) {
  ASSIGN_OR_RETURN(PodInit init, InitFor(config));
  std::array<int, 2> report, life;
  if (pipe2(report.data(), O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  UniqueFd report_read(report[0]), report_write(report[1]);
  if (pipe2(life.data(), O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  UniqueFd life_read(life[0]), life_write(life[1]);
  ASSIGN_OR_RETURN(UniqueFd null, OpenFile("/dev/null", O_RDONLY));
  Command command;
  command.argv = {"/proc/self/exe", PodInit::kCommand};
  for (std::string& argument : init.Arguments()) command.argv.push_back(std::move(argument));
  command.fds = {{report_write.get(), PodInit::kReport},
                 {life_read.get(), PodInit::kLife},
                 {config.own_user ? Descriptor("user") : null.get(), PodInit::kUser},
                 {config.own_net() ? Descriptor("network") : null.get(), PodInit::kNet}};
  ASSIGN_OR_RETURN(pid_t pid, SpawnProcess(command));
  auto holder = std::make_unique<Holder>();
  holder->pid = pid;
  holder->report = std::move(report_read);
  holder->life = std::move(life_write);
  return holder;
}

absl::Status PodNamespaces::Adopt(const PodConfig& config, pid_t holder) {
  // It has capabilities, and may be another user.
  RaisedCapabilities raised({CAP_SYS_PTRACE});
  auto take = [&](const char* type) -> absl::Status {
    ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(absl::StrCat("/proc/", holder, "/ns/", type), O_RDONLY));
    own_.emplace_back(type, std::move(fd));
    return absl::OkStatus();
  };
  if (config.own_ipc) RETURN_IF_ERROR(take("ipc"));
  if (config.own_uts()) RETURN_IF_ERROR(take("uts"));
  if (config.own_pid) {
    pid_ = holder;
    return take("pid");
  }
  pid_ = getpid();
  return LeaveHome({Descriptor("network"), Descriptor("ipc"), Descriptor("uts")});
}

Async<absl::StatusOr<std::shared_ptr<PodNamespaces>>> PodNamespaces::Enter(
    asio::io_context& io, Reaper& reaper, PodConfig config,
    std::function<void(const Exit&)> on_end) {
  auto self = std::make_shared<PodNamespaces>();
  CO_RETURN_IF_ERROR(self->OpenGiven(config));
  Reaper::Expectation expectation(reaper);
  CO_ASSIGN_OR_RETURN(std::unique_ptr<Holder> holder, self->StartHolder(config));
  pid_t child = holder->pid;
  Async<Exit> child_exit = reaper.WaitFor(child);
  absl::StatusOr<std::string> report = co_await ReadReport(io, std::move(holder->report), child);
  absl::StatusOr<pid_t> pid = report.ok() ? ParseReport(*report) : report.status();
  absl::Status status = pid.status();
  if (status.ok() && config.own_pid) {
    self->life_ = std::move(holder->life);
    self->ended_ = std::make_shared<Event>();
    reaper.Watch(*pid, [weak = std::weak_ptr<PodNamespaces>(self), ended = self->ended_,
                        on_end = std::move(on_end)](const Exit& exit) {
      ended->Set();
      if (auto namespaces = weak.lock(); namespaces && !namespaces->left_) on_end(exit);
    });
  }
  if (status.ok()) status = self->Adopt(config, *pid);
  holder.reset();
  co_await std::move(child_exit);
  if (!status.ok()) co_return status;
  co_return self;
}

Async<absl::Status> PodNamespaces::Leave() {
  left_ = true;
  absl::Status status = ReturnHome();
  if (status.ok()) own_.clear();
  life_.Reset();
  if (!ended_) co_return status;
  std::shared_ptr<Event> ended = ended_;
  bool in_time = co_await ended->WaitUntil(Clock::now() + kEndLimit);
  if (!in_time) {
    LogWarning("a pod's process 1 does not end", {{"pid", absl::StrCat(pid_)}});
    Kill(pid_);
  }
  co_return status;
}

}  // namespace feather
