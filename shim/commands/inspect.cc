#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/async.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "shim/commands/commands.h"
#include "shim/commands/grpc_call.h"
#include "shim/commands/listener.h"
#include "shim/commands/socket_name.h"
#include "shim/inspect/report.h"
#include "shim/ttrpc/client.h"

namespace feather {
namespace {

using inspect::Node;
using inspect::v1::ShimResponse;

// A shim answers at once, or something is wrong with it.
constexpr auto kAnswerLimit = std::chrono::seconds(2);
// More at a time would only fill the descriptor table.
constexpr size_t kAtOnce = 64;

constexpr absl::string_view kUsage =
    "usage: containerd-shim-feather-v2 inspect [-json | -prometheus] [-socket-directory DIR] [ID]\n"
    "The shims of this node, a line for each; with ID, of a shim or container or how one begins,\n"
    "everything of that shim.";

struct Arguments {
  enum class Output { kTable, kJson, kPrometheus, kHelp };
  Output output = Output::kTable;
  std::string directory = kSocketDirectory;
  std::string id;
};

absl::StatusOr<Arguments> Parse(const std::vector<absl::string_view>& words) {
  Arguments arguments;
  for (size_t i = 0; i < words.size(); ++i) {
    absl::string_view word = words[i];
    if (!absl::StartsWith(word, "-")) {
      if (!arguments.id.empty()) return absl::InvalidArgumentError("more than one ID");
      arguments.id = std::string(word);
      continue;
    }
    absl::ConsumePrefix(&word, "-");
    absl::ConsumePrefix(&word, "-");
    if (word == "json") {
      arguments.output = Arguments::Output::kJson;
    } else if (word == "prometheus") {
      arguments.output = Arguments::Output::kPrometheus;
    } else if (word == "help" || word == "h") {
      arguments.output = Arguments::Output::kHelp;
    } else if (word == "socket-directory" && i + 1 < words.size()) {
      arguments.directory = std::string(words[++i]);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("flag not known or without its value: ", words[i], "\n", kUsage));
    }
  }
  return arguments;
}

absl::StatusOr<std::vector<std::string>> Sockets(const std::string& directory) {
  std::vector<std::string> sockets;
  std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(directory.c_str()), closedir);
  if (!entries) {
    // containerd makes it with the first shim.
    if (errno == ENOENT) return sockets;
    absl::Status status = ErrnoError(errno, directory);
    return absl::IsPermissionDenied(status) ? Annotate(status, "to be run as root") : status;
  }
  while (const dirent* entry = readdir(entries.get())) {
    std::string path = absl::StrCat(directory, "/", entry->d_name);
    struct stat file;
    if (stat(path.c_str(), &file) == 0 && S_ISSOCK(file.st_mode)) sockets.push_back(path);
  }
  std::sort(sockets.begin(), sockets.end());
  return sockets;
}

// Asks every shim at its socket, kAtOnce at a time.
class Survey {
 public:
  Survey(asio::io_context& io, std::vector<std::string> sockets)
      : io_(io), sockets_(std::move(sockets)) {}

  Node Take() {
    for (size_t i = 0; i < std::min(kAtOnce, sockets_.size()); ++i) Spawn(io_, Work());
    io_.run();
    std::sort(node_.shims.begin(), node_.shims.end(), [](const auto& a, const auto& b) {
      return std::forward_as_tuple(a.report.namespace_(), a.report.id()) <
             std::forward_as_tuple(b.report.namespace_(), b.report.id());
    });
    for (const std::string& socket : closed_) Judge(socket);
    std::sort(node_.silent.begin(), node_.silent.end());
    return std::move(node_);
  }

 private:
  Async<> Work() {
    while (next_ < sockets_.size()) co_await Ask(sockets_[next_++]);
  }

  Async<> Ask(std::string socket) {
    absl::StatusOr<std::shared_ptr<ttrpc::Client>> client =
        co_await ttrpc::Client::Connect(io_, socket);
    if (!client.ok()) {
      struct stat file;
      if (!absl::IsUnavailable(client.status())) {
        node_.silent.push_back(socket);
      } else if (lstat(socket.c_str(), &file) == 0) {
        // One that has gone meanwhile is nobody's.
        ++node_.dead;
      }
      co_return;
    }
    absl::StatusOr<std::string> answer =
        co_await (*client)->Call("feather.inspect.v1.Inspect", "Shim", std::string(), kAnswerLimit);
    Node::Shim shim{socket, {}};
    if (answer.ok() && shim.report.ParseFromString(*answer)) {
      node_.shims.push_back(std::move(shim));
    } else if (absl::IsUnimplemented(answer.status())) {
      ++node_.others;
      others_.insert(ListenerPid(socket));
    } else if (absl::IsUnavailable(answer.status())) {
      co_await AskOverGrpc(std::move(shim));
    } else {
      node_.silent.push_back(socket);
    }
  }

  Async<> AskOverGrpc(Node::Shim shim) {
    absl::StatusOr<UniqueFd> socket = co_await ttrpc::ConnectSocket(shim.socket);
    if (!socket.ok()) {
      closed_.push_back(shim.socket);
      co_return;
    }
    absl::StatusOr<std::string> answer = co_await GrpcCall(
        io_, *std::move(socket), "/feather.inspect.v1.Inspect/Shim", std::string(), kAnswerLimit);
    if (answer.ok() && shim.report.ParseFromString(*answer)) {
      node_.shims.push_back(std::move(shim));
    } else if (absl::IsDeadlineExceeded(answer.status())) {
      node_.silent.push_back(shim.socket);
    } else {
      closed_.push_back(shim.socket);
    }
  }

  // A socket whose listener has closed the connection: a shim that speaks something else or has
  // just ended, or the second socket that a shim has at debug.
  void Judge(const std::string& socket) {
    const pid_t listener = ListenerPid(socket);
    const bool known =
        listener == 0 ||
        std::any_of(node_.shims.begin(), node_.shims.end(), [&](const Node::Shim& shim) {
          return shim.report.pid() == static_cast<uint32_t>(listener);
        });
    if (!known && others_.insert(listener).second) ++node_.others;
  }

  asio::io_context& io_;
  const std::vector<std::string> sockets_;
  size_t next_ = 0;
  std::set<pid_t> others_;  // their listeners
  std::vector<std::string> closed_;
  Node node_;
};

bool IsOf(const Node::Shim& shim, absl::string_view id, bool exactly) {
  const size_t omitted = std::min(id.find(inspect::kOmitted), id.size());
  const absl::string_view head = id.substr(0, omitted);
  absl::string_view tail = id.substr(omitted);
  absl::ConsumePrefix(&tail, inspect::kOmitted);
  auto fits = [&](absl::string_view name) {
    if (exactly) return name == id;
    return name.size() >= head.size() + tail.size() && absl::StartsWith(name, head) &&
           absl::EndsWith(name, tail);
  };
  return fits(shim.report.id()) ||
         std::any_of(shim.report.containers().begin(), shim.report.containers().end(),
                     [&](const inspect::v1::Container& c) { return fits(c.id()); });
}

// The shims that `id` is meant by: exactly, or if there is none, as a beginning, or as the table
// has it.
absl::Status Select(Node& node, const std::string& id) {
  for (bool exactly : {true, false}) {
    std::vector<Node::Shim> found;
    std::copy_if(node.shims.begin(), node.shims.end(), std::back_inserter(found),
                 [&](const Node::Shim& shim) { return IsOf(shim, id, exactly); });
    if (found.empty()) continue;
    node.shims = std::move(found);
    return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("no shim of feather's has ", id));
}

std::string Text(const Node& node, const Arguments& arguments) {
  switch (arguments.output) {
    case Arguments::Output::kJson:
      return inspect::JsonText(node);
    case Arguments::Output::kPrometheus:
      return inspect::PrometheusText(node);
    case Arguments::Output::kTable:
    case Arguments::Output::kHelp:
      break;
  }
  if (arguments.id.empty()) return inspect::TableText(node);
  std::string text;
  for (const Node::Shim& shim : node.shims)
    absl::StrAppend(&text, text.empty() ? "" : "\n", inspect::DetailText(shim, node.at));
  return text;
}

}  // namespace

absl::Status RunInspect(const std::vector<absl::string_view>& words) {
  ASSIGN_OR_RETURN(Arguments arguments, Parse(words));
  if (arguments.output == Arguments::Output::kHelp)
    return WriteAll(STDOUT_FILENO, absl::StrCat(kUsage, "\n"));
  ASSIGN_OR_RETURN(std::vector<std::string> sockets, Sockets(arguments.directory));
  asio::io_context io(1);
  Node node = Survey(io, std::move(sockets)).Take();
  if (!arguments.id.empty()) RETURN_IF_ERROR(Select(node, arguments.id));
  return WriteAll(STDOUT_FILENO, Text(node, arguments));
}

}  // namespace feather
