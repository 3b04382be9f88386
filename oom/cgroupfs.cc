#include "oom/cgroupfs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {

void ForEachKey(absl::string_view text,
                const std::function<void(absl::string_view, uint64_t)>& visit) {
  while (!text.empty()) {
    absl::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    size_t space = line.find(' ');
    uint64_t value = 0;
    if (space != line.npos && absl::SimpleAtoi(line.substr(space + 1), &value))
      visit(line.substr(0, space), value);
  }
}

Counters ParseCounters(absl::string_view text) {
  Counters counters;
  ForEachKey(text, [&counters](absl::string_view key, uint64_t value) {
    if (key == "low") counters.low = value;
    if (key == "high") counters.high = value;
    if (key == "max") counters.max = value;
    if (key == "oom") counters.oom = value;
    if (key == "oom_kill") counters.oom_kill = value;
    if (key == "oom_group_kill") counters.oom_group_kill = value;
  });
  return counters;
}

bool IsShortage(int error) { return error == EMFILE || error == ENFILE || error == ENOMEM; }

Content ReadAgain(int fd) {
  // One read: the kernel renders the file under one call, and it is never near this size.
  std::array<char, 1024> buffer;
  ssize_t n = 0;
  do {
    n = pread(fd, buffer.data(), buffer.size(), 0);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return {errno, {}};
  return {0, std::string(buffer.data(), static_cast<size_t>(n))};
}

Content ReadPath(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return {errno, {}};
  return ReadAgain(fd.get());
}

std::string NameInHierarchy(const std::string& directory) {
  struct stat here {};
  if (stat(directory.c_str(), &here) != 0) return "";
  size_t end = directory.size();
  while (end > 0) {
    const size_t slash = directory.rfind('/', end - 1);
    struct stat above {};
    if (slash == std::string::npos || slash == 0 ||
        stat(directory.substr(0, slash).c_str(), &above) != 0 || above.st_dev != here.st_dev)
      break;
    end = slash;
  }
  return directory.substr(end);
}

std::vector<pid_t> Processes(const std::string& directory) {
  constexpr size_t kMost = 64;
  std::vector<pid_t> pids;
  const Content procs = ReadPath(absl::StrCat(directory, "/cgroup.procs"));
  for (absl::string_view line : absl::StrSplit(procs.text, '\n', absl::SkipEmpty())) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(line, &pid) && pids.size() < kMost) pids.push_back(pid);
  }
  return pids;
}

std::vector<std::string> Children(const std::string& directory) {
  return ListNames(directory, /*directories=*/true).value_or(std::vector<std::string>());
}

}  // namespace feather::oom
