#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/base/unique_fd.h"

namespace feather {

enum class LogLevel { kTrace, kDebug, kInfo, kWarning, kError };

// kText: time="…" level=… msg="…" key=value …; kJson: an object of the same members. Both are
// logrus' own, which containerd passes on from a bundle's `log` FIFO.
enum class LogFormat { kText, kJson };

struct LogField {
  absl::string_view key;
  std::string value;
};

// One line. It goes out with one write(2); when the sink is full or nobody reads it, the line is
// dropped and counted, and the count is told with the next line that goes out; so is one for which
// there is no memory. Nothing here blocks.
void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

inline void LogDebug(absl::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kDebug, m, f);
}
inline void LogInfo(absl::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kInfo, m, f);
}
inline void LogWarning(absl::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kWarning, m, f);
}
inline void LogError(absl::string_view m, std::initializer_list<LogField> f = {}) {
  Log(LogLevel::kError, m, f);
}

// Where lines go (until then: nowhere), the least level that is written, and a field that every
// line carries (empty key: none). The descriptor must be non-blocking.
void SetLogSink(UniqueFd sink);
void SetLogLevel(LogLevel least);
void SetLogFormat(LogFormat format);
void SetLogCommonField(std::string key, std::string value);
uint64_t DroppedLogLines();

// A line of level warning or error, kept whether or not the sink took it.
struct LoggedProblem {
  std::chrono::system_clock::time_point at;
  LogLevel level;
  std::string text;  // msg="…" key=value …, without the common field
};
// The last kKeptProblems of them, oldest first, and how many there were.
inline constexpr size_t kKeptProblems = 8;
const std::deque<LoggedProblem>& LastProblems();
uint64_t ProblemCount();

// "2026-01-31T23:59:59.123456789Z" (RFC 3339), or with whole seconds only.
std::string UtcText(std::chrono::system_clock::time_point time, bool fraction = true);
const char* LogLevelName(LogLevel level);

}  // namespace feather
