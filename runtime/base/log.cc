#include "runtime/base/log.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace feather {
namespace {

struct State {
  UniqueFd sink;
  LogLevel least = LogLevel::kInfo;
  std::string common_key;
  std::string common_value;
  uint64_t dropped = 0;
  uint64_t dropped_untold = 0;
};

State& state() {
  static State* state = new State;
  return *state;
}

// A write of at most PIPE_BUF bytes to a FIFO goes through whole or not at all, so that a line is
// never torn; what does not fit is cut.
constexpr size_t kLineLimit = PIPE_BUF;
constexpr char kCut[] = "...";
constexpr size_t kReserve = sizeof kCut + sizeof "\"\n";

constexpr std::array<const char*, 5> kLevelNames = {"trace", "debug", "info", "warning", "error"};

// Without tzset, which gmtime would call and which reads /etc/localtime.
void AppendTime(std::string& line) {
  using namespace std::chrono;
  auto now = system_clock::now();
  auto day = floor<days>(now);
  year_month_day date(day);
  hh_mm_ss time(floor<nanoseconds>(now - day));
  std::array<char, 64> text;
  int n = snprintf(text.data(), text.size(), "time=\"%04d-%02u-%02uT%02d:%02d:%02d.%09lldZ\"",
                   int{date.year()}, unsigned{date.month()}, unsigned{date.day()},
                   static_cast<int>(time.hours().count()), static_cast<int>(time.minutes().count()),
                   static_cast<int>(time.seconds().count()),
                   static_cast<long long>(time.subseconds().count()));
  line.append(text.data(), static_cast<size_t>(n));
}

bool NeedsQuotes(absl::string_view value) {
  return !std::all_of(value.begin(), value.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
           absl::string_view("-._/@^+").find(c) != absl::string_view::npos;
  });
}

void AppendEscaped(std::string& line, char c) {
  if (c == '"' || c == '\\') {
    line += {'\\', c};
  } else if (c == '\n') {
    line += "\\n";
  } else if (c == '\t') {
    line += "\\t";
  } else if (c == '\r') {
    line += "\\r";
  } else if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
    absl::StrAppend(&line, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  } else {
    line += c;
  }
}

void AppendField(std::string& line, absl::string_view key, absl::string_view value) {
  if (line.size() + key.size() + sizeof " =\"" + kReserve > kLineLimit) return;
  absl::StrAppend(&line, " ", key, "=");
  bool quote = NeedsQuotes(value);
  if (quote) line += '"';
  for (char c : value) {
    if (line.size() + sizeof "\\x00" + kReserve > kLineLimit) {
      line += kCut;
      break;
    }
    AppendEscaped(line, c);
  }
  if (quote) line += '"';
}

std::string Line(LogLevel level, absl::string_view message,
                 std::vector<std::pair<absl::string_view, absl::string_view>> fields) {
  std::string line;
  AppendTime(line);
  AppendField(line, "level", kLevelNames[static_cast<size_t>(level)]);
  AppendField(line, "msg", message);
  std::sort(fields.begin(), fields.end());
  for (const auto& [key, value] : fields) AppendField(line, key, value);
  line += '\n';
  return line;
}

bool Write(const std::string& line) {
  ssize_t n;
  do {
    n = write(state().sink.get(), line.data(), line.size());
  } while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(line.size());
}

}  // namespace

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  State& s = state();
  if (!s.sink || level < s.least) return;
  int saved_errno = errno;
  std::vector<std::pair<absl::string_view, absl::string_view>> sorted;
  for (const LogField& field : fields) sorted.emplace_back(field.key, field.value);
  if (!s.common_key.empty()) sorted.emplace_back(s.common_key, s.common_value);

  if (s.dropped_untold > 0) {
    std::string count = absl::StrCat(s.dropped_untold);
    if (Write(Line(LogLevel::kWarning, "log lines dropped", {{"count", count}})))
      s.dropped_untold = 0;
  }
  if (s.dropped_untold > 0 || !Write(Line(level, message, std::move(sorted)))) {
    ++s.dropped;
    ++s.dropped_untold;
  }
  errno = saved_errno;
}

void SetLogSink(UniqueFd sink) { state().sink = std::move(sink); }

void SetLogLevel(LogLevel least) { state().least = least; }

void SetLogCommonField(std::string key, std::string value) {
  state().common_key = std::move(key);
  state().common_value = std::move(value);
}

uint64_t DroppedLogLines() { return state().dropped; }

}  // namespace feather
