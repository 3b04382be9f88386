#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/runc_options.pb.h"
#include "proto/task.pb.h"
#include "tests/support/shim_bundle.h"
#include "tests/support/shim_events.h"
#include "tests/support/shim_fifo.h"
#include "tests/support/shim_loop.h"
#include "tests/support/shim_process.h"

// A small program that plays containerd towards one shim binary: it makes bundles, runs `start` and
// `delete`, speaks TTRPC and offers the Events server, each as a given series of containerd does.
//
//   FakeContainerd ctrd({.runtime = "crun"});
//   Container& c = ctrd.New("a", {.spec = {.args = {"echo", "hi"}}});
//   c.Create(); c.Start(); c.Wait(); … c.Remove();
//   EXPECT_THAT(ctrd.FindLeftovers(), IsEmpty());
namespace feather::ttrpc {
class Client;
}

namespace feather::test {

namespace task = containerd::task::v2;

// The series of containerd, where they differ towards a shim (contract section 12). 2_1 stands for
// 2.0 to 2.2, 2_3 for that and all later.
enum class Series { k1_6, k1_7, k2_1, k2_3 };

// $FEATHER_TEST_TRANSPORT is "grpc": the shim under test is the one that speaks it.
bool TestsGrpc();
// The shim under test: $FEATHER_SHIM, or the one of this build.
std::string ShimUnderTest();
// A file of Debian's containerd package of "bookworm", "trixie" or "sid" ("containerd",
// "containerd-shim-runc-v2"), empty if it is not there (tests/containerd/fetch gets them).
std::string DebianBinary(const std::string& suite, const std::string& name);

struct Settings {
  std::string shim = ShimUnderTest();
  Series daemon = TestsGrpc() ? Series::k2_3 : Series::k2_1;
  std::string runtime;     // options.binary_name: a name, a path, or empty for runc
  std::string name_space;  // empty: one of its own
  bool debug = false;
  // Cgroups are made by systemd, as scopes; it must be process 1.
  bool systemd_cgroup = false;
  bool options = true;           // false: no options at all, so that the shim has its defaults
  std::vector<std::string> env;  // beyond what containerd sets
};

struct ContainerOptions {
  SpecOptions spec;
  // Written instead of the spec when set.
  std::optional<std::string> config;
  // The spec's root is mounted by the shim (a bind mount in the Create request), as containerd has
  // it; false: root.path names the directory and the request has no mounts.
  bool mount_rootfs = true;
  bool in = false;
  bool out = true;
  bool err = true;
};

// A task's FIFOs and their client's ends; null where the request has none.
struct ClientStdio {
  std::unique_ptr<FifoWriter> in;
  std::unique_ptr<FifoReader> out;
  std::unique_ptr<FifoReader> err;
};

// What `start` answered.
struct Answer {
  int version = 0;
  std::string address;   // "unix://…"
  std::string protocol;  // "ttrpc"
  std::string raw;
};

class FakeContainerd;

// One container as containerd sees it: its bundle, and its own connection to a shim.
//
// Every RPC of the task service is a blocking call that waits at most kLimit while the test's loop
// runs, or, ending in Async, a call that is sent only. An empty `exec` means the init process.
class Container {
 public:
  Container(FakeContainerd& ctrd, std::string id, ContainerOptions options);
  ~Container();

  // Makes the bundle; runs `start` and connects.
  void MakeBundle();
  absl::Status StartShim();
  // Connects (again) to where the shim answered to be.
  absl::Status Connect();
  void Disconnect();

  const std::string& id() const { return id_; }
  const std::string& bundle() const { return bundle_; }
  const Answer& answer() const { return answer_; }
  // The server that `start` left behind; 0 if it named one that was running.
  pid_t shim_pid() const { return shim_pid_; }
  bool connected() const;
  ttrpc::Client& client() { return *client_; }
  ClientStdio& stdio() { return stdio_; }
  ClientStdio& exec_stdio(const std::string& exec) { return exec_stdio_[exec]; }

  // What Create will send (FIFOs made, options, root file system); change it at will.
  task::CreateTaskRequest CreateRequest();
  absl::StatusOr<uint32_t> Create() { return Create(CreateRequest()); }
  absl::StatusOr<uint32_t> Create(const task::CreateTaskRequest& request);
  absl::StatusOr<uint32_t> Start(const std::string& exec = "");
  // Create and Start, with their errors.
  absl::Status Run();
  absl::StatusOr<task::DeleteResponse> Delete(const std::string& exec = "");
  absl::StatusOr<task::StateResponse> State(const std::string& exec = "");
  absl::StatusOr<task::PidsResponse> Pids();
  absl::Status Kill(uint32_t signal, const std::string& exec = "", bool all = false);
  // FIFOs for stdout and stderr (and stdin) as asked for in `streams`.
  task::ExecProcessRequest ExecRequest(const std::string& exec,
                                       const std::vector<std::string>& args,
                                       ContainerOptions streams = {});
  absl::Status Exec(const task::ExecProcessRequest& request);
  absl::Status Exec(const std::string& exec, const std::vector<std::string>& args,
                    ContainerOptions streams = {}) {
    return Exec(ExecRequest(exec, args, std::move(streams)));
  }
  absl::Status ResizePty(uint32_t width, uint32_t height, const std::string& exec = "");
  absl::Status CloseIO(const std::string& exec = "");
  absl::StatusOr<task::WaitResponse> Wait(const std::string& exec = "",
                                          std::optional<Clock::duration> timeout = std::nullopt);
  Pending<task::WaitResponse> WaitAsync(const std::string& exec = "",
                                        std::optional<Clock::duration> timeout = std::nullopt);
  absl::StatusOr<task::ConnectResponse> ConnectTask();
  absl::Status Pause();
  absl::Status Resume();
  absl::Status Shutdown();
  // As containerd deletes a task: Delete, Shutdown, the connection's end, the bundle's removal. The
  // first thing that goes wrong is the answer.
  absl::Status Remove();
  // Kills with SIGKILL, waits, and Remove.
  absl::Status KillAndRemove();

  template <typename Response, typename Request>
  Pending<Response> Send(std::string method, const Request& request,
                         std::optional<Clock::duration> timeout = std::nullopt) {
    return Pending<Response>(
        loop(), SendBytes(service(), std::move(method), request.SerializeAsString(), timeout));
  }
  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(std::string method, const Request& request) {
    return Send<Response>(std::move(method), request).Get();
  }
  // The bare call, whatever the method and the bytes.
  std::shared_ptr<std::optional<absl::StatusOr<std::string>>> SendBytes(
      std::string service, std::string method, std::string bytes,
      std::optional<Clock::duration> timeout = std::nullopt);
  // Its error.
  absl::Status CallBytes(std::string service, std::string method, std::string bytes);
  // containerd.task.v2.Task or v3, as the shim's version asks for.
  std::string service() const;

  // SIGKILL to the shim, and the end of the connection.
  void KillShim();
  struct DeleteResult {
    HelperResult helper;
    task::DeleteResponse response;
  };
  // Runs the `delete` command as containerd does when a shim has gone.
  DeleteResult RunDelete();
  // containerd's Bundle.Delete; fails where the shim has left something in rootfs.
  absl::Status RemoveBundle();

 private:
  ClientStdio MakeStdio(const std::string& name, const ContainerOptions& options);
  absl::StatusOr<Answer> ParseAnswer(const std::string& out) const;

  Loop& loop();

  FakeContainerd& ctrd_;
  std::string id_;
  ContainerOptions options_;
  std::string bundle_;
  Answer answer_;
  pid_t shim_pid_ = 0;
  std::shared_ptr<ttrpc::Client> client_;
  ClientStdio stdio_;
  std::map<std::string, ClientStdio> exec_stdio_;
};

// One containerd with its directories (state, root, FIFOs, sockets, a TMPDIR, a runtime root), and
// everything that was started through it.
class FakeContainerd {
 public:
  explicit FakeContainerd(Settings settings = {});
  // Kills and removes what is left, without a word.
  ~FakeContainerd();

  // A container with its bundle; and with its shim started and connected (throws when that fails).
  Container& Prepare(const std::string& id, ContainerOptions options = {});
  Container& New(const std::string& id, ContainerOptions options = {});

  // Everything that is left of what the containers did (processes, mounts, sockets, cgroups,
  // runtime state, temporary files), and shims that ended otherwise than with exit code 0. Waits
  // for shims that are about to end. Empty after a clean test; kills and removes what it tells.
  std::vector<std::string> FindLeftovers();
  // From now on this binary is run for `start` and `delete`, as this series of containerd does it.
  void Switch(std::string shim, Series daemon) {
    settings_.shim = std::move(shim);
    settings_.daemon = daemon;
  }
  // A shim that was killed, or may end as it likes.
  void ForgiveShim(pid_t pid) { forgiven_.push_back(pid); }

  const Settings& settings() const { return settings_; }
  Loop& loop() { return loop_; }
  asio::io_context& io() { return loop_.io(); }
  EventsServer& events() { return *events_; }
  bool WaitForEvent(const std::function<bool(const RecordedEvent&)>& fits,
                    Clock::duration limit = kLimit);
  // Until the exit of a process has arrived; null when it does not.
  const RecordedEvent* WaitForExit(const std::string& container, const std::string& id);
  // Until the whole stream of a container is as expected.
  bool WaitForDelete(const std::string& container);

  std::string directory() const { return directory_.path(); }
  std::string name() const { return directory_.name(); }
  const std::string& name_space() const { return settings_.name_space; }
  std::string rootfs() const { return directory() + "/image"; }
  std::string grpc_address() const { return directory() + "/containerd.sock"; }
  std::string state_directory() const;
  std::string root_directory() const;
  std::string runtime_root() const { return directory() + "/runc"; }
  std::string temporary_directory() const { return directory() + "/tmp"; }
  // What all shims have written to the `log` FIFOs so far.
  std::string log() const;
  // Stops reading that of a bundle.
  void CloseLog(const Container& container);

  // Options as they go into Create and into the stdin of `start`.
  containerd::runc::v1::Options RuncOptions() const;
  google::protobuf::Any Options() const;
  HelperCommand Helper(const Container& container, const std::string& action);
  void Reap() { ReapChildren(exits_); }
  // waitpid's status of a child that has been reaped.
  std::optional<int> ExitOf(pid_t pid);

 private:
  friend class Container;
  void OpenLog(const std::string& path);
  void AddSocket(const std::string& address) { sockets_.push_back(address); }
  void WaitForChildren(std::vector<std::string>& left);

  TestDirectory directory_;
  Settings settings_;
  Loop loop_;
  std::unique_ptr<EventsServer> events_;
  std::vector<std::unique_ptr<FifoReader>> logs_;
  std::vector<std::string> sockets_;
  std::vector<pid_t> shims_;
  std::vector<pid_t> forgiven_;
  std::map<pid_t, int> exits_;
  std::vector<std::unique_ptr<Container>> containers_;
};

}  // namespace feather::test
