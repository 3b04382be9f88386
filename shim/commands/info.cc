#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/types.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/spawn.h"
#include "shim/commands/commands.h"
#include "shim/options.h"
#include "shim/version.h"

namespace feather {
namespace {

constexpr char kFeaturesType[] =
    "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

absl::Status Wait(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return ErrnoError(errno, "waitpid");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat("the runtime ended with wait status ", status));
}

// Not every runtime has the command. An error is that there is no such runtime.
absl::StatusOr<std::string> Features(const std::string& binary) {
  std::array<int, 2> ends;
  if (pipe2(ends.data(), O_CLOEXEC) < 0) return ErrnoError(errno, "pipe");
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  Command command;
  command.argv = {binary, "features"};
  command.env = InheritedEnvironment();
  command.fds.emplace_back(writer.get(), STDOUT_FILENO);
  ASSIGN_OR_RETURN(pid_t pid, SpawnProcess(command));
  writer.Reset();
  absl::StatusOr<std::string> out = ReadToEof(reader.get(), kMaxInput);
  if (!out.ok()) kill(pid, SIGKILL);
  if (!Wait(pid).ok() || !out.ok()) return "";
  auto json = nlohmann::ordered_json::parse(*out, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return "";
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

absl::Status RunInfo(const std::string& runtime) {
  ASSIGN_OR_RETURN(std::string input, ReadToEof(STDIN_FILENO, kMaxInput));
  containerd::types::RuntimeInfo info;
  google::protobuf::Any any;
  if (!any.ParseFromString(input))
    return absl::InvalidArgumentError("cannot parse the options on stdin");
  ASSIGN_OR_RETURN(RuntimeOptions options, DecodeOptions(any));
  info.set_name(runtime);
  info.mutable_version()->set_version(kVersion);
  info.mutable_version()->set_revision(kRevision);
  if (!any.type_url().empty()) *info.mutable_options() = any;
  ASSIGN_OR_RETURN(std::string features, Features(options.binary()));
  if (!features.empty()) {
    info.mutable_features()->set_type_url(kFeaturesType);
    info.mutable_features()->set_value(std::move(features));
  }
  return WriteAll(STDOUT_FILENO, info.SerializeAsString());
}

}  // namespace feather
