#include "oom/kernel_log.h"

#include <unistd.h>

#include <cstdint>
#include <new>
#include <set>

#include "oom/kernel_record.h"
#include "runtime/base/unique_fd.h"

namespace feather::oom {

// The descriptor, and who hears what is read from it.
class KernelLogListener::Log {
 public:
  static std::shared_ptr<Log> Join(KernelLogListener* listener) {
    static std::weak_ptr<Log> shared;
    std::shared_ptr<Log> log = shared.lock();
    if (!log) shared = log = std::make_shared<Log>();
    // What was written before is the others', if anybody's.
    log->Read();
    log->listeners_.insert(listener);
    return log;
  }

  void Leave(KernelLogListener* listener) { listeners_.erase(listener); }

  void Read() {
    // Again, if there was no descriptor for it before.
    if (!file_ && (file_ = OpenKernelLog())) lseek(file_.get(), 0, SEEK_END);
    ReadRecords(file_, [this](absl::string_view text) {
      const auto record = ParseRecord(text);
      if (!record) return;
      if (next_ != 0 && record->sequence != next_) Tell("");
      next_ = record->sequence + 1;
      if (!record->text.empty()) Tell(record->text);
    });
  }

 private:
  void Tell(absl::string_view line) {
    for (KernelLogListener* listener : listeners_) {
      try {
        listener->Hear(line);
      } catch (const std::bad_alloc&) {
      }
    }
  }

  UniqueFd file_;
  uint64_t next_ = 0;  // the sequence number of the next record; 0: not known yet
  std::set<KernelLogListener*> listeners_;
};

KernelLogListener::~KernelLogListener() {
  if (log_) log_->Leave(this);
}

void KernelLogListener::Listen() { log_ = Log::Join(this); }

void KernelLogListener::Read() {
  if (log_) log_->Read();
}

void KernelLogMark::Hear(absl::string_view line) {
  const auto victim = ParseVictim(line);
  if (!line.empty() && !victim && !ParseChoice(line, "")) return;
  // What follows the name is of no use.
  if (const size_t end = line.rfind(kAfterName); victim && end != line.npos)
    line = line.substr(0, end + kAfterName.size());
  if (lines_.size() == kMostKept) lines_.pop_front();
  lines_.emplace_back(line);
}

}  // namespace feather::oom
