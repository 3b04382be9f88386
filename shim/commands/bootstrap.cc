#include "shim/commands/bootstrap.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/bootstrap.pb.h"
#include "shim/commands/go_build_info.h"
#include "shim/options.h"

namespace feather {
namespace {

namespace api = containerd::runtime::bootstrap::v1;

StartInput FromBootstrapParams(const api::BootstrapParams& params, const Flags& flags) {
  StartInput input;
  input.bootstrap = true;
  for (const api::Extension& extension : params.extensions()) {
    if (!IsOptionsType(extension.value())) continue;
    input.options = extension.value();
    break;
  }
  input.socket_directory = params.socket_dir();
  input.grpc_address =
      params.containerd_grpc_address().empty() ? flags.address : params.containerd_grpc_address();
  input.ttrpc_address = params.containerd_ttrpc_address();
  input.debug = flags.debug || params.log_level() <= api::DEBUG;
  return input;
}

}  // namespace

absl::StatusOr<StartInput> ParseStartInput(const std::string& input, const Flags& flags) {
  api::BootstrapParams params;
  if (params.ParseFromString(input) && params.instance_id() == flags.id &&
      params.namespace_() == flags.name_space) {
    if (params.has_socket_dir() && !params.socket_dir().empty() &&
        !absl::StartsWith(params.socket_dir(), "/"))
      return absl::InvalidArgumentError(
          absl::StrCat("socket directory \"", params.socket_dir(), "\" is not absolute"));
    return FromBootstrapParams(params, flags);
  }
  StartInput result;
  if (!result.options.ParseFromString(input))
    return absl::InvalidArgumentError("cannot parse the options on stdin");
  result.grpc_address = flags.address;
  result.debug = flags.debug;
  return result;
}

AnswerFormat ChooseAnswer(bool bootstrap, const char* wanted, const char* max_version,
                          const std::string& publish_binary) {
  using Encoding = AnswerFormat::Encoding;
  absl::string_view version = wanted == nullptr ? "" : wanted;
  if (bootstrap) return {Encoding::kProtobuf, version == "2" ? 2 : 3};
  if (max_version == nullptr || version == "2") return {Encoding::kPlain, 2};
  if (version == "3") return {Encoding::kJson, 3};
  absl::StatusOr<std::string> info = ReadGoBuildInfo(publish_binary);
  if (info.ok() && IsContainerd2(*info)) return {Encoding::kJson, 3};
  return {Encoding::kPlain, 2};
}

absl::StatusOr<AnswerFormat> ChooseGrpcAnswer(bool bootstrap, const char* max_version,
                                              const std::string& publish_binary) {
  using Encoding = AnswerFormat::Encoding;
  if (bootstrap) return AnswerFormat{Encoding::kProtobuf, 3, "grpc"};
  // What is not to be read is taken for a new one, which has the last word.
  absl::StatusOr<std::string> info = ReadGoBuildInfo(publish_binary);
  if (max_version == nullptr || (info.ok() && !IsContainerd2(*info)))
    return absl::FailedPreconditionError(
        "containerd before 2.0 does not speak gRPC with shims: use io.containerd.feather.v2");
  return AnswerFormat{Encoding::kJson, 3, "grpc"};
}

std::string FormatAnswer(AnswerFormat format, const std::string& path) {
  std::string address = format.protocol == "grpc" ? path : absl::StrCat("unix://", path);
  if (format.encoding == AnswerFormat::Encoding::kPlain) return address;
  // Only daemons that leave the directory to the shim get JSON: nothing in it needs escaping.
  if (format.encoding == AnswerFormat::Encoding::kJson)
    return absl::StrCat("{\"version\":", format.version, ",\"address\":\"", address,
                        "\",\"protocol\":\"", format.protocol, "\"}");
  api::BootstrapResult result;
  result.set_version(format.version);
  result.set_address(address);
  result.set_protocol(std::string(format.protocol));
  return result.SerializeAsString();
}

}  // namespace feather
