#include "shim/options.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <fcntl.h>
#include <sys/stat.h>
#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "proto/linux_runc_options.pb.h"
#include "proto/runc_options.pb.h"
#include "proto/runtimeoptions.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "shim/ttrpc/utf8.h"

namespace feather {
namespace {

constexpr char kRuncType[] = "containerd.runc.v1.Options";
constexpr char kTomlType[] = "runtimeoptions.v1.Options";
constexpr char kOldCreateType[] = "containerd.linux.runc.CreateOptions";
constexpr char kOldCheckpointType[] = "containerd.linux.runc.CheckpointOptions";
constexpr char kCheckpointType[] = "containerd.runc.v1.CheckpointOptions";
constexpr size_t kMaxFile = size_t{1} << 20;

using Member =
    std::variant<bool RuntimeOptions::*, uint32_t RuntimeOptions::*, std::string RuntimeOptions::*>;
struct Field {
  const char* name;
  Member member;
};

// In the order in which the Go shim writes them.
constexpr std::array<Field, 13> kFields = {{
    {"no_pivot_root", &RuntimeOptions::no_pivot_root},
    {"no_new_keyring", &RuntimeOptions::no_new_keyring},
    {"shim_cgroup", &RuntimeOptions::shim_cgroup},
    {"io_uid", &RuntimeOptions::io_uid},
    {"io_gid", &RuntimeOptions::io_gid},
    {"binary_name", &RuntimeOptions::binary_name},
    {"root", &RuntimeOptions::root},
    {"criu_path", &RuntimeOptions::criu_path},
    {"systemd_cgroup", &RuntimeOptions::systemd_cgroup},
    {"criu_image_path", &RuntimeOptions::criu_image_path},
    {"criu_work_path", &RuntimeOptions::criu_work_path},
    {"task_api_address", &RuntimeOptions::task_api_address},
    {"task_api_version", &RuntimeOptions::task_api_version},
}};

absl::string_view TypeName(const google::protobuf::Any& any) {
  absl::string_view url = any.type_url();
  size_t slash = url.rfind('/');
  return slash == absl::string_view::npos ? url : url.substr(slash + 1);
}

// "SystemdCgroup" and "systemd_cgroup" are one key; CRI's own decoder does not look at case either.
std::string Normalized(absl::string_view key) {
  std::string result;
  for (char c : key)
    if (c != '_') result += absl::ascii_tolower(static_cast<unsigned char>(c));
  return result;
}

// A path or a name that the kernel would read only up to a NUL is not what its author meant.
absl::StatusOr<RuntimeOptions> Checked(RuntimeOptions options) {
  for (const Field& field : kFields) {
    auto text = std::get_if<std::string RuntimeOptions::*>(&field.member);
    if (text != nullptr && (options.**text).find('\0') != std::string::npos)
      return absl::InvalidArgumentError(absl::StrCat("option ", field.name, " contains a NUL"));
  }
  return options;
}

// The fields that both kinds of options have, under different numbers.
template <typename Message>
absl::StatusOr<Message> ParseInto(absl::string_view bytes, absl::string_view type,
                                  RuntimeOptions& options) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())))
    return absl::InvalidArgumentError(absl::StrCat("cannot parse options of type ", type));
  options.no_pivot_root = message.no_pivot_root();
  options.no_new_keyring = message.no_new_keyring();
  options.shim_cgroup = message.shim_cgroup();
  options.io_uid = message.io_uid();
  options.io_gid = message.io_gid();
  options.criu_image_path = message.criu_image_path();
  options.criu_work_path = message.criu_work_path();
  return message;
}

absl::StatusOr<RuntimeOptions> FromRunc(absl::string_view bytes) {
  RuntimeOptions options;
  ASSIGN_OR_RETURN(auto message,
                   ParseInto<containerd::runc::v1::Options>(bytes, kRuncType, options));
  options.binary_name = message.binary_name();
  options.root = message.root();
  options.criu_path = message.criu_path();
  options.systemd_cgroup = message.systemd_cgroup();
  options.task_api_address = message.task_api_address();
  options.task_api_version = message.task_api_version();
  return options;
}

absl::StatusOr<RuntimeOptions> FromOldCreate(const std::string& bytes) {
  RuntimeOptions options;
  RETURN_IF_ERROR(
      ParseInto<containerd::linux::runc::CreateOptions>(bytes, kOldCreateType, options).status());
  return options;
}

// Both kinds of checkpoint options have the same fields, under different numbers.
template <typename Message>
absl::StatusOr<OciRuntime::CheckpointArgs> FromCheckpoint(const google::protobuf::Any& options) {
  Message message;
  if (!message.ParseFromString(options.value()))
    return absl::InvalidArgumentError("broken checkpoint options");
  OciRuntime::CheckpointArgs args;
  args.work_path = message.work_path();
  args.leave_running = !message.exit();
  args.open_tcp = message.open_tcp();
  args.external_unix_sockets = message.external_unix_sockets();
  args.terminal = message.terminal();
  args.file_locks = message.file_locks();
  args.empty_namespaces = {message.empty_namespaces().begin(), message.empty_namespaces().end()};
  if constexpr (std::is_same_v<Message, containerd::runc::v1::CheckpointOptions>)
    args.parent_path = message.parent_path();
  return args;
}

// What Debian's toml++ (3.3) does with some texts that are no TOML is undefined: with bytes above
// ASCII outside of strings, with control characters, and with a table's header that begins with
// anything but a name. So it gets no table, which no option is, and ASCII only: other bytes, and %,
// as %XX.
absl::StatusOr<std::string> ToPlainToml(absl::string_view text) {
  if (ttrpc::ValidUtf8(text) != text) return absl::InvalidArgumentError("not UTF-8");
  for (absl::string_view escape : {"\\u0025", "\\U00000025"})
    if (absl::StrContains(text, escape))
      return absl::InvalidArgumentError(absl::StrCat(escape, " is to be written as %"));
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");  // the byte order mark of some editors
  std::string plain;
  int line = 1;
  bool line_begins = true;
  for (char c : text) {
    if (c == '[' && line_begins)
      return absl::InvalidArgumentError(absl::StrCat("line ", line, ": a table is no option"));
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t' && c != '\r' && c != '\n')
      return absl::InvalidArgumentError(absl::StrCat("line ", line, ": control character"));
    if (c == '%' || !absl::ascii_isascii(static_cast<unsigned char>(c))) {
      absl::StrAppend(&plain, "%", absl::BytesToHexString(absl::string_view(&c, 1)));
    } else {
      plain += c;
    }
    if (c != ' ' && c != '\t' && c != '\r') line_begins = c == '\n';
    if (c == '\n') ++line;
  }
  return plain;
}

std::string FromPlainToml(absl::string_view plain) {
  std::string text;
  for (size_t i = 0; i < plain.size(); ++i) {
    if (plain[i] == '%' && i + 2 < plain.size()) {
      text += absl::HexStringToBytes(plain.substr(i + 1, 2));
      i += 2;
    } else {
      text += plain[i];
    }
  }
  return text;
}

// Exact types only: toml++ would turn 2e100 into some integer.
bool Assign(const toml::node& value, const Member& member, RuntimeOptions& options) {
  if (auto flag = std::get_if<bool RuntimeOptions::*>(&member)) {
    if (!value.is_boolean()) return false;
    options.** flag = value.as_boolean()->get();
  } else if (auto number = std::get_if<uint32_t RuntimeOptions::*>(&member)) {
    if (!value.is_integer()) return false;
    int64_t n = value.as_integer()->get();
    if (n < 0 || n > std::numeric_limits<uint32_t>::max()) return false;
    options.** number = static_cast<uint32_t>(n);
  } else if (auto text = std::get_if<std::string RuntimeOptions::*>(&member)) {
    if (!value.is_string()) return false;
    options.** text = FromPlainToml(value.as_string()->get());
  }
  return true;
}

absl::StatusOr<RuntimeOptions> FromToml(absl::string_view text) {
  absl::StatusOr<std::string> plain = ToPlainToml(text);
  if (!plain.ok()) return Annotate(plain.status(), "runtime options");
  toml::parse_result parsed = toml::parse(std::string_view(*plain));
  if (!parsed) {
    auto why = parsed.error().description();
    return absl::InvalidArgumentError(absl::StrCat("runtime options, line ",
                                                   parsed.error().source().begin.line, ": ",
                                                   absl::string_view(why.data(), why.size())));
  }
  RuntimeOptions options;
  for (const auto& [toml_key, value] : parsed.table()) {
    std::string key = FromPlainToml({toml_key.str().data(), toml_key.str().size()});
    std::string wanted = Normalized(key);
    // CRI copies its whole table into the message, these two of the message itself included.
    if (wanted == "typeurl" || wanted == "configpath") continue;
    auto field = std::find_if(kFields.begin(), kFields.end(),
                              [&](const Field& f) { return Normalized(f.name) == wanted; });
    if (field == kFields.end())
      return absl::InvalidArgumentError(absl::StrCat("unknown runtime option \"", key, "\""));
    if (!Assign(value, field->member, options))
      return absl::InvalidArgumentError(
          absl::StrCat("runtime option \"", key, "\" has the wrong type or is out of range"));
  }
  return options;
}

absl::StatusOr<std::string> ReadRegularFile(const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  struct stat status;
  if (fstat(fd.get(), &status) < 0) return ErrnoError(errno, absl::StrCat("stat ", path));
  if (!S_ISREG(status.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a file"));
  return ReadToEof(fd.get(), kMaxFile);
}

absl::StatusOr<RuntimeOptions> FromRuntimeOptions(const std::string& bytes) {
  runtimeoptions::v1::Options message;
  if (!message.ParseFromString(bytes))
    return absl::InvalidArgumentError(absl::StrCat("cannot parse options of type ", kTomlType));
  if (message.config_path().empty()) return FromToml(message.config_body());
  absl::StatusOr<std::string> text = ReadRegularFile(message.config_path());
  if (!text.ok())
    return absl::InvalidArgumentError(absl::StrCat("runtime options: ", text.status().message()));
  absl::StatusOr<RuntimeOptions> options = FromToml(*text);
  if (!options.ok()) return Annotate(options.status(), message.config_path());
  return options;
}

std::string ToJson(const RuntimeOptions& options) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const Field& field : kFields) {
    std::visit(
        [&](auto member) {
          const auto& value = options.*member;
          if (value != std::decay_t<decltype(value)>()) json[field.name] = value;
        },
        field.member);
  }
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

template <typename Value>
void Read(const nlohmann::json& json, Value& value) {
  if constexpr (std::is_same_v<Value, uint32_t>) {
    if (json.is_number_unsigned() && json <= std::numeric_limits<uint32_t>::max())
      value = json.get<uint32_t>();
  } else if constexpr (std::is_same_v<Value, bool>) {
    if (json.is_boolean()) value = json.get<bool>();
  } else {
    if (json.is_string()) value = json.get<std::string>();
  }
}

}  // namespace

bool IsOptionsType(const google::protobuf::Any& options) {
  absl::string_view type = TypeName(options);
  return type == kRuncType || type == kTomlType || type == kOldCreateType;
}

absl::StatusOr<OciRuntime::CheckpointArgs> DecodeCheckpointOptions(
    const google::protobuf::Any& options) {
  absl::string_view type = TypeName(options);
  if (type == kOldCheckpointType)
    return FromCheckpoint<containerd::linux::runc::CheckpointOptions>(options);
  if (type == kCheckpointType || options.type_url().empty())
    return FromCheckpoint<containerd::runc::v1::CheckpointOptions>(options);
  return absl::InvalidArgumentError(
      absl::StrCat("unsupported type of checkpoint options \"", options.type_url(), "\""));
}

absl::StatusOr<RuntimeOptions> DecodeOptions(const google::protobuf::Any& options) {
  absl::string_view type = TypeName(options);
  absl::StatusOr<RuntimeOptions> decoded;
  if (type == kRuncType) {
    decoded = FromRunc(options.value());
  } else if (type == kTomlType) {
    decoded = FromRuntimeOptions(options.value());
  } else if (type == kOldCreateType) {
    decoded = FromOldCreate(options.value());
  } else if (options.type_url().empty() && options.value().empty()) {
    return RuntimeOptions();
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported type of runtime options \"", options.type_url(), "\""));
  }
  if (!decoded.ok()) return decoded;
  return Checked(*std::move(decoded));
}

absl::Status WriteOptions(const std::string& bundle, const RuntimeOptions& options) {
  RETURN_IF_ERROR(WriteFile(absl::StrCat(bundle, "/options.json"), ToJson(options), 0600));
  return WriteFile(absl::StrCat(bundle, "/runtime"), options.binary_name, 0600);
}

absl::StatusOr<RuntimeOptions> ReadOptions(const std::string& bundle) {
  RuntimeOptions options;
  absl::StatusOr<std::string> text = ReadRegularFile(absl::StrCat(bundle, "/options.json"));
  if (!text.ok() && !absl::IsNotFound(text.status())) return text.status();
  if (text.ok() && !text->empty()) {
    nlohmann::json json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object())
      return absl::InvalidArgumentError(absl::StrCat(bundle, "/options.json is not a JSON object"));
    for (const Field& field : kFields) {
      auto value = json.find(field.name);
      if (value == json.end()) continue;
      std::visit([&](auto member) { Read(*value, options.*member); }, field.member);
    }
  }
  absl::StatusOr<std::string> binary = ReadRegularFile(absl::StrCat(bundle, "/runtime"));
  if (!binary.ok() && !absl::IsNotFound(binary.status())) return binary.status();
  if (binary.ok() && !absl::StripAsciiWhitespace(*binary).empty())
    options.binary_name = std::string(absl::StripAsciiWhitespace(*binary));
  return Checked(std::move(options));
}

}  // namespace feather
