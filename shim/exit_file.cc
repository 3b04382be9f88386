#include "shim/exit_file.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "runtime/base/file.h"
#include "runtime/base/no_memory.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

using Json = nlohmann::json;

constexpr size_t kLimit = 4096;

std::string Path(const std::string& bundle) { return absl::StrCat(bundle, "/exit.json"); }

// A whole number from `least` to `most`.
bool ReadNumber(const Json& json, const char* name, int64_t least, int64_t most, int64_t& value) {
  auto it = json.find(name);
  if (it == json.end() || !it->is_number_integer()) return false;
  // What is above int64_t comes out negative.
  value = it->get<int64_t>();
  return value >= least && value <= most;
}

}  // namespace

void NoteExit(const std::string& bundle, const Exit& exit) noexcept {
  CatchNoMemory([&] {
    std::string text =
        absl::StrCat(R"({"Timestamp":")",
                     absl::FormatTime("%Y-%m-%d%ET%H:%M:%E*SZ", exit.at, absl::UTCTimeZone()),
                     R"(","Pid":)", exit.pid, R"(,"Status":)", exit.status, "}");
    WriteFileAtomically(Path(bundle), text, 0600).IgnoreError();
  }).IgnoreError();
}

absl::StatusOr<Exit> ReadNotedExit(const std::string& bundle) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(Path(bundle), kLimit));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  Exit exit;
  int64_t pid = 0, status = 0;
  std::string error;
  if (!json.is_object() || !ReadNumber(json, "Pid", 1, std::numeric_limits<pid_t>::max(), pid) ||
      !ReadNumber(json, "Status", 0, std::numeric_limits<int32_t>::max(), status) ||
      !json.contains("Timestamp") || !json["Timestamp"].is_string() ||
      !absl::ParseTime(absl::RFC3339_full, json["Timestamp"].get<std::string>(), &exit.at, &error))
    return absl::InvalidArgumentError(absl::StrCat(Path(bundle), " does not tell an exit"));
  exit.pid = static_cast<pid_t>(pid);
  exit.status = static_cast<uint32_t>(status);
  return exit;
}

}  // namespace feather
