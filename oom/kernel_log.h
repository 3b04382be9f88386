#pragma once

#include <deque>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace feather::oom {

// Hears the kernel's log (kernel_record.h) from a moment on: nothing from before is heard, by the
// log's own order, so that neither a clock nor a pid that is given anew can mislead.
//
// For that the log is kept open while there is a listener, by one descriptor for all of them (it
// costs the kernel 3 to 16 KiB), which nobody waits for: it wakes nobody. Where the log may not be
// read, nothing is ever heard.
class KernelLogListener {
 public:
  KernelLogListener(const KernelLogListener&) = delete;
  KernelLogListener& operator=(const KernelLogListener&) = delete;
  virtual ~KernelLogListener();

  // Lets every listener, not this one alone, hear what the log has by now. One read(2) if there is
  // nothing new on the whole machine.
  void Read();
  // A line of the kernel's; empty: lines were lost before the next. One for which there is no
  // memory is lost to this listener alone.
  virtual void Hear(absl::string_view line) = 0;

 protected:
  KernelLogListener() = default;
  // From here on. What there is by then is heard by those who listen already.
  void Listen();

 private:
  class Log;

  std::shared_ptr<Log> log_;
};

// A moment in the kernel's log: keeps what comes after it until it is known whose that is
// (LoggedKills). For a short time: what is killed elsewhere is kept, too.
class KernelLogMark : public KernelLogListener {
 public:
  KernelLogMark() { Listen(); }
  void Hear(absl::string_view line) override;
  const std::deque<std::string>& lines() const { return lines_; }

 private:
  // Those about OOM kills, as far as they are of use, and where lines were lost. Of kMostKept the
  // oldest goes: a group may have so many processes.
  static constexpr size_t kMostKept = 1024;

  std::deque<std::string> lines_;
};

}  // namespace feather::oom
