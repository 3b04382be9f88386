#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <asio/io_context.hpp>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/task.pb.h"
#include "runtime/base/async.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/bundle.h"
#include "runtime/mount/mount.h"
#include "runtime/oci_runtime.h"
#include "runtime/reaper.h"
#include "runtime/sandbox/pod_files.h"
#include "shim/commands/await_server.h"
#include "shim/commands/commands.h"
#include "shim/commands/listener.h"
#include "shim/commands/socket_name.h"
#include "shim/exit_file.h"
#include "shim/members.h"
#include "shim/options.h"

namespace feather {
namespace {

// As killed by SIGKILL.
constexpr uint32_t kExitStatus = 128 + SIGKILL;
// After an orderly end containerd removes the bundle.
constexpr auto kRemovalLimit = std::chrono::seconds(1);
constexpr useconds_t kRemovalStep = 20'000;
// containerd gives all of it 5 s.
constexpr auto kLimit = std::chrono::milliseconds(4500);
// Containers at a time: each waits for its end more than it works.
constexpr size_t kWorkers = 16;

// containerd logs what comes out here as a warning, and goes on.
void Warn(absl::string_view what, const absl::Status& status) {
  if (status.ok()) return;
  (void)WriteAll(STDERR_FILENO, absl::StrCat(what, ": ", status.message(), "\n")).ok();
}

absl::StatusOr<std::string> BundlePath(const Flags& flags) {
  char* directory = getcwd(nullptr, 0);
  if (directory == nullptr) return ErrnoError(errno, "getcwd");
  std::string path(directory);
  free(directory);
  return absl::StrCat(path.substr(0, path.rfind('/')), "/", flags.id);
}

// What is to be ended of a container.
struct Remains {
  std::string id;
  std::string bundle;
  // With its options, and where its runtime's log goes.
  std::string directory;
  // Before what is said of it.
  std::string whose;
};

OciRuntime::Config DeleteConfig(const std::string& name_space, const Remains& remains) {
  absl::StatusOr<RuntimeOptions> read = ReadOptions(remains.directory);
  Warn(remains.whose + "read the runtime's options", read.status());
  RuntimeOptions options = read.ok() ? *std::move(read) : RuntimeOptions();
  OciRuntime::Config config = MakeRuntimeConfig(options, name_space, remains.directory, remains.id);
  // The runtime keeps the cgroup driver in its own state.
  config.systemd_cgroup = false;
  config.criu_path.clear();
  return config;
}

// Where the group's server listened, by its own word or by the rule.
std::string ServerSocket(const Flags& flags, const std::string& bundle) {
  absl::StatusOr<std::string> address = ReadFile(absl::StrCat(bundle, "/address"), size_t{4096});
  absl::string_view path = address.ok() ? absl::StripAsciiWhitespace(*address) : "";
  if (absl::ConsumePrefix(&path, "unix://")) return std::string(path);
  absl::StatusOr<std::string> group = ReadGroupAnnotation(absl::StrCat(bundle, "/config.json"));
  return SocketPath(kSocketDirectory, flags.address, flags.name_space,
                    group.ok() && !group->empty() ? *group : flags.id);
}

uint32_t InitPid(const std::string& bundle) {
  absl::StatusOr<std::string> text = ReadFile(absl::StrCat(bundle, "/init.pid"), size_t{64});
  uint32_t pid = 0;
  if (text.ok() && !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &pid))
    text = absl::InvalidArgumentError("not a number");
  Warn("read init.pid", text.status());
  return pid;
}

// By the shim's own word, or as killed by us right now.
Exit InitsExit(const std::string& bundle) {
  absl::Time now = absl::Now();
  absl::StatusOr<Exit> noted = ReadNotedExit(bundle);
  if (noted.ok()) return *noted;
  if (!absl::IsNotFound(noted.status())) Warn("read exit.json", noted.status());
  return {.pid = static_cast<pid_t>(InitPid(bundle)), .status = kExitStatus, .at = now};
}

struct Work {
  std::string name_space;
  std::vector<Remains> left;
  std::set<std::string> unfinished;  // ids
};

// By the time that there are members to end, no shim ends them.
std::vector<Remains> FindRemains(const Flags& flags, const std::string& bundle,
                                 const std::string& socket) {
  std::vector<Remains> all;
  if (!SomebodyListens(socket)) {
    for (const std::string& id : Members(bundle))
      if (id != flags.id)
        all.push_back({.id = id,
                       .bundle = MemberBundle(bundle, id),
                       .directory = MemberDirectory(bundle, id),
                       .whose = absl::StrCat("container ", id, " of the pod: ")});
  }
  all.push_back({.id = flags.id, .bundle = bundle, .directory = bundle, .whose = ""});
  return all;
}

Async<> CleanUp(asio::io_context& io, Reaper& reaper, std::shared_ptr<Work> work) {
  while (!work->left.empty()) {
    Remains remains = std::move(work->left.back());
    work->left.pop_back();
    OciRuntime runtime(reaper, DeleteConfig(work->name_space, remains));
    absl::Status deleted = co_await runtime.Delete(/*force=*/true);
    Warn(remains.whose + "delete the container", deleted);
    absl::Status unmounted = co_await UnmountAll(reaper, remains.bundle + "/rootfs");
    Warn(remains.whose + "unmount", unmounted);
    work->unfinished.erase(remains.id);
  }
  if (work->unfinished.empty()) io.stop();
}

// Whether the bundle at this path is still the one with that directory.
bool IsAt(const UniqueFd& directory, const std::string& path) {
  struct stat opened;
  struct stat now;
  return fstat(directory.get(), &opened) == 0 && lstat(path.c_str(), &now) == 0 &&
         opened.st_dev == now.st_dev && opened.st_ino == now.st_ino;
}

// For a server that is alive: the parent has nothing to do (false), the child when the server has
// ended and containerd has not removed the bundle. The child ends earlier if the server has no more
// to do with this container.
absl::StatusOr<bool> StayBehind(const std::string& socket, const std::string& bundle) {
  // As long as it is open no other directory can be taken for it.
  ASSIGN_OR_RETURN(UniqueFd directory, OpenFile(bundle, O_PATH | O_DIRECTORY));
  ASSIGN_OR_RETURN(ReleaseWatch watch, ReleaseWatch::Start(directory.get()));
  pid_t child = fork();
  if (child < 0) return ErrnoError(errno, "fork");
  if (child > 0) return false;
  if (!AwaitServerEnd(socket, watch)) return false;
  auto limit = Clock::now() + kRemovalLimit;
  while (IsAt(directory, bundle) && Clock::now() < limit) usleep(kRemovalStep);
  return IsAt(directory, bundle);
}

}  // namespace

absl::Status RunDelete(const Flags& flags, absl::string_view protocol) {
  RETURN_IF_ERROR(ValidateId(flags.id));
  ASSIGN_OR_RETURN(std::string bundle, BundlePath(flags));
  if (absl::Status status = CheckBundleDirectory(bundle); absl::IsPermissionDenied(status))
    return status;
  std::string socket = ServerSocket(flags, bundle);
  if (protocol == "grpc" && SomebodyListens(socket)) {
    ASSIGN_OR_RETURN(bool clean_up, StayBehind(socket, bundle));
    if (!clean_up) return absl::OkStatus();
  }
  // Inherits what the runtime leaves behind.
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  // Not destroyed, since what does not finish in time still refers to them.
  auto* io = new asio::io_context(1);
  auto* reaper = new Reaper(*io);
  auto work = std::make_shared<Work>();
  work->name_space = flags.name_space;
  work->left = FindRemains(flags, bundle, socket);
  for (const Remains& remains : work->left) work->unfinished.insert(remains.id);
  for (size_t i = std::min(kWorkers, work->left.size()); i > 0; --i)
    Spawn(*io, CleanUp(*io, *reaper, work));
  io->run_for(kLimit);
  if (!io->stopped())
    Warn("clean up", absl::DeadlineExceededError(absl::StrCat(
                         "not finished in time: ", absl::StrJoin(work->unfinished, ", "))));
  Warn("remove a pod's files", RemovePodFiles(bundle));
  Warn("remove the socket", RemoveDeadSocket(socket));

  const Exit exit = InitsExit(bundle);
  containerd::task::v2::DeleteResponse response;
  response.set_pid(static_cast<uint32_t>(exit.pid));
  response.set_exit_status(exit.status);
  timespec at = absl::ToTimespec(exit.at);
  response.mutable_exited_at()->set_seconds(at.tv_sec);
  response.mutable_exited_at()->set_nanos(static_cast<int32_t>(at.tv_nsec));
  return WriteAll(STDOUT_FILENO, response.SerializeAsString());
}

}  // namespace feather
