#include "oom/siblings.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "oom/cgroupfs.h"

namespace feather::oom {
namespace {

constexpr int kAttempts = 3;

// Between two readings of n siblings: n times n times this. To read one takes some 20 µs, so that
// the watches of all n take a tenth of a processor together.
constexpr auto kPause = std::chrono::microseconds(200);

std::optional<uint64_t> OomKills(const std::string& directory) {
  Content events = ReadPath(absl::StrCat(directory, "/memory.events"));
  if (events.error != 0) return std::nullopt;
  return ParseCounters(events.text).oom_kill;
}

}  // namespace

Siblings::Siblings(const std::string& directory)
    : parent_(directory.substr(0, directory.rfind('/'))),
      name_(directory.substr(directory.rfind('/') + 1)) {}

void Siblings::Remember(uint64_t parent, Clock::time_point now) {
  // What the parent has not counted has not happened in any of its children.
  if (remembered_ && parent == remembered_->parent) return;
  ++left_out_;
  if (now < next_) return;
  std::optional<Reading> reading = ReadAll();
  if (reading && reading->children.contains(name_)) {
    remembered_ = std::move(reading);
    left_out_ = 0;
  }
  const auto count = static_cast<int64_t>(remembered_ ? remembered_->children.size() : 0);
  next_ = now + count * count * kPause;
}

std::optional<uint64_t> Siblings::LastCount() {
  if (!remembered_) return std::nullopt;
  const uint64_t own = remembered_->children.at(name_);
  std::optional<Reading> now = ReadAll();
  if (!now) return std::nullopt;
  if (now->parent <= remembered_->parent) return own;
  uint64_t kills = now->parent - remembered_->parent;
  for (const auto& [name, before] : remembered_->children) {
    if (name == name_) continue;
    auto found = now->children.find(name);
    if (found == now->children.end() || found->second < before) return std::nullopt;
    kills -= std::min(kills, found->second - before);
    now->children.erase(found);
  }
  // What is left is new since; a cgroup made again under this one's name counts among them.
  for (const auto& [name, count] : now->children) kills -= std::min(kills, count);
  // The last Remember is no doubt: what it left out was read here.
  if (kills > 0 && left_out_ > 1) return std::nullopt;
  return own + kills;
}

std::optional<Siblings::Reading> Siblings::ReadAll() const {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::optional<uint64_t> before = OomKills(parent_);
    if (!before) return std::nullopt;
    Reading reading{*before, {}};
    for (std::string& name : Children(parent_)) {
      std::optional<uint64_t> count = OomKills(absl::StrCat(parent_, "/", name));
      if (count) reading.children.emplace(std::move(name), *count);
    }
    if (OomKills(parent_) == before) return reading;
  }
  return std::nullopt;
}

}  // namespace feather::oom
