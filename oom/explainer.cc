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

constexpr size_t kMostNamed = 256;

}  // namespace

Explainer::Explainer(asio::io_context& io, const std::string& directory, std::string limit_file,
                     Watch::OnExplained on_explained)
    : io_(io),
      directory_(directory),
      limit_file_(std::move(limit_file)),
      on_explained_(std::move(on_explained)) {
  ReadLimit();
}

void Explainer::Counted(const Counters& now, bool rose, bool told,
                        std::vector<Victim> victims) noexcept {
  if (rose) counted_at_ = Clock::now();
  if (told) {
    Explain();
    CatchNoMemory([&] {
      ReadLimit();
      pending_ = Explanation{directory_, limit_, now, {}};
    }).IgnoreError();
  }
  // A container that is killed from again and again is never at rest.
  if (named_.size() > kMostNamed) named_.clear();
  CatchNoMemory([&] {
    for (Victim& victim : victims) {
      // The log has a group's first victim twice.
      if (std::find(named_.begin(), named_.end(), victim.pid) != named_.end()) continue;
      named_.push_back(victim.pid);
      found_.push_back(std::move(victim));
    }
  }).IgnoreError();
  if (!found_.empty()) Explain();
  if (rose && !following_)
    following_ = CatchNoMemory([this] { Spawn(io_, Follow(shared_from_this())); }).ok();
  if (following_) return;
  found_.clear();
  named_.clear();
}

Async<> Explainer::Follow(std::shared_ptr<Explainer> self) {
  Clock::duration left = kSoon;
  while (!self->ended_ && left > Clock::duration::zero()) {
    co_await SleepFor(left);
    if (!self->ended_ && self->read_counters_) self->read_counters_();
    left = *self->counted_at_ + kPatience - Clock::now();
  }
  self->following_ = false;
  self->Explain();
  // The rest of a group.
  self->found_.clear();
  self->named_.clear();
}

void Explainer::End() noexcept {
  Explain();
  ended_ = true;
}

void Explainer::Drop() noexcept {
  pending_.reset();
  ended_ = true;
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
