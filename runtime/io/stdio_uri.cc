#include "runtime/io/stdio_uri.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace feather {
namespace {

// Length of the scheme in front of a ':', 0 if there is none.
size_t SchemeLength(absl::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == ':') return i;
    bool later =
        absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '+' || c == '-' || c == '.';
    if (!absl::ascii_isalpha(static_cast<unsigned char>(c)) && (i == 0 || !later)) return 0;
  }
  return 0;
}

std::optional<std::string> Unescape(absl::string_view text, bool plus_is_space) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result.push_back(plus_is_space && text[i] == '+' ? ' ' : text[i]);
      continue;
    }
    if (i + 2 >= text.size() || !absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 1])) ||
        !absl::ascii_isxdigit(static_cast<unsigned char>(text[i + 2])))
      return std::nullopt;
    absl::StrAppend(&result, absl::HexStringToBytes(text.substr(i + 1, 2)));
    i += 2;
  }
  return result;
}

void AddPair(absl::string_view pair, StdioUri* uri) {
  if (pair.empty()) return;
  std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(pair, absl::MaxSplits('=', 1));
  std::optional<std::string> key = Unescape(parts.first, true);
  std::optional<std::string> value = Unescape(parts.second, true);
  if (!key || !value) return;
  bool repeated = std::any_of(uri->query.begin(), uri->query.end(),
                              [&key](const auto& known) { return known.first == *key; });
  if (!repeated) uri->query.emplace_back(*std::move(key), *std::move(value));
}

}  // namespace

absl::StatusOr<StdioUri> ParseStdioUri(absl::string_view text) {
  StdioUri uri;
  size_t length = SchemeLength(text);
  if (length == 0) {
    uri.path = std::string(text);
    return uri;
  }
  uri.scheme = absl::AsciiStrToLower(text.substr(0, length));
  absl::string_view rest = text.substr(length + 1);
  rest = rest.substr(0, rest.find('#'));
  size_t question = rest.find('?');
  absl::string_view path = rest.substr(0, question);
  if (absl::ConsumePrefix(&path, "//")) {
    size_t slash = path.find('/');
    path = slash == absl::string_view::npos ? absl::string_view() : path.substr(slash);
  }
  std::optional<std::string> decoded = Unescape(path, false);
  if (!decoded)
    return absl::InvalidArgumentError(absl::StrCat("invalid URL escape in \"", text, "\""));
  uri.path = *std::move(decoded);
  if (question != absl::string_view::npos)
    for (absl::string_view pair : absl::StrSplit(rest.substr(question + 1), '&'))
      AddPair(pair, &uri);
  return uri;
}

}  // namespace feather
