#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/base/mutex.h"
#include "runtime/cgroup.h"
#include "runtime/io/stdio.h"
#include "runtime/mount/mount.h"
#include "runtime/oci_runtime.h"
#include "runtime/process_state.h"
#include "runtime/reaper.h"
#include "runtime/runtime_options.h"

namespace feather {

// What the shim knows of one process of a container: its init, or an exec. Plain data; Container
// acts on it.
struct Process {
  std::string exec_id;   // empty: the init
  StdioRequest request;  // as it came: State gives the strings back byte for byte
  std::string spec;      // exec: JSON of the OCI process object, until it has been started
  std::shared_ptr<Stdio> stdio;

  ProcessState state = ProcessState::kCreated;
  pid_t pid = 0;  // 0 until the OCI runtime has made it
  Exit exit;      // pid, status and time, once `exited` is set
  Event exited;
  Event gone;  // reaped; `exited` may be held back

  // An exit that arrives while somebody has an event to publish first waits here (ExitHold).
  int exit_holds = 0;
  std::optional<Exit> held_exit;

  // Exec: set when a start has its pid, or has failed; null before any.
  std::shared_ptr<Event> starting;
  // One state-changing operation at a time.
  Mutex operations;

  // Its pid may be another process' by now.
  bool reaped() const { return held_exit || state == ProcessState::kStopped; }
  bool is_init() const { return exec_id.empty(); }
};

class ExitHold;

// One container: its init, its execs, its mounts and its cgroup, driven through the OCI runtime. It
// always lives in a shared_ptr, which work in flight holds.
//
// The order that clients rely on (contract 4.5): the exit of a process is reported after what the
// holder of an ExitHold has to say first (its start), and an init's exit after those of all its
// execs.
class Container : public std::enable_shared_from_this<Container> {
 public:
  struct Config {
    std::string id;
    std::string name_space;
    std::string bundle;
    RuntimeOptions options;
    std::vector<Mount> rootfs;
    StdioRequest stdio;
    std::string checkpoint;  // not empty: Start restores it
    std::string parent_checkpoint;
    // The kernel kills everything in the container with its init. Otherwise the shim has to.
    bool private_pid_namespace = true;
  };
  // Called once for every process that ran, before whoever waits for its exit is woken.
  using OnExit = std::function<void(const Process&)>;

  Container(asio::io_context& io, Reaper& reaper, Config config, OnExit on_exit);

  // Mounts the rootfs and creates the init. After an error nothing of it is left, unless left_over.
  Async<absl::Status> Create();
  // Something of a container whose creation failed is left: the OCI runtime would not delete it, or
  // there was no memory for undoing it.
  bool left_over() const { return left_over_; }
  // Tries it again.
  Async<> DeleteLeftOver();
  // A creation under way stops waiting for a client that opens its streams, and fails.
  Async<> AbandonStreams();
  // Starts (or restores) the init. Takes `hold`, which the caller keeps until it has published the
  // start, once it is this operation's turn: an exit must not wait for a start that waits itself.
  Async<absl::Status> Start(ExitHold* hold);
  Async<absl::Status> Pause();
  Async<absl::Status> Resume();
  Async<absl::Status> Update(std::string resources);
  Async<absl::Status> Checkpoint(OciRuntime::CheckpointArgs args);
  Async<absl::Status> Kill(uint32_t signal, bool all);
  // Of a stopped or only created container: drains its output, deletes it in the OCI runtime and
  // unmounts its rootfs. After an error it can be tried again.
  Async<absl::Status> Delete();

  // `spec`: JSON of the OCI process object. AlreadyExists if the id is taken.
  absl::Status AddExec(std::string exec_id, std::string spec, StdioRequest stdio);
  // Undoes AddExec, as long as nobody can know of the exec.
  void ForgetExec(const std::string& exec_id) { execs_.erase(exec_id); }
  Async<absl::Status> StartExec(std::shared_ptr<Process> exec, ExitHold* hold);
  // `tree`: also whatever the exec has started that is still there, even after its own end.
  Async<absl::Status> KillExec(std::shared_ptr<Process> exec, uint32_t signal, bool tree);
  Async<absl::Status> DeleteExec(std::shared_ptr<Process> exec);

  // The init for an empty id. NotFound "process does not exist <id>: not found".
  absl::StatusOr<std::shared_ptr<Process>> Find(const std::string& exec_id) const;

  const Config& config() const { return config_; }
  const std::shared_ptr<Process>& init() const { return init_; }
  const std::map<std::string, std::shared_ptr<Process>>& execs() const { return execs_; }
  // Known from Create (or restore) on, as long as the object lives.
  const std::optional<Cgroup>& cgroup() const { return cgroup_; }
  // kPaused and kPausing count for every process of the container.
  ProcessState StateOf(const Process& process) const;

 private:
  friend class ExitHold;

  // How long a deletion waits for output that something in the container still holds open.
  static constexpr Clock::duration kDrainLimit = std::chrono::seconds(10);

  Async<absl::Status> PrepareStdio(std::shared_ptr<Process> process);
  Async<absl::Status> CreateInit();
  Async<absl::Status> Restore();
  // Makes the init by one of the OCI runtime's commands, which is given what both need.
  using MakesInit = std::function<Async<absl::Status>(OciRuntime::CreateArgs)>;
  Async<absl::Status> MakeInit(MakesInit make);
  // What is to be done at once when the OCI runtime has made the init.
  absl::Status AdoptInit();
  // The process of an exec of which no pid is known: the one child of this process in the
  // container's cgroup, made since `begun` (ProcessStat::start), that no other has claimed. 0 if
  // there is none, or more than one.
  pid_t FindUnclaimed(const std::string& exec_id, uint64_t begun) const;
  // After a pause or resume that failed, which may have been done nevertheless: what the kernel
  // says, `otherwise` where it does not tell.
  bool IsFrozen(bool otherwise) const;
  // After an error of a creation. left_over_ unless it has succeeded.
  Async<> UndoCreation();
  // After an error of a creation or restoration: what the OCI runtime has made must not outlive it.
  Async<> DeleteFailed();
  Async<> UnmountFailed();
  Async<absl::Status> RunExec(std::shared_ptr<Process> exec);
  absl::Status SignalExec(const Process& exec, int signal, bool tree) const;
  absl::Status InitIsGone() const;
  // Its exit is about to be told, or will be.
  bool init_is_dying() const;
  // Closes what execs have open that nobody has deleted.
  Async<> EndExecs();
  absl::StatusOr<pid_t> ReadPid(const std::string& exec_id) const;
  void Adopt(std::shared_ptr<Process> process, pid_t pid);
  // The process is not this container's any more: its exit will tell nothing.
  void Disown(Process& process);
  void Reaped(std::shared_ptr<Process> process, const Exit& exit);
  void Handle(std::shared_ptr<Process> process, const Exit& exit);
  // What is left of the container when its init has ended.
  static Async<> EndRest(std::shared_ptr<Container> self);
  // Once nothing has to be told before it.
  void TellInitsExit();
  // Never throws, like all that tells an exit: it would be lost.
  void Finish(Process& process, const Exit& exit) noexcept;
  void ExecEnded();
  std::string PidFile(const std::string& exec_id) const;
  std::string rootfs() const { return config_.bundle + "/rootfs"; }

  asio::io_context& io_;
  Reaper& reaper_;
  Config config_;
  OnExit on_exit_;
  OciRuntime runtime_;
  std::shared_ptr<Process> init_;
  std::map<std::string, std::shared_ptr<Process>> execs_;
  std::optional<Cgroup> cgroup_;
  // Execs between the fork of their runtime and the report of their exit.
  int live_execs_ = 0;
  // The init has been reaped: no exec starts any more.
  bool init_gone_ = false;
  bool streams_abandoned_ = false;
  // The OCI runtime may have something of it.
  bool made_ = false;
  bool left_over_ = false;
  // The init's, which is not told yet.
  std::optional<Exit> init_exit_;
  bool rest_ended_ = false;
};

// Keeps the exit of a process back from Take on while it lives, so that its holder can publish what
// comes before it.
class ExitHold {
 public:
  ExitHold() = default;
  ExitHold(const ExitHold&) = delete;
  ExitHold& operator=(const ExitHold&) = delete;
  ~ExitHold();

  // Once.
  void Take(std::shared_ptr<Container> container, std::shared_ptr<Process> process);

 private:
  std::shared_ptr<Container> container_;
  std::shared_ptr<Process> process_;
};

}  // namespace feather
