#include "runtime/base/log.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <new>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace feather {
namespace {

using Fields = std::vector<std::pair<absl::string_view, absl::string_view>>;

struct State {
  UniqueFd sink;
  LogLevel least = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  std::string common_key;
  std::string common_value;
  uint64_t dropped = 0;
  uint64_t dropped_untold = 0;
  uint64_t problems = 0;
  std::deque<LoggedProblem> last_problems;
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

// Of what is kept of a problem.
constexpr size_t kKeptProblemSize = 512;

constexpr std::array<const char*, 5> kLevelNames = {"trace", "debug", "info", "warning", "error"};

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

void AppendFields(std::string& line, absl::string_view message, const Fields& fields) {
  AppendField(line, "msg", message);
  for (const auto& [key, value] : fields) AppendField(line, key, value);
}

std::string JsonLine(const std::string& time, LogLevel level, absl::string_view message,
                     const Fields& fields) {
  using Json = nlohmann::ordered_json;
  Json json = {{"time", time}, {"level", LogLevelName(level)}, {"msg", std::string(message)}};
  for (const auto& [key, value] : fields) json[std::string(key)] = std::string(value);
  while (true) {
    std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (line.size() < kLineLimit) return line + "\n";
    auto longest = std::max_element(json.begin(), json.end(), [](const Json& a, const Json& b) {
      return a.get_ref<const std::string&>().size() < b.get_ref<const std::string&>().size();
    });
    auto& value = longest->get_ref<std::string&>();
    value = value.substr(0, value.size() / 2) + kCut;
  }
}

std::string Line(LogLevel level, absl::string_view message, const Fields& fields) {
  const std::string time = UtcText(std::chrono::system_clock::now());
  if (state().format == LogFormat::kJson) return JsonLine(time, level, message, fields);
  std::string line = absl::StrCat("time=\"", time, "\"");
  AppendField(line, "level", LogLevelName(level));
  AppendFields(line, message, fields);
  line += '\n';
  return line;
}

void KeepProblem(LogLevel level, absl::string_view message, const Fields& fields) {
  State& s = state();
  ++s.problems;
  LoggedProblem problem{std::chrono::system_clock::now(), level, ""};
  AppendFields(problem.text, message, fields);
  problem.text.erase(0, 1);
  if (problem.text.size() > kKeptProblemSize) {
    problem.text.resize(kKeptProblemSize);
    problem.text += kCut;
  }
  if (s.last_problems.size() == kKeptProblems) s.last_problems.pop_front();
  s.last_problems.push_back(std::move(problem));
}

bool Write(const std::string& line) {
  ssize_t n;
  do {
    n = write(state().sink.get(), line.data(), line.size());
  } while (n < 0 && errno == EINTR);
  return n == static_cast<ssize_t>(line.size());
}

void LogLine(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields,
             bool problem, bool written) {
  State& s = state();
  Fields sorted;
  for (const LogField& field : fields) sorted.emplace_back(field.key, field.value);
  std::sort(sorted.begin(), sorted.end());
  if (problem) KeepProblem(level, message, sorted);
  if (written) {
    if (!s.common_key.empty())
      sorted.insert(
          std::upper_bound(sorted.begin(), sorted.end(), Fields::value_type(s.common_key, "")),
          {s.common_key, s.common_value});
    if (s.dropped_untold > 0) {
      std::string count = absl::StrCat(s.dropped_untold);
      if (Write(Line(LogLevel::kWarning, "log lines dropped", {{"count", count}})))
        s.dropped_untold = 0;
    }
    if (s.dropped_untold > 0 || !Write(Line(level, message, sorted))) {
      ++s.dropped;
      ++s.dropped_untold;
    }
  }
}

}  // namespace

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  State& s = state();
  const bool problem = level >= LogLevel::kWarning;
  const bool written = s.sink && level >= s.least;
  if (!problem && !written) return;
  int saved_errno = errno;
  try {
    LogLine(level, message, fields, problem, written);
  } catch (const std::bad_alloc&) {
    ++s.dropped;
    ++s.dropped_untold;
  }
  errno = saved_errno;
}

void SetLogSink(UniqueFd sink) { state().sink = std::move(sink); }

void SetLogLevel(LogLevel least) { state().least = least; }

void SetLogFormat(LogFormat format) { state().format = format; }

void SetLogCommonField(std::string key, std::string value) {
  state().common_key = std::move(key);
  state().common_value = std::move(value);
}

uint64_t DroppedLogLines() { return state().dropped; }

const std::deque<LoggedProblem>& LastProblems() { return state().last_problems; }

uint64_t ProblemCount() { return state().problems; }

// Without tzset, which gmtime would call and which reads /etc/localtime.
std::string UtcText(std::chrono::system_clock::time_point at, bool fraction) {
  using namespace std::chrono;
  auto day = floor<days>(at);
  year_month_day date(day);
  hh_mm_ss time(floor<nanoseconds>(at - day));
  std::array<char, 64> text;
  int n =
      snprintf(text.data(), text.size(), "%04d-%02u-%02uT%02d:%02d:%02d", int{date.year()},
               unsigned{date.month()}, unsigned{date.day()}, static_cast<int>(time.hours().count()),
               static_cast<int>(time.minutes().count()), static_cast<int>(time.seconds().count()));
  std::string result(text.data(), static_cast<size_t>(n));
  if (fraction)
    absl::StrAppend(&result, ".", absl::Dec(time.subseconds().count(), absl::kZeroPad9));
  return result + "Z";
}

const char* LogLevelName(LogLevel level) { return kLevelNames[static_cast<size_t>(level)]; }

}  // namespace feather
