#include "tests/support/commands.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/bootstrap.pb.h"
#include "runtime/base/file.h"
#include "shim/commands/socket_name.h"
#include "tests/support/build.h"

namespace feather::test {
namespace {

namespace fs = std::filesystem;

std::string Executable(pid_t pid) {
  std::error_code ignored;
  return fs::read_symlink(absl::StrCat("/proc/", pid, "/exe"), ignored);
}

std::vector<std::string> BareEnvironment() {
  std::vector<std::string> env;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool own = false;
    for (const char* name : {"MAX_SHIM_VERSION=", "GRPC_ADDRESS=", "NAMESPACE=", "TTRPC_ADDRESS=",
                             "SCHED_CORE=", "FEATHER_SHIM_VERSION="})
      own = own || absl::StartsWith(*entry, name);
    if (!own) env.emplace_back(*entry);
  }
  return env;
}

}  // namespace

CommandBench::CommandBench() {
  const char* given = getenv("FEATHER_SHIM");
  shim = given != nullptr ? given : kBuiltShim;
  BecomeSubreaper();
}

CommandBench::~CommandBench() {
  for (pid_t pid : Children()) kill(pid, SIGKILL);
  for (pid_t pid : Children()) WaitFor(pid);
  // The OCI runtime makes it even for a container that it does not know.
  rmdir(absl::StrCat("/run/containerd/runc/", name_space()).c_str());
}

std::string CommandBench::bundle(const std::string& id) const {
  return absl::StrCat(directory(), "/state/", name_space(), "/", id);
}

void CommandBench::MakeBundle(const std::string& id, const std::string& config) {
  fs::create_directories(bundle(id) + "/rootfs");
  if (!config.empty() && !WriteFile(bundle(id) + "/config.json", config, 0644).ok())
    throw std::runtime_error("config.json");
  std::string fifo = bundle(id) + "/log";
  if (mkfifo(fifo.c_str(), 0700) < 0) throw std::runtime_error("mkfifo");
  logs_.emplace_back(open(fifo.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
}

HelperCommand CommandBench::StartCommand(const std::string& id, const StartOptions& options) const {
  HelperCommand command;
  command.argv = {shim,
                  "-namespace",
                  name_space(),
                  "-address",
                  grpc_address(),
                  "-publish-binary",
                  options.publish_binary,
                  "-id",
                  id};
  if (options.debug) command.argv.push_back("-debug");
  command.argv.push_back("start");
  command.cwd = bundle(id);
  command.env = BareEnvironment();
  command.env.push_back("GOMAXPROCS=2");
  command.env.push_back(absl::StrCat("TTRPC_ADDRESS=", grpc_address(), ".ttrpc"));
  if (options.caller != Caller::k1_6) {
    command.env.push_back("MAX_SHIM_VERSION=2");
    command.env.push_back("GRPC_ADDRESS=" + grpc_address());
    command.env.push_back("NAMESPACE=" + name_space());
  }
  command.env.insert(command.env.end(), options.env.begin(), options.env.end());
  if (options.caller == Caller::k2_3) {
    containerd::runtime::bootstrap::v1::BootstrapParams params;
    params.set_instance_id(id);
    params.set_namespace_(name_space());
    params.set_containerd_version("2.3.4");
    params.set_containerd_ttrpc_address(grpc_address() + ".ttrpc");
    params.set_containerd_grpc_address(grpc_address());
    params.set_containerd_binary(options.publish_binary);
    if (options.debug) params.set_log_level(containerd::runtime::bootstrap::v1::DEBUG);
    if (options.options) *params.add_extensions()->mutable_value() = *options.options;
    if (!options.socket_directory.empty()) params.set_socket_dir(options.socket_directory);
    command.input = params.SerializeAsString();
  } else if (options.options) {
    command.input = options.options->SerializeAsString();
  }
  command.null_input = command.input.empty();
  return command;
}

HelperResult CommandBench::Delete(const std::string& id) const {
  HelperCommand command;
  command.argv = {shim,
                  "-namespace",
                  name_space(),
                  "-address",
                  grpc_address(),
                  "-publish-binary",
                  "/usr/bin/containerd",
                  "-id",
                  id,
                  "-bundle",
                  bundle(id),
                  "delete"};
  command.cwd = bundle(id);
  command.env = BareEnvironment();
  command.null_input = true;
  command.joined = false;
  return RunHelper(command);
}

HelperResult CommandBench::Run(const std::vector<std::string>& arguments, const std::string& input,
                               const std::vector<std::string>& env) const {
  HelperCommand command;
  command.argv = {shim};
  command.argv.insert(command.argv.end(), arguments.begin(), arguments.end());
  command.env = BareEnvironment();
  command.env.insert(command.env.end(), env.begin(), env.end());
  command.cwd = directory();
  command.input = input;
  command.null_input = input.empty();
  command.joined = false;
  return RunHelper(command);
}

std::string CommandBench::Socket(const std::string& group) const {
  return SocketPath(kSocketDirectory, grpc_address(), name_space(), group);
}

std::vector<pid_t> CommandBench::Servers() const {
  std::vector<pid_t> servers;
  std::error_code ignored;
  for (pid_t child : Children())
    if (Executable(child) == fs::canonical(shim, ignored)) servers.push_back(child);
  return servers;
}

int CommandBench::WaitFor(pid_t pid) {
  Eventually([&] {
    ReapChildren(exits_);
    return exits_.contains(pid);
  });
  auto found = exits_.find(pid);
  if (found == exits_.end()) return -1;
  return WIFEXITED(found->second) ? WEXITSTATUS(found->second) : 128 + WTERMSIG(found->second);
}

std::vector<std::string> CommandBench::EndServers() {
  std::vector<std::string> wrong;
  for (pid_t pid : Servers()) {
    // Before that it has no handlers.
    std::error_code ignored;
    Eventually(
        [&] { return fs::read_symlink(absl::StrCat("/proc/", pid, "/cwd"), ignored) == "/"; });
    kill(pid, SIGTERM);
    if (int code = WaitFor(pid); code != 0)
      wrong.push_back(absl::StrCat("server ", pid, " ended with ", code, "\n", Log()));
  }
  for (pid_t pid : Children()) wrong.push_back(DescribeProcess(pid));
  return wrong;
}

std::string CommandBench::Log() {
  std::array<char, 4096> buffer;
  for (const UniqueFd& fifo : logs_) {
    ssize_t n;
    while ((n = read(fifo.get(), buffer.data(), buffer.size())) > 0)
      log_.append(buffer.data(), static_cast<size_t>(n));
  }
  return log_;
}

bool Listens(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

bool Eventually(const std::function<bool()>& done) {
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace feather::test
