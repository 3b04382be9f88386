#include <linux/magic.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <stdexcept>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/bootstrap.pb.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"
#include "tests/support/shim.h"

extern char** environ;

namespace feather::test {
namespace {

namespace fs = std::filesystem;

// For a shim that has answered Shutdown, and for processes that were just killed.
constexpr auto kEndLimit = std::chrono::seconds(30);

// What a bundle may hold until containerd removes it.
const std::set<std::string>& KnownBundleFiles() {
  static const std::set<std::string> files = {
      "config.json", "log",     "log.json", "address",          "options.json",   "runtime",
      "init.pid",    "rootfs",  "work",     "shim-binary-path", "bootstrap.json", "sandbox",
      "s",           "release", "released", "exit.json"};
  return files;
}

std::vector<std::string> Entries(const std::string& directory) {
  std::vector<std::string> entries;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    entries.push_back(entry.path().filename());
  return entries;
}

std::vector<std::string> MountsBelow(const std::string& directory) {
  std::vector<std::string> mounts;
  auto info = ReadFile("/proc/self/mountinfo");
  for (absl::string_view line : absl::StrSplit(info.ok() ? *info : "", '\n')) {
    std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    if (fields.size() > 4 && absl::StartsWith(fields[4], directory + "/"))
      mounts.emplace_back(fields[4]);
  }
  std::reverse(mounts.begin(), mounts.end());
  return mounts;
}

bool IsCgroup(const std::string& directory) {
  struct statfs fs {};
  if (statfs(directory.c_str(), &fs) < 0) return false;
  return fs.f_type == CGROUP_SUPER_MAGIC || fs.f_type == CGROUP2_SUPER_MAGIC;
}

// Directories named after the test in any cgroup hierarchy, at most `depth` levels down.
void FindCgroups(const std::string& directory, const std::string& name, int depth,
                 std::vector<std::string>& found) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.is_symlink(error) || !entry.is_directory(error)) continue;
    if (absl::StrContains(entry.path().filename().string(), name))
      found.push_back(entry.path());
    else if (depth > 0)
      FindCgroups(entry.path(), name, depth - 1, found);
  }
}

std::string DescribeExit(int status) {
  return WIFEXITED(status) ? absl::StrCat("exit code ", WEXITSTATUS(status))
                           : absl::StrCat("signal ", WTERMSIG(status));
}

}  // namespace

bool TestsGrpc() {
  const char* transport = getenv("FEATHER_TEST_TRANSPORT");
  return transport != nullptr && absl::string_view(transport) == "grpc";
}

std::string ShimUnderTest() {
  const char* path = getenv("FEATHER_SHIM");
  if (path != nullptr) return path;
  return TestsGrpc() ? kBuiltGrpcShim : kBuiltShim;
}

std::string DebianBinary(const std::string& suite, const std::string& name) {
  std::string path = "/usr/bin/" + name;
  if (suite != "bookworm")
    path = absl::StrCat(kSourceDirectory, "/build/containerd/", suite, "/usr/bin/", name);
  return access(path.c_str(), X_OK) == 0 ? path : "";
}

FakeContainerd::FakeContainerd(Settings settings) : settings_(std::move(settings)) {
  BecomeSubreaper();
  if (settings_.name_space.empty()) settings_.name_space = directory_.name();
  for (const std::string& directory :
       {state_directory(), root_directory(), runtime_root(), temporary_directory(), rootfs()})
    fs::create_directories(directory);
  MakeRootfs(rootfs());
  events_ = std::make_unique<EventsServer>(io(), grpc_address() + ".ttrpc");
}

FakeContainerd::~FakeContainerd() {
  containers_.clear();
  FindLeftovers();
}

std::string FakeContainerd::state_directory() const {
  return directory() + "/state/io.containerd.runtime.v2.task";
}

std::string FakeContainerd::root_directory() const {
  return directory() + "/root/io.containerd.runtime.v2.task";
}

Container& FakeContainerd::Prepare(const std::string& id, ContainerOptions options) {
  containers_.push_back(std::make_unique<Container>(*this, id, std::move(options)));
  containers_.back()->MakeBundle();
  return *containers_.back();
}

Container& FakeContainerd::New(const std::string& id, ContainerOptions options) {
  Container& container = Prepare(id, std::move(options));
  absl::Status status = container.StartShim();
  if (!status.ok()) throw std::runtime_error("start: " + std::string(status.message()));
  return container;
}

void FakeContainerd::OpenLog(const std::string& path) {
  logs_.push_back(std::make_unique<FifoReader>(io(), path, /*keep=*/true));
}

void FakeContainerd::CloseLog(const Container& container) {
  const std::string path = absl::StrCat(container.bundle(), "/log");
  for (const auto& log : logs_)
    if (log->path() == path) log->Close();
}

std::string FakeContainerd::log() const {
  std::string all;
  for (const auto& log : logs_) all += log->data();
  return all;
}

containerd::runc::v1::Options FakeContainerd::RuncOptions() const {
  containerd::runc::v1::Options options;
  options.set_binary_name(settings_.runtime);
  options.set_root(runtime_root());
  options.set_systemd_cgroup(settings_.systemd_cgroup);
  return options;
}

google::protobuf::Any FakeContainerd::Options() const {
  google::protobuf::Any any;
  any.set_type_url("containerd.runc.v1.Options");
  any.set_value(RuncOptions().SerializeAsString());
  return any;
}

namespace {

// The daemon's executable; its Go build information tells a shim which series it is.
std::string DaemonBinary(Series daemon) {
  std::string binary = DebianBinary(daemon == Series::k1_6   ? "bookworm"
                                    : daemon == Series::k1_7 ? "trixie"
                                                             : "sid",
                                    "containerd");
  return binary.empty() ? "/usr/bin/containerd" : binary;
}

void SetVariable(std::vector<std::string>& env, const std::string& name, const std::string& value) {
  std::erase_if(env, [&](const std::string& e) { return absl::StartsWith(e, name + "="); });
  env.push_back(absl::StrCat(name, "=", value));
}

std::string BootstrapParams(const FakeContainerd& ctrd, const std::string& id) {
  containerd::runtime::bootstrap::v1::BootstrapParams params;
  params.set_instance_id(id);
  params.set_namespace_(ctrd.name_space());
  if (ctrd.settings().debug) params.set_log_level(containerd::runtime::bootstrap::v1::DEBUG);
  params.set_containerd_version("2.3.4");
  params.set_containerd_ttrpc_address(ctrd.grpc_address() + ".ttrpc");
  params.set_containerd_grpc_address(ctrd.grpc_address());
  params.set_containerd_binary(DaemonBinary(ctrd.settings().daemon));
  if (ctrd.settings().options) *params.add_extensions()->mutable_value() = ctrd.Options();
  return params.SerializeAsString();
}

}  // namespace

HelperCommand FakeContainerd::Helper(const Container& container, const std::string& action) {
  Series daemon = settings_.daemon;
  HelperCommand command;
  command.argv = {settings_.shim,       "-namespace",   name_space(),
                  "-address",           grpc_address(), "-publish-binary",
                  DaemonBinary(daemon), "-id",          container.id()};
  if (action == "delete") command.argv.insert(command.argv.end(), {"-bundle", container.bundle()});
  if (settings_.debug && (action == "start" || daemon != Series::k1_6))
    command.argv.push_back("-debug");
  command.argv.push_back(action);
  command.cwd = container.bundle();

  for (char** entry = environ; *entry != nullptr; ++entry) command.env.emplace_back(*entry);
  for (const char* name :
       {"XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "MAX_SHIM_VERSION", "GRPC_ADDRESS", "NAMESPACE"})
    std::erase_if(command.env, [&](const std::string& e) {
      return absl::StartsWith(e, absl::StrCat(name, "="));
    });
  SetVariable(command.env, "TMPDIR", temporary_directory());
  SetVariable(command.env, "GOMAXPROCS", "2");
  SetVariable(command.env, "TTRPC_ADDRESS", grpc_address() + ".ttrpc");
  if (daemon != Series::k1_6) {
    SetVariable(command.env, "MAX_SHIM_VERSION", "2");
    SetVariable(command.env, "GRPC_ADDRESS", grpc_address());
    SetVariable(command.env, "NAMESPACE", name_space());
  }
  for (const std::string& entry : settings_.env) {
    size_t end = entry.find('=');
    SetVariable(command.env, entry.substr(0, end), entry.substr(end + 1));
  }

  if (daemon == Series::k2_3)
    command.input = BootstrapParams(*this, container.id());
  else if (settings_.options)
    command.input = Options().SerializeAsString();
  command.null_input = command.input.empty();
  return command;
}

bool FakeContainerd::WaitForEvent(const std::function<bool(const RecordedEvent&)>& fits,
                                  Clock::duration limit) {
  return loop_.RunUntil([&] { return events_->Find(fits) != nullptr; }, limit);
}

const RecordedEvent* FakeContainerd::WaitForExit(const std::string& container,
                                                 const std::string& id) {
  loop_.RunUntil([&] { return events_->FindExit(container, id) != nullptr; });
  return events_->FindExit(container, id);
}

bool FakeContainerd::WaitForDelete(const std::string& container) {
  return WaitForEvent([&](const RecordedEvent& event) {
    return event.topic == "/tasks/delete" && event.container == container;
  });
}

std::optional<int> FakeContainerd::ExitOf(pid_t pid) {
  Reap();
  auto found = exits_.find(pid);
  if (found == exits_.end()) return std::nullopt;
  return found->second;
}

// Every orphan below this process is its child, so that no child is left means that nothing is.
void FakeContainerd::WaitForChildren(std::vector<std::string>& left) {
  auto none = [this] {
    Reap();
    return Children().empty();
  };
  if (loop_.RunUntil(none, kEndLimit)) return;
  for (pid_t child : Children()) left.push_back("process: " + DescribeProcess(child));
  loop_.RunUntil(
      [&] {
        for (pid_t child : Children()) {
          forgiven_.push_back(child);
          kill(child, SIGKILL);
        }
        return none();
      },
      kEndLimit);
}

std::vector<std::string> FakeContainerd::FindLeftovers() {
  std::vector<std::string> left;
  for (auto& container : containers_) container->Disconnect();
  WaitForChildren(left);
  for (pid_t shim : shims_) {
    bool forgiven = std::find(forgiven_.begin(), forgiven_.end(), shim) != forgiven_.end();
    auto status = ExitOf(shim);
    if (status && *status != 0 && !forgiven)
      left.push_back(absl::StrCat("shim ", shim, " ended with ", DescribeExit(*status)));
  }
  for (const std::string& mount : MountsBelow(directory())) {
    left.push_back("mount: " + mount);
    umount2(mount.c_str(), MNT_DETACH);
  }
  for (const std::string& address : sockets_) {
    std::string path(absl::StripPrefix(address, "unix://"));
    if (unlink(path.c_str()) == 0) left.push_back("socket: " + path);
  }
  std::vector<std::string> cgroups;
  if (IsCgroup("/sys/fs/cgroup")) FindCgroups("/sys/fs/cgroup", name(), 2, cgroups);
  for (const std::string& hierarchy : Entries("/sys/fs/cgroup"))
    if (IsCgroup("/sys/fs/cgroup/" + hierarchy))
      FindCgroups("/sys/fs/cgroup/" + hierarchy, name(), 1, cgroups);
  for (const std::string& cgroup : cgroups) {
    left.push_back("cgroup: " + cgroup);
    rmdir(cgroup.c_str());
  }
  for (const std::string& file : Entries(temporary_directory()))
    left.push_back("temporary file: " + file);
  for (const std::string& root : {absl::StrCat(runtime_root(), "/", name_space()),
                                  absl::StrCat("/run/containerd/runc/", name_space())})
    for (const std::string& entry : Entries(root)) {
      left.push_back(absl::StrCat("runtime state: ", root, "/", entry));
      std::error_code ignored;
      fs::remove_all(root + "/" + entry, ignored);
    }
  rmdir(absl::StrCat("/run/containerd/runc/", name_space()).c_str());
  std::string bundles = absl::StrCat(state_directory(), "/", name_space());
  for (const std::string& bundle : Entries(bundles))
    for (const std::string& file : Entries(bundles + "/" + bundle))
      if (!KnownBundleFiles().contains(file))
        left.push_back(absl::StrCat("bundle file: ", bundle, "/", file));
  sockets_.clear();
  shims_.clear();
  return left;
}

}  // namespace feather::test
