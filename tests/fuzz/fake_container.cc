#include "tests/fuzz/fake_container.h"

#include <unistd.h>

#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/child.h"
#include "runtime/io/stdio.h"
#include "runtime/io/stdio_uri.h"
#include "runtime/mount/mount.h"
#include "runtime/mount/mounter.h"
#include "runtime/mount/options.h"
#include "runtime/oci_runtime.h"
#include "runtime/process_tree.h"

namespace feather {

using fuzz::FakeContainers;

FakeContainers* FakeContainers::current = nullptr;

namespace {

// Above the greatest of any kernel (PID_MAX_LIMIT).
constexpr pid_t kFirstPid = 1 << 23;

FakeContainers& Fake() { return *FakeContainers::current; }

void Deliver(pid_t pid) {
  auto exit = Fake().exits.find(pid);
  if (exit == Fake().exits.end()) return;  // its watchers wait
  auto watched = Fake().watched.extract(pid);
  if (watched.empty()) return;
  asio::post(Fake().io, [exit = exit->second, callbacks = std::move(watched.mapped())] {
    for (const Reaper::Callback& callback : callbacks) callback(exit);
  });
}

Async<absl::Status> RunCommand() {
  bool fails = std::exchange(Fake().fail_next, false);
  co_await asio::post(Fake().io, asio::use_awaitable);
  if (std::shared_ptr<Event> gate = Fake().gate) co_await gate->Wait();
  if (fails) co_return absl::UnknownError("OCI runtime failed: no luck");
  co_return absl::OkStatus();
}

// A command that makes a process.
Async<absl::Status> AddProcess(std::string pid_file, std::function<void()> started) {
  if (started) started();
  CO_RETURN_IF_ERROR(co_await RunCommand());
  if (std::exchange(Fake().no_pid_file, false)) co_return absl::OkStatus();
  pid_t pid = kFirstPid + static_cast<pid_t>(Fake().processes.size());
  Fake().processes.push_back(pid);
  if (!WriteFile(pid_file, absl::StrCat(pid), 0644).ok()) abort();
  Fake().pid_files.push_back(std::move(pid_file));
  co_return absl::OkStatus();
}

class FakeStdio : public Stdio {
 public:
  std::array<int, 3> child_fds() const override { return {-1, -1, -1}; }
  std::string console_socket() const override { return ""; }
  void RuntimeStarted() override {}
  Async<absl::Status> Attach() override { co_return co_await RunCommand(); }
  void CloseStdin() override {}
  absl::Status Resize(uint16_t, uint16_t) override { return absl::OkStatus(); }
  void GiveUpOpening() override {}
  void ProcessExited() override {}
  Async<bool> Drain(Clock::duration) override {
    absl::Status status = co_await RunCommand();
    co_return status.ok();
  }
  Async<> Close() override { co_await asio::post(Fake().io, asio::use_awaitable); }
};

}  // namespace

FakeContainers::~FakeContainers() {
  for (const std::string& path : pid_files) unlink(path.c_str());
}

void FakeContainers::Release() {
  if (std::shared_ptr<Event> open = std::exchange(gate, nullptr)) open->Set();
}

void FakeContainers::Hold() {
  if (!gate) gate = std::make_shared<Event>();
}

void FakeContainers::Exit(size_t process, uint32_t status) {
  if (processes.empty()) return;
  pid_t pid = processes[process % processes.size()];
  if (exits.emplace(pid, feather::Exit{pid, status, absl::Now()}).second) Deliver(pid);
}

// What is tried again after a while is tried again at once: commands fail one at a time.
Async<> SleepFor(Clock::duration) {
  co_await asio::post(co_await asio::this_coro::executor, asio::use_awaitable);
}

struct Reaper::Impl {};
Reaper::Reaper(asio::io_context&) {}
Reaper::~Reaper() = default;
Reaper::Expectation::Expectation(Reaper& reaper) : reaper_(reaper) { (void)reaper_; }
Reaper::Expectation::~Expectation() = default;

void Reaper::Watch(pid_t pid, Callback callback) {
  Fake().watched[pid].push_back(std::move(callback));
  Deliver(pid);
}

// Only for children of the shim's own, of which there are none.
Async<Exit> Reaper::WaitFor(pid_t) { abort(); }
bool Reaper::CanWatch(pid_t) { return true; }

Async<absl::StatusOr<std::shared_ptr<Stdio>>> Stdio::Prepare(asio::io_context&, Reaper&,
                                                             StdioRequest request, Owner,
                                                             StdioLimits) {
  for (const std::string* uri : {&request.in, &request.out, &request.err})
    CO_RETURN_IF_ERROR(ParseStdioUri(*uri).status());
  CO_RETURN_IF_ERROR(co_await RunCommand());
  co_return std::make_shared<FakeStdio>();
}

Async<absl::Status> MountAll(Reaper&, std::vector<Mount> mounts, std::string) {
  for (const Mount& mount : mounts) CO_RETURN_IF_ERROR(ParseMountOptions(mount.options).status());
  co_return co_await RunCommand();
}
Async<absl::Status> UnmountAll(Reaper&, std::string) { co_return co_await RunCommand(); }
int UnmountAt(const std::string&, int) { return EINVAL; }

Async<absl::Status> RunInChild(Reaper&, std::function<absl::Status()>, ChildOptions) {
  co_return co_await RunCommand();
}
std::optional<ProcessStat> ReadProcessStat(pid_t) { return std::nullopt; }
absl::StatusOr<int> SignalProcessTree(pid_t, int,
                                      const std::function<absl::StatusOr<std::vector<pid_t>>()>&) {
  return 0;
}

OciRuntime::OciRuntime(Reaper& reaper, Config config)
    : reaper_(reaper), config_(std::move(config)) {
  (void)reaper_;
}
OciRuntime::Config MakeRuntimeConfig(const RuntimeOptions&, absl::string_view, std::string bundle,
                                     std::string id) {
  OciRuntime::Config config;
  config.bundle = std::move(bundle);
  config.id = std::move(id);
  return config;
}
Async<absl::Status> OciRuntime::Create(CreateArgs args) {
  co_return co_await AddProcess(std::move(args.pid_file), std::move(args.started));
}
Async<absl::Status> OciRuntime::Exec(ExecArgs args) {
  co_return co_await AddProcess(std::move(args.pid_file), std::move(args.started));
}
Async<absl::Status> OciRuntime::Restore(RestoreArgs args) {
  co_return co_await AddProcess(std::move(args.create.pid_file), std::move(args.create.started));
}
bool OciRuntime::HasState() const { return false; }
Async<absl::Status> OciRuntime::Start(std::shared_ptr<Event>) { co_return co_await RunCommand(); }
Async<absl::Status> OciRuntime::Kill(uint32_t, bool) { co_return co_await RunCommand(); }
Async<absl::Status> OciRuntime::Delete(bool) { co_return co_await RunCommand(); }
Async<absl::Status> OciRuntime::Pause() { co_return co_await RunCommand(); }
Async<absl::Status> OciRuntime::Resume() { co_return co_await RunCommand(); }
Async<absl::Status> OciRuntime::Update(std::string) { co_return co_await RunCommand(); }
Async<absl::Status> OciRuntime::Checkpoint(CheckpointArgs) { co_return co_await RunCommand(); }

}  // namespace feather
