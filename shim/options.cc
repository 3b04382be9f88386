#include "shim/options.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "proto/linux_runc_options.pb.h"
#include "proto/runc_options.pb.h"
#include "proto/runtimeoptions.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"
#include "shim/flat_toml.h"

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

bool Assign(TomlEntry& entry, const Member& member, RuntimeOptions& options) {
  if (auto flag = std::get_if<bool RuntimeOptions::*>(&member)) {
    if (!std::holds_alternative<bool>(entry.value)) return false;
    options.** flag = std::get<bool>(entry.value);
  } else if (auto number = std::get_if<uint32_t RuntimeOptions::*>(&member)) {
    const int64_t* n = std::get_if<int64_t>(&entry.value);
    if (n == nullptr || *n < 0 || *n > std::numeric_limits<uint32_t>::max()) return false;
    options.** number = static_cast<uint32_t>(*n);
  } else if (auto text = std::get_if<std::string RuntimeOptions::*>(&member)) {
    if (!std::holds_alternative<std::string>(entry.value)) return false;
    options.** text = std::get<std::string>(std::move(entry.value));
  }
  return true;
}

absl::StatusOr<RuntimeOptions> FromToml(absl::string_view text) {
  auto entries = ParseFlatToml(text);
  if (!entries.ok()) return Annotate(entries.status(), "runtime options");
  RuntimeOptions options;
  std::array<bool, kFields.size()> seen = {};
  for (TomlEntry& entry : *entries) {
    std::string wanted = Normalized(entry.key);
    // CRI copies its whole table into the message, these two of the message itself included.
    if (wanted == "typeurl" || wanted == "configpath") continue;
    auto field = std::find_if(kFields.begin(), kFields.end(),
                              [&](const Field& f) { return Normalized(f.name) == wanted; });
    if (field == kFields.end())
      return absl::InvalidArgumentError(absl::StrCat("unknown runtime option \"", entry.key, "\""));
    if (std::exchange(seen[field - kFields.begin()], true))
      return absl::InvalidArgumentError(
          absl::StrCat("runtime option \"", entry.key, "\" is there in two spellings"));
    if (!Assign(entry, field->member, options))
      return absl::InvalidArgumentError(
          absl::StrCat("runtime option \"", entry.key, "\" has the wrong type or is out of range"));
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

bool SayNothing(const google::protobuf::Any& options) {
  if (options.type_url().empty()) return true;
  runtimeoptions::v1::Options message;
  return TypeName(options) == kTomlType && message.ParseFromString(options.value()) &&
         message.config_path().empty() && message.config_body().empty();
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
