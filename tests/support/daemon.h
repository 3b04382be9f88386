#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tests/support/subprocess.h"

namespace feather::test {

// One line of `ctr events`.
struct DaemonEvent {
  std::string containerd_namespace;
  std::string topic;
  std::string json;

  // The value of a string or number field of the event's top level, empty if absent.
  std::string Field(absl::string_view name) const;
  // "/tasks/exit a" or "/tasks/exit a/EXEC".
  std::string Summary() const;
};

// A private containerd, with root, state, socket and temporary files of its own, and the shim under
// test before all others in its PATH.
//
// The test's process goes into a mount namespace of its own, in which /run/containerd and the
// daemon's directory are fresh tmpfs: tests run beside each other and beside the machine's own
// containerd, and what is left behind is found by listing. Cgroups are told apart by the containerd
// namespace, which is their parent's name. One Daemon at a time per process.
//
// Environment: FEATHER_SHIM, the binary under test (default: the one of this build);
// FEATHER_TEST_RUNTIME, the runtime name that it is run by (default: io.containerd.feather.v2).
// With io.containerd.runc.v2 and no FEATHER_SHIM it is the stock shim of the same package, which
// proves the tests. FEATHER_CONTAINERD_DIR: where the fetched daemons are. FEATHER_CONTAINERD_2: a
// directory with another containerd 2 and its ctr and shim, which takes the place of sid's.
class Daemon {
 public:
  // The Debian suites whose containerd is tested; bookworm's is the machine's own package.
  static std::vector<std::string> Suites();
  // Why the suite's daemon cannot be run here; empty if it can.
  static std::string Unavailable(const std::string& suite);
  static std::string Runtime();
  // The subject is feather, not another shim that the tests are compared with.
  static bool TestsFeather();
  // The one that speaks gRPC.
  static bool TestsGrpc();

  // `cri`: CRI's configuration in TOML, of the daemon's version; empty: without CRI.
  explicit Daemon(std::string suite, std::string cri = "");
  // Kills whatever is left.
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Has the shim under test, or another, serve another runtime name too.
  void ServeAs(const std::string& runtime, std::string shim = "") const;
  // The shim of the same package.
  std::string StockShim() const { return binaries_ + "/containerd-shim-runc-v2"; }

  // Start returns when the daemon answers, its first start also when the image is imported. False:
  // it does not; Log() says why.
  bool Start();
  void Kill();
  bool Restart();
  // From the next Start on another suite's daemon, as a package's upgrade brings it.
  void Upgrade(const std::string& suite);
  // SIGSTOP, SIGCONT.
  void Signal(int signal) const { process_->Signal(signal); }
  // Where shims send their events.
  std::string EventSocket() const { return directory_ + "/c.sock.ttrpc"; }
  // SIGTERM, as a service manager does it.
  bool Stop();

  const std::string& suite() const { return suite_; }
  std::string version() const;
  // That of another suite's directory, or of a build of one's own, may be a newer one.
  bool OlderThan(int major, int minor) const;
  const std::string& snapshotter() const { return snapshotter_; }
  const std::string& directory() const { return directory_; }
  const std::string& containerd_namespace() const { return namespace_; }
  std::string Log() const;
  // Events and what is of interest in the log.
  void PrintLog() const;
  std::string Bundle(const std::string& id) const;

  // `ctr ARGS`, with this daemon's socket and namespace.
  CommandResult Ctr(const std::vector<std::string>& args, Milliseconds limit = kProgramLimit) const;
  std::unique_ptr<Subprocess> StartCtr(const std::vector<std::string>& args,
                                       Subprocess::Options options = {}) const;
  // An image of busybox in any namespace: under another name with another command (a JSON array).
  bool ImportImage(const std::string& name = "busybox",
                   const std::string& command = R"(["/bin/sh"])",
                   const std::string& containerd_namespace = "");
  // Arguments of `ctr run` with the runtime under test and the busybox image. `runtime`: another.
  std::vector<std::string> Run(const std::string& id, const std::vector<std::string>& flags,
                               const std::vector<std::string>& command,
                               const std::string& runtime = Runtime()) const;
  // Arguments of `ctr task exec`.
  std::vector<std::string> Exec(const std::string& id, const std::string& exec_id,
                                const std::vector<std::string>& flags,
                                const std::vector<std::string>& command) const;
  // Kills, awaits and removes task and container.
  void Remove(const std::string& id) const;
  // RUNNING, STOPPED, … of `ctr task ls`; empty if there is no such task.
  std::string TaskStatus(const std::string& id) const;

  // 0 if unknown.
  pid_t InitPid(const std::string& id) const;
  pid_t ShimPid(const std::string& id) const;
  // The path of the socket that the shim of a container serves on.
  std::string ShimSocket(const std::string& id) const;

  // Follows the daemon's events from now on. (Ends with the daemon; follow again after Restart.)
  void FollowEvents();
  // The events of one container's tasks so far.
  std::vector<DaemonEvent> TaskEvents(const std::string& id) const;
  // Until `done` of all events so far.
  bool WaitEvents(absl::FunctionRef<bool(const std::vector<DaemonEvent>&)> done,
                  Milliseconds limit = kProgramLimit);
  bool WaitEvent(const std::string& summary, Milliseconds limit = kProgramLimit);

  // What the containers and shims of this daemon have left behind: processes, mounts, cgroups,
  // sockets, FIFOs, bundles, temporary files. Waits for it to become nothing.
  std::vector<std::string> Leftovers(Milliseconds limit = Milliseconds(20'000)) const;
  // Of those, what concerns one kind, for tests that look into a part.
  std::vector<std::string> Processes() const;
  std::vector<std::string> Mounts() const;
  std::vector<std::string> Cgroups() const;
  std::vector<std::string> Files() const;
  // The FIFOs are ctr's; a ctr that was killed or has failed does not remove them.
  void RemoveClientFifos() const;

 private:
  void WriteConfiguration() const;
  std::vector<std::string> Environment() const;
  void StopFollowing();

  std::string suite_;
  std::string binaries_;
  std::string directory_;
  std::string namespace_;
  std::string snapshotter_;
  const std::string cri_;
  std::unique_ptr<Subprocess> process_;
  std::unique_ptr<Subprocess> events_;
  // What `ctr events` printed up to its end.
  std::string followed_;
  bool imported_ = false;
};

}  // namespace feather::test
