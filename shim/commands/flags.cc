#include "shim/commands/flags.h"

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace feather {
namespace {

struct Option {
  const char* name;
  std::string Flags::*text;
  bool Flags::*boolean;
  const char* usage;
};

// By name, as Go prints them.
constexpr std::array<Option, 12> kOptions = {{
    {"address", &Flags::address, nullptr, "grpc address back to main containerd"},
    {"bundle", &Flags::bundle, nullptr, "path to the bundle if not workdir"},
    {"debug", nullptr, &Flags::debug, "enable debug output in logs"},
    {"debug-socket", &Flags::debug_socket, nullptr, "debug socket path to serve"},
    {"id", &Flags::id, nullptr, "id of the task"},
    {"info", nullptr, &Flags::info, "get the option protobuf from stdin, print the shim info"},
    {"namespace", &Flags::name_space, nullptr, "namespace that owns the shim"},
    {"publish-binary", &Flags::publish_binary, nullptr, "path to containerd's executable"},
    {"socket", &Flags::socket, nullptr, "socket path to serve"},
    {"v", nullptr, &Flags::version, "show the shim version and exit"},
    {"version", nullptr, &Flags::version, "show the shim version and exit"},
    {"help", nullptr, &Flags::help, "print this and exit"},
}};

std::optional<bool> ParseBool(absl::string_view value) {
  for (const char* yes : {"1", "t", "T", "true", "TRUE", "True"})
    if (value == yes) return true;
  for (const char* no : {"0", "f", "F", "false", "FALSE", "False"})
    if (value == no) return false;
  return std::nullopt;
}

}  // namespace

absl::Status ParseFlags(const std::vector<absl::string_view>& arguments, Flags& flags) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (argument.size() < 2 || argument[0] != '-') {
      flags.action = std::string(argument);
      return absl::OkStatus();
    }
    absl::string_view name = argument.substr(argument[1] == '-' ? 2 : 1);
    if (argument == "--") {
      if (i + 1 < arguments.size()) flags.action = std::string(arguments[i + 1]);
      return absl::OkStatus();
    }
    if (name.empty() || name[0] == '-' || name[0] == '=')
      return absl::InvalidArgumentError(absl::StrCat("bad flag syntax: ", argument));

    std::optional<absl::string_view> value;
    if (size_t equals = name.find('='); equals != absl::string_view::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    }
    if (name == "h") name = "help";
    auto option = std::find_if(kOptions.begin(), kOptions.end(),
                               [name](const Option& o) { return name == o.name; });
    if (option == kOptions.end())
      return absl::InvalidArgumentError(absl::StrCat("flag provided but not defined: -", name));
    if (option->boolean != nullptr) {
      std::optional<bool> on = ParseBool(value.value_or("true"));
      if (!on)
        return absl::InvalidArgumentError(
            absl::StrCat("invalid boolean value \"", *value, "\" for -", name, ": parse error"));
      flags.*option->boolean = *on;
      continue;
    }
    if (!value && ++i == arguments.size())
      return absl::InvalidArgumentError(absl::StrCat("flag needs an argument: -", name));
    flags.*option->text = std::string(value ? *value : arguments[i]);
  }
  return absl::OkStatus();
}

std::string UsageText(absl::string_view program) {
  std::string text = absl::StrCat("Usage of ", program, ":\n");
  for (const Option& option : kOptions)
    absl::StrAppend(&text, "  -", option.name, option.text != nullptr ? " string" : "", "\n    \t",
                    option.usage, "\n");
  absl::StrAppend(&text, "Without flags: inspect [-help], to look into the shims of this node\n");
  return text;
}

}  // namespace feather
