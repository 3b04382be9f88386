#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/base/trim.h"
#include "runtime/bundle.h"
#include "runtime/spawn.h"
#include "shim/commands/bootstrap.h"
#include "shim/commands/commands.h"
#include "shim/commands/listener.h"
#include "shim/commands/placement.h"
#include "shim/commands/probe.h"
#include "shim/commands/socket_name.h"
#include "shim/options.h"

namespace feather {
namespace {

struct Sockets {
  UniqueFd listener;  // invalid: somebody serves there already
  UniqueFd debug;
  std::string path;
  std::string debug_path;
};

// A config.json that is missing (a sandbox has none) or broken (Create will tell) groups nothing.
std::string Group(const Flags& flags) {
  absl::StatusOr<std::string> group = ReadGroupAnnotation("config.json");
  return group.ok() && !group->empty() ? *group : flags.id;
}

absl::Status MakeSockets(const StartInput& input, const Flags& flags, Sockets& sockets) {
  std::string directory =
      input.socket_directory.empty() ? kSocketDirectory : input.socket_directory;
  std::string group = Group(flags);
  sockets.path = SocketPath(directory, input.grpc_address, flags.name_space, group);
  ASSIGN_OR_RETURN(sockets.listener, ListenOrFind(sockets.path));
  if (!sockets.listener || !input.debug) return absl::OkStatus();
  sockets.debug_path = SocketPath(directory, input.grpc_address, flags.name_space, group, "debug");
  ASSIGN_OR_RETURN(sockets.debug, ListenAnew(sockets.debug_path));
  return absl::OkStatus();
}

// What is wrong with the options is left for Create to answer, which has a code for it.
absl::Status Place(const StartInput& input) {
  const char* core = getenv("SCHED_CORE");
  if (core != nullptr && *core != '\0') RETURN_IF_ERROR(StartCoreScheduling());
  if (absl::StatusOr<RuntimeOptions> options = DecodeOptions(input.options);
      options.ok() && !options->shim_cgroup.empty())
    RETURN_IF_ERROR(JoinCgroup(options->shim_cgroup));
  return RaiseOomScore();
}

// `address` is what containerd 1.x loads the shim from after a restart, `s` where the socket lies
// if it is not in the usual directory.
absl::Status WriteBundleFiles(const StartInput& input, const std::string& address) {
  RETURN_IF_ERROR(WriteFileAtomically("address", address, 0644));
  if (input.socket_directory.empty()) return absl::OkStatus();
  if (symlink(input.socket_directory.c_str(), "s") == 0) return absl::OkStatus();
  if (errno != EEXIST) return ErrnoError(errno, "symlink s");
  unlink("s");
  if (symlink(input.socket_directory.c_str(), "s") < 0) return ErrnoError(errno, "symlink s");
  return absl::OkStatus();
}

absl::StatusOr<std::string> OwnExecutable() {
  std::array<char, PATH_MAX> path;
  ssize_t size = readlink("/proc/self/exe", path.data(), path.size());
  if (size < 0) return ErrnoError(errno, "readlink /proc/self/exe");
  return std::string(path.data(), static_cast<size_t>(size));
}

std::vector<std::string> Environment(const StartInput& input) {
  std::vector<std::string> environment;
  for (char** variable = environ; *variable != nullptr; ++variable)
    environment.emplace_back(*variable);
  if (!input.ttrpc_address.empty() && getenv("TTRPC_ADDRESS") == nullptr)
    environment.push_back(absl::StrCat("TTRPC_ADDRESS=", input.ttrpc_address));
  AddServerTunables(environment);
  return environment;
}

// Operators find shims by this argument list.
absl::StatusOr<pid_t> SpawnServer(const StartInput& input, const Flags& flags,
                                  const Sockets& sockets) {
  ASSIGN_OR_RETURN(std::string self, OwnExecutable());
  Command command;
  command.argv = {self, "-namespace", flags.name_space, "-id", flags.id, "-address", flags.address};
  if (input.debug) command.argv.push_back("-debug");
  command.env = Environment(input);
  command.fds.emplace_back(sockets.listener.get(), 3);
  if (sockets.debug) command.fds.emplace_back(sockets.debug.get(), 4);
  command.die_with_parent = false;
  command.new_process_group = true;
  return SpawnProcess(command);
}

absl::Status StartServer(const StartInput& input, const Flags& flags, const Sockets& sockets,
                         const std::string& address, const std::string& answer) {
  RETURN_IF_ERROR(Place(input));
  RETURN_IF_ERROR(WriteBundleFiles(input, address));
  ASSIGN_OR_RETURN(pid_t server, SpawnServer(input, flags, sockets));
  absl::Status status = WriteAll(STDOUT_FILENO, answer);
  if (!status.ok()) kill(server, SIGKILL);
  return status;
}

absl::StatusOr<AnswerFormat> ChooseFormat(const StartInput& input, const Flags& flags,
                                          absl::string_view protocol) {
  const char* max_version = getenv("MAX_SHIM_VERSION");
  if (protocol == "grpc")
    return ChooseGrpcAnswer(input.bootstrap, max_version, flags.publish_binary);
  return ChooseAnswer(input.bootstrap, getenv(kVersionVariable), max_version, flags.publish_binary);
}

// The group's shim is what it is, whatever this executable would have started.
absl::StatusOr<AnswerFormat> FormatFor(const FoundShim& found, const StartInput& input,
                                       const Flags& flags) {
  ASSIGN_OR_RETURN(AnswerFormat format, ChooseFormat(input, flags, found.protocol));
  if (!found.version_3) format.version = std::min(format.version, 2);
  return format;
}

}  // namespace

absl::Status RunStart(const Flags& flags, absl::string_view protocol) {
  RETURN_IF_ERROR(ValidateId(flags.id));
  RETURN_IF_ERROR(CheckBundleDirectory("."));
  ASSIGN_OR_RETURN(std::string bytes, ReadToEof(STDIN_FILENO, kMaxInput));
  ASSIGN_OR_RETURN(StartInput input, ParseStartInput(bytes, flags));
  ASSIGN_OR_RETURN(AnswerFormat format, ChooseFormat(input, flags, protocol));
  Sockets sockets;
  absl::Status status = MakeSockets(input, flags, sockets);
  if (status.ok()) {
    std::string address = absl::StrCat("unix://", sockets.path);
    if (!sockets.listener) {
      ASSIGN_OR_RETURN(format, FormatFor(ProbeShim(sockets.path, protocol), input, flags));
      RETURN_IF_ERROR(WriteBundleFiles(input, address));
      return WriteAll(STDOUT_FILENO, FormatAnswer(format, sockets.path));
    }
    status = StartServer(input, flags, sockets, address, FormatAnswer(format, sockets.path));
  }
  if (status.ok()) return status;
  if (sockets.listener) unlink(sockets.path.c_str());
  if (sockets.debug) unlink(sockets.debug_path.c_str());
  return status;
}

}  // namespace feather
