// What the `start` command gets: its command line, stdin, environment and containerd's executable;
// and the files of a bundle that `delete` reads. Parts are divided by 0xff 0xfe.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/bootstrap.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "shim/commands/bootstrap.h"
#include "shim/commands/flags.h"
#include "shim/commands/go_build_info.h"
#include "shim/commands/socket_name.h"
#include "shim/options.h"
#include "tests/fuzz/support.h"

namespace feather {
namespace {

namespace api = containerd::runtime::bootstrap::v1;

constexpr char kDivider[] = "\xff\xfe";

std::string Params() {
  api::BootstrapParams params;
  params.set_instance_id("id");
  params.set_namespace_("ns");
  params.set_log_level(api::DEBUG);
  params.set_containerd_grpc_address("/run/c.sock");
  params.set_containerd_ttrpc_address("/run/c.sock.ttrpc");
  params.set_socket_dir("/run/s");
  google::protobuf::Any& options = *params.add_extensions()->mutable_value();
  options.set_type_url("runtimeoptions.v1.Options");
  options.set_value("\x1a\x08IoUid=1\n");
  return params.SerializeAsString();
}

// An ELF header with one section, named .go.buildinfo, whose content is the rest.
std::string Executable() {
  auto number = [](uint64_t value, size_t size) {
    return std::string(reinterpret_cast<const char*>(&value), size);
  };
  std::string names("\0.go.buildinfo\0.shstrtab\0", 25);
  std::string info("\xff Go buildinf:\x08\x02", 16);
  info.resize(32, '\0');
  std::string modules =
      absl::StrCat(std::string(16, 'a'), "path\tx/containerd/v2/cmd/x\n", std::string(16, 'b'));
  absl::StrAppend(&info, "\x06go1.20", std::string(1, static_cast<char>(modules.size())), modules);
  auto section = [&](uint32_t name, uint32_t type, uint64_t offset, uint64_t size) {
    return absl::StrCat(number(name, 4), number(type, 4), number(0, 8), number(0, 8),
                        number(offset, 8), number(size, 8), number(0, 8), number(16, 8),
                        number(0, 8));
  };
  uint64_t table = 64 + names.size() + info.size();
  std::string header =
      "\x7f"
      "ELF\x02\x01\x01";
  header.resize(16, '\0');
  absl::StrAppend(&header, number(2, 2), number(62, 2), number(1, 4), number(0, 8), number(0, 8),
                  number(table, 8), number(0, 4), number(64, 2), number(56, 2), number(0, 2),
                  number(64, 2), number(3, 2), number(2, 2));
  return absl::StrCat(header, names, info, section(0, 0, 0, 0),
                      section(1, 1, 64 + names.size(), info.size()),
                      section(15, 3, 64, names.size()));
}

std::string Join(std::vector<std::string> parts) {
  std::string joined;
  for (const std::string& part : parts) absl::StrAppend(&joined, part, kDivider);
  return joined;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> fuzz::Seeds() {
  google::protobuf::Any any;
  any.set_type_url("containerd.runc.v1.Options");
  any.set_value("\x2a\x04runc");
  std::string flags = "-namespace\nns\n--id=id\n-address\n/run/c.sock\n-debug\nstart";
  return {{"params", Join({flags, Params(), "3", "4", ""})},
          {"any", Join({flags, any.SerializeAsString(), "", "2", Executable()})},
          {"nothing", Join({"-id\nid\n-h", "", "2", "",
                            "\x7f"
                            "ELF"})}};
}

}  // namespace feather

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace feather;
  absl::string_view input(reinterpret_cast<const char*>(bytes), size);
  std::vector<std::string> parts = absl::StrSplit(input, kDivider);
  parts.resize(5);

  Flags flags;
  std::vector<absl::string_view> words = absl::StrSplit(parts[0], '\n');
  ParseFlags(words, flags).IgnoreError();
  UniqueFd program(memfd_create("containerd", MFD_CLOEXEC));
  if (!program || !WriteAll(program.get(), parts[4]).ok()) abort();
  std::string path = absl::StrCat("/proc/self/fd/", program.get());
  const char* wanted = parts[2].empty() ? nullptr : parts[2].c_str();
  const char* most = parts[3].empty() ? nullptr : parts[3].c_str();

  absl::StatusOr<StartInput> start = ParseStartInput(parts[1], flags);
  if (!start.ok()) return 0;
  DecodeOptions(start->options).status().IgnoreError();
  std::string socket = SocketPath(start->socket_directory.empty() ? "/s" : start->socket_directory,
                                  start->grpc_address, flags.name_space, flags.id);
  if (!absl::StartsWith(socket, "/")) abort();
  AnswerFormat format = ChooseAnswer(start->bootstrap, wanted, most, path);
  std::string answer = FormatAnswer(format, socket);
  if (format.encoding == AnswerFormat::Encoding::kPlain && !absl::StartsWith(answer, "unix://"))
    abort();
  if (auto grpc = ChooseGrpcAnswer(start->bootstrap, most, path); grpc.ok())
    (void)FormatAnswer(*grpc, socket);
  return 0;
}
