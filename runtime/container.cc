#include "runtime/container.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <new>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"
#include "runtime/child.h"

namespace feather {
namespace {

// A process that the OCI runtime has killed is gone; its SIGCHLD is on the way.
constexpr Clock::duration kReapLimit = std::chrono::seconds(10);

// Keeps CRIU's log of a checkpoint that failed. Blocks.
absl::Status TidyUpCheckpoint(const std::string& work_path, bool remove,
                              const std::string& log_copy) {
  absl::Status kept;
  if (!log_copy.empty()) {
    if (auto log = ReadFile(work_path + "/dump.log"); log.ok())
      kept = WriteFile(log_copy, *log, 0644);
  }
  std::error_code ignored;
  if (remove) std::filesystem::remove_all(work_path, ignored);
  return kept;
}

}  // namespace

Container::Container(asio::io_context& io, Reaper& reaper, Config config, OnExit on_exit)
    : io_(io),
      reaper_(reaper),
      config_(std::move(config)),
      on_exit_(std::move(on_exit)),
      runtime_(reaper,
               MakeRuntimeConfig(config_.options, config_.name_space, config_.bundle, config_.id)),
      init_(std::make_shared<Process>()) {
  init_->request = config_.stdio;
  if (!config_.checkpoint.empty()) init_->state = ProcessState::kCreatedCheckpoint;
}

std::string Container::PidFile(const std::string& exec_id) const {
  return absl::StrCat(config_.bundle, "/", exec_id.empty() ? "init" : exec_id, ".pid");
}

absl::StatusOr<pid_t> Container::ReadPid(const std::string& exec_id) const {
  std::string path = PidFile(exec_id);
  absl::StatusOr<std::string> text = ReadFile(path, 64);
  // Not NotFound, which would be said of the container.
  if (!text.ok()) return absl::UnknownError(text.status().message());
  int pid = 0;
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &pid) || pid <= 0)
    return absl::UnknownError(absl::StrCat(path, ": not a pid: ", *text));
  // Nobody would ever tell its exit.
  if (!Reaper::CanWatch(pid))
    return absl::UnknownError(absl::StrCat(path, ": not a child of the shim: ", pid));
  return pid;
}

Async<absl::Status> Container::Create() {
  auto self = shared_from_this();
  if (!config_.rootfs.empty()) {
    if (mkdir(rootfs().c_str(), 0711) < 0 && errno != EEXIST)
      co_return ErrnoError(errno, absl::StrCat("mkdir ", rootfs()));
  }
  // Its child may be killed half-way, and then has not undone anything.
  absl::Status status;
  try {
    status = co_await MountAll(reaper_, config_.rootfs, rootfs());
    if (status.ok()) status = co_await CreateInit();
  } catch (const std::bad_alloc&) {
    status = NoMemoryError();
  }
  if (status.ok()) co_return status;
  left_over_ = true;
  try {
    co_await UndoCreation();
  } catch (const std::bad_alloc&) {
    NoMemoryError().IgnoreError();
  }
  co_return status;
}

Async<> Container::UndoCreation() {
  if (made_) co_await DeleteFailed();
  if (init_->stdio) co_await init_->stdio->Close();
  co_await UnmountFailed();
  left_over_ = made_;
}

Async<> Container::UnmountFailed() {
  if (config_.rootfs.empty()) co_return;
  if (absl::Status unmounted = co_await UnmountAll(reaper_, rootfs()); !unmounted.ok())
    LogWarning("cannot unmount the rootfs of a container whose creation failed",
               {{"error", std::string(unmounted.message())}, {"id", config_.id}});
}

Async<> Container::AbandonStreams() {
  auto self = shared_from_this();
  streams_abandoned_ = true;
  std::shared_ptr<Stdio> stdio = init_->stdio;
  if (stdio) co_await stdio->Close();
}

Async<absl::Status> Container::PrepareStdio(std::shared_ptr<Process> process) {
  Stdio::Owner owner{config_.options.io_uid, config_.options.io_gid,
                     process->is_init() ? config_.id : process->exec_id, config_.name_space};
  auto stdio = co_await Stdio::Prepare(io_, reaper_, process->request, std::move(owner));
  // Whatever is wrong, a missing file too, the code is Unknown; the stock shim says "init" for
  // execs as well.
  if (!stdio.ok())
    co_return absl::UnknownError(
        absl::StrCat("failed to create init process I/O: ", stdio.status().message()));
  process->stdio = *std::move(stdio);
  if (process->is_init() && streams_abandoned_) co_return absl::CancelledError("context canceled");
  co_return absl::OkStatus();
}

Async<absl::Status> Container::CreateInit() {
  // A restored init gets its streams when Start makes it: nothing runs until then.
  if (init_->state == ProcessState::kCreatedCheckpoint) co_return absl::OkStatus();
  MakesInit create = [this](OciRuntime::CreateArgs args) {
    args.no_new_keyring = config_.options.no_new_keyring;
    return runtime_.Create(std::move(args));
  };
  co_return co_await MakeInit(std::move(create));
}

Async<absl::Status> Container::MakeInit(MakesInit make) {
  CO_RETURN_IF_ERROR(co_await PrepareStdio(init_));
  OciRuntime::CreateArgs args;
  args.pid_file = PidFile("");
  args.console_socket = init_->stdio->console_socket();
  args.no_pivot_root = config_.options.no_pivot_root;
  args.stdio = init_->stdio->child_fds();
  args.started = [stdio = init_->stdio] { stdio->RuntimeStarted(); };

  std::optional<Reaper::Expectation> expectation(std::in_place, reaper_);
  // Somebody else's container of this id, which the OCI runtime is about to complain of; not what
  // an earlier restoration has left.
  const bool foreign = !left_over_ && runtime_.HasState();
  made_ = !foreign;
  Async<absl::Status> making = make(std::move(args));
  absl::Status status = co_await std::move(making);
  made_ = status.ok() || (!foreign && runtime_.HasState());
  CO_RETURN_IF_ERROR(status);
  CO_RETURN_IF_ERROR(AdoptInit());
  expectation.reset();
  co_return co_await init_->stdio->Attach();
}

Async<> Container::DeleteFailed() {
  Disown(*init_);
  left_over_ = true;
  absl::Status deleted = co_await runtime_.Delete(true);
  made_ = left_over_ = !deleted.ok();
  if (!left_over_)
    cgroup_.reset();
  else
    LogError("cannot delete a container whose creation failed",
             {{"error", std::string(deleted.message())}, {"id", config_.id}});
}

Async<> Container::DeleteLeftOver() {
  auto self = shared_from_this();
  co_await UndoCreation();
}

absl::Status Container::AdoptInit() {
  ASSIGN_OR_RETURN(pid_t pid, ReadPid(""));
  // Only a process that nobody has reaped has a cgroup to be found.
  if (auto cgroup = FindCgroup(pid); cgroup.ok()) {
    cgroup_ = *std::move(cgroup);
    if (absl::Status enabled = EnableControllers(*cgroup_); !enabled.ok())
      LogDebug("cannot enable all controllers",
               {{"error", std::string(enabled.message())}, {"id", config_.id}});
  } else {
    LogWarning("cannot find the container's cgroup",
               {{"error", std::string(cgroup.status().message())}, {"id", config_.id}});
  }
  Adopt(init_, pid);
  return absl::OkStatus();
}

Async<absl::Status> Container::Start(ExitHold* hold) {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await init_->operations.Acquire();
  hold->Take(self, init_);
  CO_RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kStart));
  if (init_->state == ProcessState::kCreatedCheckpoint) {
    absl::Status restored;
    try {
      restored = co_await Restore();
    } catch (const std::bad_alloc&) {
      restored = NoMemoryError();
    }
    if (restored.ok()) {
      init_->state = ProcessState::kRunning;
      co_return restored;
    }
    // For a deletion, if what undoes it is refused memory.
    left_over_ = made_;
    if (made_) co_await DeleteFailed();
    if (init_->stdio) co_await init_->stdio->Close();
    co_return restored;
  }
  CO_RETURN_IF_ERROR(co_await runtime_.Start(std::shared_ptr<Event>(init_, &init_->gone)));
  // An exit that is held back comes after this.
  if (init_->state == ProcessState::kCreated) init_->state = ProcessState::kRunning;
  co_return absl::OkStatus();
}

Async<absl::Status> Container::Restore() {
  MakesInit restore = [this](OciRuntime::CreateArgs create) {
    OciRuntime::RestoreArgs args;
    args.image_path = config_.checkpoint;
    args.work_path = config_.options.criu_work_path.empty() ? config_.bundle + "/work"
                                                            : config_.options.criu_work_path;
    args.parent_path = config_.parent_checkpoint;
    args.create = std::move(create);
    return runtime_.Restore(std::move(args));
  };
  co_return co_await MakeInit(std::move(restore));
}

Async<absl::Status> Container::Pause() {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await init_->operations.Acquire();
  CO_RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kPause));
  init_->state = ProcessState::kPausing;
  absl::Status status;
  try {
    status = co_await runtime_.Pause();
  } catch (const std::bad_alloc&) {
    status = NoMemoryError();
  }
  if (status.ok() && init_gone_) {
    // The init ended meanwhile: what else is in the container must not stay frozen, or its exit
    // never comes.
    status = co_await runtime_.Resume();
  } else if (init_->state == ProcessState::kPausing) {
    init_->state = status.ok() || IsFrozen(/*otherwise=*/false) ? ProcessState::kPaused
                                                                : ProcessState::kRunning;
  }
  co_return status;
}

Async<absl::Status> Container::Resume() {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await init_->operations.Acquire();
  CO_RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kResume));
  absl::Status status;
  try {
    status = co_await runtime_.Resume();
  } catch (const std::bad_alloc&) {
    status = NoMemoryError();
  }
  if (init_->state == ProcessState::kPaused && (status.ok() || !IsFrozen(/*otherwise=*/true)))
    init_->state = ProcessState::kRunning;
  co_return status;
}

bool Container::IsFrozen(bool otherwise) const {
  bool frozen = otherwise;
  if (cgroup_)
    CatchNoMemory([&] { frozen = feather::IsFrozen(*cgroup_).value_or(otherwise); }).IgnoreError();
  return frozen;
}

Async<absl::Status> Container::Update(std::string resources) {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await init_->operations.Acquire();
  CO_RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kUpdate));
  co_return co_await runtime_.Update(std::move(resources));
}

Async<absl::Status> Container::Checkpoint(OciRuntime::CheckpointArgs args) {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await init_->operations.Acquire();
  CO_RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kCheckpoint));
  bool own_work_path = args.work_path.empty();
  if (own_work_path) args.work_path = config_.bundle + "/work/criu-work";
  std::string work_path = args.work_path;
  absl::Status status = co_await runtime_.Checkpoint(std::move(args));
  std::string log_copy = status.ok() ? "" : config_.bundle + "/criu-dump.log";
  if (status.ok() && !own_work_path) co_return status;
  // A work directory may be large, and on any file system.
  std::function<absl::Status()> tidy_up = [work_path, own_work_path, log_copy] {
    return TidyUpCheckpoint(work_path, own_work_path, log_copy);
  };
  absl::Status tidied = co_await RunInChild(reaper_, std::move(tidy_up));
  if (status.ok() || !tidied.ok()) co_return status;
  absl::string_view first_line = status.message();
  first_line = first_line.substr(0, first_line.find('\n'));
  co_return absl::Status(status.code(), absl::StrCat(first_line, " path= ", log_copy));
}

Async<absl::Status> Container::Kill(uint32_t signal, bool all) {
  // Not serialized with the other operations: a kill must get through while a start or a checkpoint
  // hangs.
  auto self = shared_from_this();
  CO_RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kKill));
  co_return co_await runtime_.Kill(signal, all);
}

Async<absl::Status> Container::Delete() {
  auto self = shared_from_this();
  Mutex::Lock lock = co_await init_->operations.Acquire();
  CO_RETURN_IF_ERROR(AllowedForInit(init_->state, Operation::kDelete));
  if (init_->stdio && init_->state == ProcessState::kStopped) {
    bool drained = co_await init_->stdio->Drain(kDrainLimit);
    if (!drained)
      LogWarning("output is still held open in the container: it ends here", {{"id", config_.id}});
  }
  if (init_->state != ProcessState::kCreatedCheckpoint || left_over_)
    CO_RETURN_IF_ERROR(co_await runtime_.Delete(left_over_));
  if (init_->pid != 0) {
    bool reported = co_await init_->exited.WaitUntil(Clock::now() + kReapLimit);
    // Its exit would be lost with the container. The next Delete finds it, or waits again.
    if (!reported)
      co_return absl::UnknownError("failed to delete task: the exit of its init is still awaited");
  }
  if (init_->stdio) co_await init_->stdio->Close();
  co_await EndExecs();
  if (absl::Status status = co_await UnmountAll(reaper_, rootfs()); !status.ok())
    co_return absl::UnknownError(absl::StrCat("failed rootfs umount: ", status.message()));
  init_->state = ProcessState::kDeleted;
  init_->exited.Set();
  co_return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Process>> Container::Find(const std::string& exec_id) const {
  if (exec_id.empty()) return init_;
  auto it = execs_.find(exec_id);
  if (it == execs_.end())
    return absl::NotFoundError(absl::StrCat("process does not exist ", exec_id, ": not found"));
  return it->second;
}

ProcessState Container::StateOf(const Process& process) const {
  bool frozen = init_->state == ProcessState::kPaused || init_->state == ProcessState::kPausing;
  return frozen ? init_->state : process.state;
}

}  // namespace feather
