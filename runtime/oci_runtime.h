#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/base/async.h"
#include "runtime/reaper.h"
#include "runtime/runtime_options.h"

namespace feather {

// Drives runc, crun or any OCI runtime with runc's command line, for one container. Every call
// forks the runtime and waits for it as a coroutine; the loop is never blocked. It must outlive its
// calls. Arguments are those that containerd's own shim uses (contract section 4.3):
//   <binary> --root <root>/<namespace> --log <bundle>/log.json --log-format json
//       [--criu <path>] [--systemd-cgroup] <command> …
// Environment: this process' without NOTIFY_SOCKET. Working directory: the bundle, while it exists.
// Process group: this process'. The runtime is killed when this process ends.
//
// Errors: code Unknown, text "OCI runtime <op> failed: <last error line that *this* command wrote
// to log.json>", or "…: <binary> did not terminate successfully: exit status N: <output>" when it
// wrote none, or "…: unable to retrieve OCI runtime error (<why>): <the same>" when there is no log
// to look at, as for a runtime that cannot be executed. Delete begins with "failed to delete task";
// Update and Checkpoint have no prefix and don't look at the log. <output> is what the runtime
// wrote to stdout and stderr, up to 64 KiB.
class OciRuntime {
 public:
  struct Config {
    std::string binary;  // name or path; empty: runc
    std::string root;    // <root>/<namespace>
    std::string bundle;  // absolute
    std::string id;
    bool systemd_cgroup = false;
    std::string criu_path;  // empty: none
  };

  OciRuntime(Reaper& reaper, Config config);

  // Standard descriptors of the container's process, handed to the runtime as its own 0-2; -1 is
  // /dev/null. With a console socket the container's process has none of these, and then 1 and 2
  // are captured for the error text where they are -1.
  using Stdio = std::array<int, 3>;

  struct CreateArgs {
    std::string pid_file;
    std::string console_socket;  // empty: no terminal
    bool no_pivot_root = false;
    bool no_new_keyring = false;
    Stdio stdio = {-1, -1, -1};
    // Called once the runtime has been started: the caller closes its copies of `stdio`.
    std::function<void()> started;
  };
  Async<absl::Status> Create(CreateArgs args);
  // `init_gone` is set when the init has been reaped: a start that still runs kUselessLimit later
  // is killed. (crun waits for ever, up to 1.8.1 at least, for an init that is killed meanwhile.)
  Async<absl::Status> Start(std::shared_ptr<Event> init_gone = nullptr);
  static constexpr Clock::duration kUselessLimit = std::chrono::seconds(5);

  struct ExecArgs {
    std::string process_file;  // JSON of the OCI process object
    std::string pid_file;
    std::string console_socket;
    Stdio stdio = {-1, -1, -1};
    std::function<void()> started;
  };
  Async<absl::Status> Exec(ExecArgs args);

  struct RestoreArgs {
    std::string image_path;
    std::string work_path;
    std::string parent_path;
    CreateArgs create;  // pid file, console, stdio
  };
  Async<absl::Status> Restore(RestoreArgs args);

  // NotFound "process already finished: not found" or "no such container: not found" as contract
  // section 4.3 maps them, else "unknown error after kill: …".
  Async<absl::Status> Kill(uint32_t signal, bool all);
  // A container that the runtime does not know any more counts as deleted.
  Async<absl::Status> Delete(bool force);
  Async<absl::Status> Pause();
  Async<absl::Status> Resume();
  // `resources`: JSON of OCI LinuxResources.
  Async<absl::Status> Update(std::string resources);

  struct CheckpointArgs {
    std::string image_path;
    std::string work_path;
    std::string parent_path;
    bool leave_running = true;
    bool open_tcp = false;
    bool external_unix_sockets = false;
    bool terminal = false;
    bool file_locks = false;
    std::vector<std::string> empty_namespaces;
  };
  Async<absl::Status> Checkpoint(CheckpointArgs args);

  // Whether it has something under the container's id, be it only half made.
  bool HasState() const;

  const Config& config() const { return config_; }

 private:
  // One run of the binary.
  struct Invocation {
    std::vector<std::string> arguments;  // after the common ones
    Stdio stdio = {-1, -1, -1};
    bool capture = true;             // 1 and 2, where they are -1
    std::string input;               // stdin, if not empty
    std::function<void()> started;   // may be empty
    std::shared_ptr<Event> useless;  // once set, kUselessLimit is left; none: as long as it takes
  };

  // The error is go-runc's: what became of the process, without the log.
  Async<absl::Status> Execute(Invocation invocation);
  // `status` with `prefix` and what the log says after `log_end`.
  absl::Status Explain(absl::string_view prefix, off_t log_end, const absl::Status& status) const;
  bool IsUnknownContainer(const absl::Status& status) const;
  // Execute, explained.
  Async<absl::Status> Run(std::string prefix, Invocation invocation);
  Async<absl::Status> Run(std::string prefix, std::vector<std::string> arguments);
  // Run, of a command that writes the pid of a process that it makes.
  Async<absl::Status> MakeProcess(std::string prefix, std::string pid_file, Invocation invocation);
  std::vector<std::string> CommandLine(const std::vector<std::string>& arguments) const;
  std::string LogPath() const;
  bool BundleExists() const;

  Reaper& reaper_;
  Config config_;
};

// `bundle` is absolute.
OciRuntime::Config MakeRuntimeConfig(const RuntimeOptions& options, absl::string_view name_space,
                                     std::string bundle, std::string id);

}  // namespace feather
