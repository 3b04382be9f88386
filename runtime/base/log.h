#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/base/unique_fd.h"

namespace feather {

enum class LogLevel { kTrace, kDebug, kInfo, kWarning, kError };

struct LogField {
  absl::string_view key;
  std::string value;
};

// One line in logrus' text format (time="…" level=… msg="…" key=value …), which is what containerd
// passes on from a bundle's `log` FIFO. A line goes out with one write(2); when the sink is full or
// nobody reads it, the line is dropped and counted, and the count is told with the next line that
// goes out. Nothing here blocks.
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
void SetLogCommonField(std::string key, std::string value);
uint64_t DroppedLogLines();

}  // namespace feather
