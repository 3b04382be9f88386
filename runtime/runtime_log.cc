#include "runtime/runtime_log.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

using Json = nlohmann::json;

constexpr off_t kTail = 1 << 20;

// Empty unless `line` is an error.
std::string ErrorMessage(absl::string_view line) {
  Json object = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return "";
  auto level = object.find("level");
  auto message = object.find("msg");
  if (level == object.end() || message == object.end() || *level != "error") return "";
  const auto* text = message->get_ptr<const Json::string_t*>();
  return text == nullptr ? "" : std::string(absl::StripAsciiWhitespace(*text));
}

}  // namespace

off_t RuntimeLogEnd(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 ? info.st_size : 0;
}

absl::StatusOr<std::string> LastRuntimeError(const std::string& path, off_t offset) {
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY));
  struct stat info;
  if (fstat(fd.get(), &info) < 0) return ErrnoError(errno, path);
  // A file that has become shorter has been replaced.
  if (info.st_size < offset) offset = 0;
  if (lseek(fd.get(), std::max(offset, info.st_size - kTail), SEEK_SET) < 0)
    return ErrnoError(errno, path);
  // What is appended meanwhile is not ours.
  auto data = ReadToEof(fd.get(), size_t{2} * kTail);
  if (!data.ok()) return Annotate(data.status(), absl::StrCat("read ", path));
  std::string last;
  for (absl::string_view line : absl::StrSplit(*data, '\n', absl::SkipEmpty()))
    if (std::string message = ErrorMessage(line); !message.empty()) last = std::move(message);
  return last;
}

}  // namespace feather
