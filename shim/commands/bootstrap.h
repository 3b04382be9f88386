#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/any.pb.h"
#include "shim/commands/flags.h"

namespace feather {

// What containerd told `start`: on stdin, a google.protobuf.Any with the runtime's options up to
// containerd 2.2, BootstrapParams from 2.3 on; the rest in flags and environment.
struct StartInput {
  bool bootstrap = false;         // it was BootstrapParams
  google::protobuf::Any options;  // without a type when there are none
  std::string socket_directory;   // empty: kSocketDirectory
  std::string grpc_address;
  std::string ttrpc_address;  // empty: as in the environment
  bool debug = false;
};

// `input` is the whole of stdin. It counts as BootstrapParams when it parses as such and names the
// flags' id and namespace; an Any cannot, since its first field is a type URL.
absl::StatusOr<StartInput> ParseStartInput(const std::string& input, const Flags& flags);

// In which form `start` answers, and with which version of the task API.
struct AnswerFormat {
  enum class Encoding { kPlain, kJson, kProtobuf };
  Encoding encoding = Encoding::kPlain;
  int version = 2;
  absl::string_view protocol = "ttrpc";
};

// The environment variable that overrides the version: "2" or "3".
inline constexpr char kVersionVariable[] = "FEATHER_SHIM_VERSION";

// The best form that the daemon understands for certain. 1.6: the bare address. 1.7 and 2.0 to 2.2
// call alike (both set MAX_SHIM_VERSION=2) but only the latter take version 3: told apart by
// the build information of `publish_binary`, the daemon's executable; in doubt the bare address,
// which means version 2 to both. 2.3 and later: BootstrapResult. `wanted` and `max_version`: values
// of kVersionVariable and MAX_SHIM_VERSION, null when not set.
AnswerFormat ChooseAnswer(bool bootstrap, const char* wanted, const char* max_version,
                          const std::string& publish_binary);

// The same for a shim that speaks gRPC: always version 3, since no daemon takes another over it.
// FailedPrecondition for one that takes none at all (1.x).
absl::StatusOr<AnswerFormat> ChooseGrpcAnswer(bool bootstrap, const char* max_version,
                                              const std::string& publish_binary);

// `path`: where the server listens. A gRPC address is the bare path, whose scheme containerd adds
// itself; a TTRPC address begins with "unix://".
std::string FormatAnswer(AnswerFormat format, const std::string& path);

}  // namespace feather
