#include "shim/flat_toml.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/status.h"
#include "runtime/base/utf8.h"

namespace feather {
namespace {

bool IsBareKey(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-';
}

bool IsBlank(char c) { return c == ' ' || c == '\t'; }

void AppendUtf8(uint32_t code, std::string& text) {
  auto continuation = [&](int shift) {
    text += static_cast<char>(0x80 | ((code >> shift) & 0x3f));
  };
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += static_cast<char>(0xc0 | (code >> 6));
    continuation(0);
  } else if (code < 0x10000) {
    text += static_cast<char>(0xe0 | (code >> 12));
    continuation(6);
    continuation(0);
  } else {
    text += static_cast<char>(0xf0 | (code >> 18));
    continuation(12);
    continuation(6);
    continuation(0);
  }
}

// invalid_argument for what is no integer in any of TOML's bases.
std::errc ParseInteger(absl::string_view token, int64_t& value) {
  int base = absl::ConsumePrefix(&token, "0x")   ? 16
             : absl::ConsumePrefix(&token, "0o") ? 8
             : absl::ConsumePrefix(&token, "0b") ? 2
                                                 : 10;
  bool negative = base == 10 && absl::ConsumePrefix(&token, "-");
  if (base == 10 && !negative) absl::ConsumePrefix(&token, "+");
  if (base == 10 && token.size() > 1 && token[0] == '0') return std::errc::invalid_argument;
  std::string digits = negative ? "-" : "";
  char before = '_';
  for (char c : token) {
    // An underscore stands between digits only; a second sign is none.
    if (c == '_' ? before == '_' : !absl::ascii_isxdigit(static_cast<unsigned char>(c)))
      return std::errc::invalid_argument;
    if (c != '_') digits += c;
    before = c;
  }
  if (before == '_') return std::errc::invalid_argument;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  return end != digits.data() + digits.size() ? std::errc::invalid_argument : error;
}

// Of a text that has been checked: valid UTF-8, and no control characters but tabs, LF and CR LF.
// So a NUL stands for the end.
class Reader {
 public:
  explicit Reader(absl::string_view text) : text_(text) {}
  absl::StatusOr<std::vector<TomlEntry>> Read();

 private:
  char Next() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Consume(absl::string_view what) {
    if (!absl::StartsWith(text_.substr(at_), what)) return false;
    at_ += what.size();
    return true;
  }
  bool ConsumeNewline() { return Consume("\n") || Consume("\r\n"); }
  void SkipBlanks() {
    while (IsBlank(Next())) ++at_;
  }
  void SkipBlanksAndComment() {
    SkipBlanks();
    if (Next() == '#') at_ = std::min(text_.find_first_of("\r\n", at_), text_.size());
  }
  absl::Status Error(absl::string_view what) const;
  absl::StatusOr<std::string> ReadKey();
  absl::StatusOr<TomlEntry> ReadEntry();
  absl::Status ReadScalar(TomlEntry& entry);
  absl::StatusOr<std::string> ReadString(bool may_have_lines);
  absl::Status ReadEscape(bool has_lines, std::string& text);
  absl::Status ReadCodePoint(size_t digits, std::string& text);

  absl::string_view text_;
  size_t at_ = 0;
};

absl::Status ErrorAt(absl::string_view text, size_t at, absl::string_view what) {
  absl::string_view before = text.substr(0, at);
  return absl::InvalidArgumentError(
      absl::StrCat("line ", 1 + std::count(before.begin(), before.end(), '\n'), ": ", what));
}

absl::Status Reader::Error(absl::string_view what) const { return ErrorAt(text_, at_, what); }

absl::StatusOr<std::vector<TomlEntry>> Reader::Read() {
  std::vector<TomlEntry> entries;
  absl::flat_hash_set<std::string> keys;
  while (true) {
    SkipBlanksAndComment();
    if (ConsumeNewline()) continue;
    if (at_ == text_.size()) return entries;
    ASSIGN_OR_RETURN(TomlEntry entry, ReadEntry());
    if (!keys.insert(entry.key).second)
      return Error(absl::StrCat("\"", entry.key, "\" is there twice"));
    SkipBlanksAndComment();
    char next = Next();
    if (next != '\0' && next != '\n' && next != '\r')
      return Error(absl::StrCat("something follows the value of \"", entry.key, "\""));
    entries.push_back(std::move(entry));
  }
}

absl::StatusOr<TomlEntry> Reader::ReadEntry() {
  if (Next() == '[') return Error("a table is no option");
  TomlEntry entry;
  ASSIGN_OR_RETURN(entry.key, ReadKey());
  SkipBlanks();
  if (Next() == '.')
    return Error(absl::StrCat("\"", entry.key, "\" would be a table, which is no option"));
  if (!Consume("=")) return Error(absl::StrCat("no = after \"", entry.key, "\""));
  SkipBlanks();
  if (Next() == '"' || Next() == '\'') {
    ASSIGN_OR_RETURN(entry.value, ReadString(/*may_have_lines=*/true));
  } else {
    RETURN_IF_ERROR(ReadScalar(entry));
  }
  return entry;
}

absl::StatusOr<std::string> Reader::ReadKey() {
  if (Next() == '"' || Next() == '\'') return ReadString(/*may_have_lines=*/false);
  size_t begin = at_;
  while (IsBareKey(Next())) ++at_;
  if (at_ == begin) return Error("no key");
  return std::string(text_.substr(begin, at_ - begin));
}

absl::Status Reader::ReadScalar(TomlEntry& entry) {
  size_t end = std::min(text_.find_first_of(" \t\r\n#", at_), text_.size());
  absl::string_view token = text_.substr(at_, end - at_);
  int64_t number = 0;
  if (token == "true" || token == "false") {
    entry.value = token == "true";
  } else if (token.empty()) {
    return Error(absl::StrCat("\"", entry.key, "\" has no value"));
  } else if (std::errc error = ParseInteger(token, number); error == std::errc()) {
    entry.value = number;
  } else if (error == std::errc::result_out_of_range) {
    return Error(absl::StrCat("\"", entry.key, "\" is out of range"));
  } else {
    return Error(
        absl::StrCat("\"", entry.key, "\" is neither a string nor an integer nor a boolean"));
  }
  at_ = end;
  return absl::OkStatus();
}

absl::StatusOr<std::string> Reader::ReadString(bool may_have_lines) {
  const size_t begin = at_;
  const char quote = Next();
  const bool has_lines = may_have_lines && Consume(std::string(3, quote));
  if (!has_lines) ++at_;
  if (has_lines) ConsumeNewline();
  std::string result;
  while (at_ < text_.size()) {
    char c = text_[at_];
    if (c == quote && has_lines) {
      // Up to two may stand before the three that end it.
      size_t quotes = std::min(text_.find_first_not_of(quote, at_), text_.size()) - at_;
      quotes = std::min<size_t>(quotes, 5);
      at_ += quotes;
      result.append(quotes < 3 ? quotes : quotes - 3, quote);
      if (quotes >= 3) return result;
      continue;
    }
    if (!has_lines && (c == '\n' || c == '\r')) break;
    ++at_;
    if (c == quote) return result;
    if (c == '\\' && quote == '"') {
      RETURN_IF_ERROR(ReadEscape(has_lines, result));
    } else {
      result += c;
    }
  }
  return ErrorAt(text_, begin, "a string without end");
}

absl::Status Reader::ReadEscape(bool has_lines, std::string& text) {
  constexpr absl::string_view kNames = "btnfr\"\\";
  constexpr absl::string_view kMeanings = "\b\t\n\f\r\"\\";
  if (size_t which = kNames.find(Next()); which != absl::string_view::npos) {
    ++at_;
    text += kMeanings[which];
    return absl::OkStatus();
  }
  if (Consume("u")) return ReadCodePoint(4, text);
  if (Consume("U")) return ReadCodePoint(8, text);
  // At the end of a line it joins it with what comes next.
  if (has_lines) {
    SkipBlanks();
    if (ConsumeNewline()) {
      while (IsBlank(Next()) || Next() == '\n' || Next() == '\r') ++at_;
      return absl::OkStatus();
    }
  }
  return Error("a \\ that escapes nothing");
}

absl::Status Reader::ReadCodePoint(size_t digits, std::string& text) {
  absl::string_view hex = text_.substr(at_, digits);
  uint32_t code = 0;
  auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
  bool surrogate = code >= 0xd800 && code < 0xe000;
  if (error != std::errc() || end != hex.data() + digits || surrogate || code > 0x10ffff)
    return Error("no character has this number");
  at_ += digits;
  AppendUtf8(code, text);
  return absl::OkStatus();
}

// What TOML has nowhere, neither in strings nor in comments.
absl::Status CheckCharacters(absl::string_view text) {
  std::string valid = ValidUtf8(text);
  for (size_t i = 0; i < text.size(); ++i) {
    if (valid[i] != text[i]) return ErrorAt(text, i, "not UTF-8");
    bool allowed = text[i] == '\t' || text[i] == '\n' ||
                   (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n');
    if (!allowed && absl::ascii_iscntrl(static_cast<unsigned char>(text[i])))
      return ErrorAt(text, i, "a control character");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TomlEntry>> ParseFlatToml(absl::string_view text) {
  absl::ConsumePrefix(&text, "\xef\xbb\xbf");  // the byte order mark of some editors
  RETURN_IF_ERROR(CheckCharacters(text));
  return Reader(text).Read();
}

}  // namespace feather
