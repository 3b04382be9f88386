#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "proto/events.pb.h"
#include "proto/runc_options.pb.h"
#include "proto/task.pb.h"
#include "runtime/base/async.h"
#include "runtime/base/file.h"
#include "runtime/io/copier.h"
#include "runtime/io/fifo.h"
#include "runtime/reaper.h"
#include "runtime/spawn.h"
#include "shim/publisher.h"
#include "shim/rpc/method_table.h"
#include "shim/rpc/run.h"
#include "shim/task_service.h"
#include "shim/ttrpc/client.h"
#include "shim/ttrpc/server.h"
#include "tests/bench/hot_paths.h"
#include "tests/support/shim_bundle.h"
#include "tests/support/ttrpc.h"

namespace feather::bench {
namespace {

namespace api = containerd::task::v2;

// A process' output on its way through a copier: what is written to one end comes out of the other.
struct Copying {
  Copying(UniqueFd source, UniqueFd written, bool from_terminal) : in(std::move(written)) {
    if (from_terminal) terminal = source.get();
    Pipe pipe = Require(MakePipe());
    out = std::move(pipe.read);
    Require(SetNonBlocking(source.get()).ok() && SetNonBlocking(pipe.write.get()).ok(), "pipe");
    copier = std::make_shared<Copier>(io, Require(MakeDescriptor(io, std::move(source))),
                                      Require(MakeDescriptor(io, std::move(pipe.write))),
                                      Copier::Options{.from_terminal = from_terminal});
    Spawn(io, copier->Run());
  }

  void Copy(const std::string& data, std::string& buffer) {
    Require(write(in.get(), data.data(), data.size()) == ssize_t(data.size()), "write");
    // The kernel hands over what a terminal has got when it has time.
    pollfd source = {terminal, POLLIN, 0};
    if (terminal >= 0) Require(poll(&source, 1, -1) == 1, "poll");
    io.poll();
    Require(read(out.get(), buffer.data(), buffer.size()) == ssize_t(data.size()), "read");
  }

  asio::io_context io{1};
  std::shared_ptr<Copier> copier;
  int terminal = -1;
  UniqueFd in;
  UniqueFd out;
};

Turn Copies(UniqueFd source, UniqueFd written, bool from_terminal, size_t size) {
  auto copying = std::make_shared<Copying>(std::move(source), std::move(written), from_terminal);
  return [copying, data = std::string(size, 'x'), buffer = std::string(size, '\0')]() mutable {
    copying->Copy(data, buffer);
  };
}

Turn CopiesOutput(size_t size) {
  Pipe pipe = Require(MakePipe());
  return Copies(std::move(pipe.read), std::move(pipe.write), false, size);
}

// The terminal leaves what is written as it is: what the kernel makes of lines comes in pieces.
std::pair<UniqueFd, UniqueFd> OpenTerminal() {
  UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  std::array<char, 64> name;
  Require(unlockpt(master.get()) == 0 && ptsname_r(master.get(), name.data(), name.size()) == 0,
          "open a terminal");
  UniqueFd slave(open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  termios settings;
  Require(tcgetattr(slave.get(), &settings) == 0, "tcgetattr");
  cfmakeraw(&settings);
  Require(tcsetattr(slave.get(), TCSANOW, &settings) == 0, "tcsetattr");
  return {std::move(master), std::move(slave)};
}

Turn CopiesFromATerminal() {
  auto [master, slave] = OpenTerminal();
  return Copies(std::move(master), std::move(slave), true, 100);
}

void RunUntil(asio::io_context& io, const std::function<bool()>& done) {
  while (!done()) io.run_one();
}

// A TTRPC server and what its clients need, on one loop.
struct Served {
  void Serve() { server.Serve(socket.Listen()); }

  asio::io_context io{1};
  test::TempSocket socket;
  rpc::MethodTable methods;
  ttrpc::Server server{io, methods};
};

Async<> Connect(asio::io_context* io, std::string path, std::shared_ptr<ttrpc::Client>* client) {
  auto connected = co_await ttrpc::Client::Connect(*io, std::move(path));
  *client = Require(std::move(connected));
}

Async<> CallEcho(std::shared_ptr<ttrpc::Client> client, std::string request, bool* answered) {
  absl::StatusOr<std::string> answer =
      co_await client->Call("test.Echo", "Echo", std::move(request));
  Require(answer.ok(), "a call has failed");
  *answered = true;
}

// A request and its answer, both ends of it.
Turn CallsOverTtrpc(size_t size) {
  auto served = std::make_shared<Served>();
  served->methods.Add(
      "test.Echo", "Echo",
      [](rpc::CallContext, std::string request) -> Async<absl::StatusOr<std::string>> {
        co_return request;
      });
  served->Serve();
  std::shared_ptr<ttrpc::Client> client;
  Spawn(served->io, Connect(&served->io, served->socket.path(), &client));
  RunUntil(served->io, [&client] { return client != nullptr; });
  return [served, client, request = std::string(size, 'x')] {
    bool answered = false;
    Spawn(served->io, CallEcho(client, request, &answered));
    RunUntil(served->io, [&answered] { return answered; });
  };
}

// The end of a process told to containerd, and containerd's part: envelope, queue, call and answer.
Turn PublishesAnEvent() {
  struct Daemon : Served {
    std::optional<Publisher> publisher;
  };
  auto daemon = std::make_shared<Daemon>();
  daemon->methods.Add("containerd.services.events.ttrpc.v1.Events", "Forward",
                      [](rpc::CallContext, std::string) -> Async<absl::StatusOr<std::string>> {
                        co_return std::string();
                      });
  daemon->Serve();
  daemon->publisher.emplace(daemon->io, daemon->socket.path(), "k8s.io");
  containerd::events::TaskExit event;
  event.set_container_id(kLongId);
  event.set_id(kLongId);
  return [daemon, event] {
    daemon->publisher->Publish("/tasks/exit", event.GetTypeName(), event.SerializeAsString(),
                               absl::FromUnixSeconds(1700000000));
    RunUntil(daemon->io, [&] { return daemon->publisher->pending() == 0; });
  };
}

// Until it is to be told of, and without taking the exit from whom it is for.
void AwaitEnd(pid_t pid) {
  siginfo_t info;
  Require(waitid(P_PID, id_t(pid), &info, WEXITED | WNOWAIT) == 0, "wait");
}

// As an OCI runtime is run.
Turn SpawnsAProcess() {
  Command command;
  command.argv = {"/bin/true"};
  command.env = {"PATH=/usr/bin:/bin", "LANG=C"};
  return [command] {
    auto launch = Require(Launch::Begin(command));
    Require(waitpid(launch->pid(), nullptr, 0) == launch->pid(), "wait");
    Require(launch->status().ok(), "launch");
  };
}

// The end of a process that is waited for.
Turn ReapsAProcess() {
  struct Reaping {
    asio::io_context io{1};
    Reaper reaper{io};
  };
  auto reaping = std::make_shared<Reaping>();
  return [reaping] {
    pid_t pid = fork();
    Require(pid >= 0, "fork");
    if (pid == 0) {
      pause();
      _exit(0);
    }
    bool told = false;
    reaping->reaper.Watch(pid, [&told](const Exit&) { told = true; });
    kill(pid, SIGKILL);
    AwaitEnd(pid);
    RunUntil(reaping->io, [&told] { return told; });
  };
}

// Where there is the privilege, making a container changes the cgroups above its own: here there
// are none to be seen.
void HideCgroups() {
  if (unshare(CLONE_NEWNS) < 0) return;
  Require(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
              mount("none", "/sys/fs/cgroup", "tmpfs", 0, nullptr) == 0,
          "hide the cgroups");
}

// A shim with a container, whose OCI runtime only names its init, which is a child that waits.
struct Shim {
  Shim() {
    HideCgroups();
    service.Register(methods);
    Pipe input = Require(MakePipe());
    Command init;
    init.argv = {"/bin/cat"};
    init.fds = {{input.read.get(), 0}};
    pid = Require(SpawnProcess(init));
    // It ends with this.
    keeps_init = std::move(input.write);
    const std::string script = absl::StrCat(
        "#!/bin/sh\nuntil [ \"$1\" = --pid-file ]; do shift; done\necho ", pid, " >\"$2\"\n");
    Require(WriteFile(runtime(), script, 0755).ok(), "the OCI runtime");
  }

  std::string runtime() const { return directory.path() + "/oci-runtime"; }

  Async<> Create(bool* created) {
    api::CreateTaskRequest request;
    request.set_id(kLongId);
    request.set_bundle(directory.path());
    containerd::runc::v1::Options options;
    options.set_binary_name(runtime());
    request.mutable_options()->set_type_url(options.GetTypeName());
    request.mutable_options()->set_value(options.SerializeAsString());
    auto create = Require(methods.Find("containerd.task.v2.Task", "Create"));
    rpc::CallContext context;
    auto answer = co_await create->unary(std::move(context), request.SerializeAsString());
    Require(std::move(answer));
    *created = true;
  }

  asio::io_context io{1};
  test::TestDirectory directory;
  Reaper reaper{io};
  Publisher publisher{io, "", "k8s.io"};
  TaskService service{io, reaper, publisher, {"k8s.io", directory.path()}, [] {}};
  rpc::MethodTable methods;
  UniqueFd keeps_init;
  pid_t pid = 0;
};

Turn AnswersState() {
  auto shim = std::make_shared<Shim>();
  bool created = false;
  Spawn(shim->io, shim->Create(&created));
  RunUntil(shim->io, [&created] { return created; });
  auto method = Require(shim->methods.Find("containerd.task.v2.Task", "State"));
  api::StateRequest request;
  request.set_id(kLongId);
  return [shim, method, bytes = request.SerializeAsString()] {
    Keep(Require(rpc::RunImmediate(*method, bytes)));
  };
}

}  // namespace

std::vector<HotPath> WaitingPaths() {
  return {
      {"CopiesALine",
       [] { return CopiesOutput(100); },
       {.system_calls = 8, .instructions = 1890},
       100},
      {"CopiesPages",
       [] { return CopiesOutput(64 << 10); },
       {.system_calls = 8, .instructions = 2050},
       64 << 10},
      {"CopiesFromATerminal", CopiesFromATerminal, {.system_calls = 9, .instructions = 1920}, 100},
      {"CallsOverTtrpc/100",
       [] { return CallsOverTtrpc(100); },
       {.allocations = 48, .bytes = 6888, .system_calls = 11, .instructions = 39500}},
      {"CallsOverTtrpc/65536",
       [] { return CallsOverTtrpc(64 << 10); },
       {.allocations = 50, .bytes = 465954, .system_calls = 13, .instructions = 103000}},
      // The answer has a pid, of up to four bytes.
      {"AnswersState", AnswersState, {.allocations = 12, .bytes = 549, .instructions = 6200}},
      {"PublishesAnEvent",
       PublishesAnEvent,
       {.allocations = 73, .bytes = 8795, .system_calls = 11, .instructions = 51700}},
      {"SpawnsAProcess",
       SpawnsAProcess,
       {.allocations = 10, .bytes = 2139, .system_calls = 9, .instructions = 3320}},
      {"ReapsAProcess", ReapsAProcess, {.allocations = 3, .bytes = 177, .system_calls = 13}},
  };
}

}  // namespace feather::bench
