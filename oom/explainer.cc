#include "oom/explainer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "oom/cgroupfs.h"
#include "oom/kernel_record.h"
#include "runtime/base/no_memory.h"

namespace feather::oom {
namespace {

// By now the line is there, unless the kernel was kept from writing it.
constexpr Clock::duration kSoon = std::chrono::milliseconds(10);

}  // namespace

Explainer::Explainer(asio::io_context& io, const std::string& directory, std::string limit_file,
                     const Beginning& beginning, Watch::OnExplained on_explained)
    : io_(io),
      directory_(directory),
      limit_file_(std::move(limit_file)),
      on_explained_(std::move(on_explained)),
      log_(std::in_place, directory, beginning.log.get()) {
  if (beginning.init != 0) processes_ = {beginning.init};
  ReadLimit();
}

void Explainer::SawProcesses(const std::vector<pid_t>& processes) noexcept {
  if (processes.empty()) return;
  // A container that is killed from again and again is never at rest.
  if (!following_ || before_.size() > LoggedKills::kMostKept) before_.clear();
  CatchNoMemory([&] {
    before_.insert(before_.end(), processes_.begin(), processes_.end());
    processes_ = processes;
  }).IgnoreError();
}

void Explainer::KillsCounted(const Counters& now, bool told) noexcept {
  counted_at_ = Clock::now();
  if (told) {
    Explain();
    CatchNoMemory([&] {
      ReadLimit();
      pending_ = Explanation{directory_, limit_, now, {}};
    }).IgnoreError();
  }
  Read();
  if (following_) return;
  following_ = CatchNoMemory([this] { Spawn(io_, Follow(shared_from_this())); }).ok();
}

Async<> Explainer::Follow(std::shared_ptr<Explainer> self) {
  Clock::duration left = kSoon;
  while (self->log_ && left > Clock::duration::zero()) {
    co_await SleepFor(left);
    if (!self->log_) co_return;
    self->Read();
    left = *self->counted_at_ + kPatience - Clock::now();
    if (left > Clock::duration::zero() || !self->read_counters_) continue;
    self->read_counters_();
    if (!self->log_) co_return;
    left = *self->counted_at_ + kPatience - Clock::now();
  }
  self->following_ = false;
  self->Explain();
  // The rest of a group.
  self->found_.clear();
}

void Explainer::End() noexcept {
  if (pending_) Read();
  Explain();
  log_.reset();
}

void Explainer::Drop() noexcept {
  pending_.reset();
  log_.reset();
}

void Explainer::Read() noexcept {
  if (!log_) return;
  CatchNoMemory([this] { TakeVictims(); }).IgnoreError();
  if (!found_.empty()) Explain();
}

void Explainer::TakeVictims() {
  log_->Read();
  std::erase_if(log_->named(), [this](LoggedKills::Named& kill) {
    if (!kill.counted) return false;
    Forget(kill.victim.pid);
    found_.push_back(std::move(kill.victim));
    return true;
  });
  for (LoggedKills::Unnamed& kill : log_->unnamed())
    if (Forget(kill.victim.pid)) found_.push_back(std::move(kill.victim));
  // Somebody else's.
  log_->unnamed().clear();
}

bool Explainer::Forget(pid_t pid) {
  return std::erase(processes_, pid) + std::erase(before_, pid) > 0;
}

void Explainer::ReadLimit() {
  const Content limit = ReadPath(absl::StrCat(directory_, "/", limit_file_));
  if (limit.error == 0) limit_ = std::string(absl::StripAsciiWhitespace(limit.text));
}

void Explainer::Explain() noexcept {
  if (!pending_) return;
  Explanation explanation = *std::exchange(pending_, std::nullopt);
  explanation.victims = std::exchange(found_, {});
  if (on_explained_) CatchNoMemory([&] { on_explained_(explanation); }).IgnoreError();
}

}  // namespace feather::oom
