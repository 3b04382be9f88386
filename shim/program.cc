#include "shim/program.h"

#include <signal.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "google/protobuf/stubs/logging.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "runtime/bundle.h"
#include "runtime/sandbox/pod_init.h"
#include "shim/commands/commands.h"
#include "shim/commands/flags.h"
#include "shim/server.h"
#include "shim/version.h"

namespace feather {
namespace {

constexpr int kUsageError = 2;

// As containerd derives the executable from the runtime's name: io.containerd.feather.v2 is
// containerd-shim-feather-v2.
std::string RuntimeName(absl::string_view program) {
  absl::string_view base = program.substr(program.rfind('/') + 1);
  size_t dash = base.npos;
  if (absl::ConsumePrefix(&base, "containerd-shim-")) dash = base.rfind('-');
  if (dash == base.npos) return "io.containerd.feather.v2";
  return absl::StrCat("io.containerd.", base.substr(0, dash), ".", base.substr(dash + 1));
}

void Print(int fd, absl::string_view text) { (void)WriteAll(fd, text).ok(); }

int Finish(const std::string& runtime, const absl::Status& status) {
  if (status.ok()) return 0;
  Print(STDERR_FILENO, absl::StrCat(runtime, ": ", status.message(), "\n"));
  return 1;
}

int Run(absl::string_view program, const std::vector<absl::string_view>& arguments,
        const rpc::Transport& transport) {
  // It would tell standard error what it could not parse, and that is part of the answer of
  // `start`.
  google::protobuf::SetLogHandler(nullptr);
  // containerd always begins with a flag.
  if (!arguments.empty() && arguments[0] == "inspect") {
    const absl::Status status = RunInspect({arguments.begin() + 1, arguments.end()});
    const int code = Finish("inspect", status);
    return absl::IsInvalidArgument(status) ? kUsageError : code;
  }
  if (!arguments.empty() && arguments[0] == PodInit::kCommand)
    return RunPodInit({arguments.begin() + 1, arguments.end()});
  Flags flags;
  if (absl::Status status = ParseFlags(arguments, flags); !status.ok()) {
    Print(STDERR_FILENO, absl::StrCat(status.message(), "\n", UsageText(program)));
    return kUsageError;
  }
  if (flags.help) {
    Print(STDERR_FILENO, UsageText(program));
    return 0;
  }
  if (flags.version) {
    Print(STDOUT_FILENO,
          absl::StrCat(program, ":\n  Version:  ", kVersion, "\n  Revision: ", kRevision, "\n\n"));
    return 0;
  }
  std::string runtime = RuntimeName(program);
  if (flags.info) return Finish(runtime, RunInfo(runtime));
  if (flags.name_space.empty())
    return Finish(runtime, absl::InvalidArgumentError("shim namespace cannot be empty"));
  // It becomes part of paths.
  if (absl::Status valid = ValidateId(flags.name_space); !valid.ok())
    return Finish(runtime, Annotate(valid, "shim namespace"));
  if (flags.action.empty()) return RunServer(flags, transport);

  // What has begun is finished: containerd takes half a clean-up for a whole one.
  for (int ignored : {SIGTERM, SIGINT, SIGPIPE}) signal(ignored, SIG_IGN);
  if (flags.action == "start") return Finish(runtime, RunStart(flags, transport.protocol));
  if (flags.action == "delete") return Finish(runtime, RunDelete(flags, transport.protocol));
  return Finish(runtime,
                absl::InvalidArgumentError(absl::StrCat("unknown command ", flags.action)));
}

}  // namespace

int RunProgram(int argc, char** argv, const rpc::Transport& transport) {
  std::vector<absl::string_view> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  return Run(argc > 0 ? argv[0] : "", arguments, transport);
}

}  // namespace feather
