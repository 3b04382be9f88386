#include "oom/explainer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "oom/cgroupfs.h"
#include "oom/kernel_record.h"

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
      log_(directory, beginning.at) {
  if (beginning.init != 0) log_.SawProcesses({beginning.init});
  ReadLimit();
}

void Explainer::KillsCounted(const Counters& now, bool told) {
  counted_at_ = Clock::now();
  if (told) {
    Explain();
    ReadLimit();
    pending_ = Explanation{directory_, limit_, now, {}};
  }
  Read();
  if (!std::exchange(following_, true)) Spawn(io_, Follow(shared_from_this()));
}

Async<> Explainer::Follow(std::shared_ptr<Explainer> self) {
  Clock::duration left = kSoon;
  while (!self->ended_ && left > Clock::duration::zero()) {
    co_await SleepFor(left);
    if (self->ended_) co_return;
    self->Read();
    left = *self->counted_at_ + kPatience - Clock::now();
    if (left > Clock::duration::zero() || !self->read_counters_) continue;
    self->read_counters_();
    if (self->ended_) co_return;
    left = *self->counted_at_ + kPatience - Clock::now();
  }
  self->following_ = false;
  self->log_.Close();
  self->Explain();
  // The rest of a group.
  self->found_.clear();
}

void Explainer::End() {
  if (pending_) Read();
  Explain();
  log_.Close();
  ended_ = true;
}

void Explainer::Drop() {
  pending_.reset();
  log_.Close();
  ended_ = true;
}

void Explainer::Read() {
  log_.Read();
  std::vector<Victim> victims = log_.Take();
  std::move(victims.begin(), victims.end(), std::back_inserter(found_));
  if (!found_.empty()) Explain();
}

void Explainer::ReadLimit() {
  const Content limit = ReadPath(absl::StrCat(directory_, "/", limit_file_));
  if (limit.error == 0) limit_ = std::string(absl::StripAsciiWhitespace(limit.text));
}

void Explainer::Explain() {
  if (!pending_) return;
  Explanation explanation = *std::exchange(pending_, std::nullopt);
  explanation.victims = std::exchange(found_, {});
  if (on_explained_) on_explained_(explanation);
}

}  // namespace feather::oom
