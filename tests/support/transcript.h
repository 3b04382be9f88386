#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/shim.h"

namespace feather::test {

// What a client saw of a shim in the course of a script, made comparable: what differs from run to
// run (pids, times, the test's directory, inode numbers) is replaced by names, so that two shims
// that behave alike have equal transcripts.
class Transcript {
 public:
  explicit Transcript(FakeContainerd& ctrd);

  // A value under a label that is the same in every run. Labels may repeat.
  void Add(const std::string& label, std::string value);
  void Add(const std::string& label, const absl::Status& status);
  // "OK", or the error.
  template <typename T>
  void Add(const std::string& label, const absl::StatusOr<T>& result) {
    Add(label, result.status());
  }
  void AddState(const std::string& label, const absl::StatusOr<task::StateResponse>& state);
  void AddExit(const std::string& label, const absl::StatusOr<task::WaitResponse>& exit);
  void AddDelete(const std::string& label, const absl::StatusOr<task::DeleteResponse>& deleted);
  // Names, types, modes and contents of a bundle's files.
  void AddBundle(const std::string& label, const Container& container);
  // Every event in order, with all of its fields.
  void AddEvents();
  // A report that kViewScript has printed.
  void AddView(const std::string& label, const std::string& report);

  // From now on `pid` is written as $`name`.
  void NamePid(uint32_t pid, const std::string& name);

  struct Line {
    std::string label;
    std::string value;
  };
  const std::vector<Line>& lines() const { return lines_; }

 private:
  std::string Normalize(std::string text) const;
  std::string PidName(uint32_t pid) const;

  FakeContainerd& ctrd_;
  std::vector<std::pair<std::string, std::string>> names_;  // text, its replacement
  std::vector<std::pair<uint32_t, std::string>> pids_;
  std::vector<Line> lines_;
};

// A shell script that prints everything a process sees of itself.
extern const char kViewScript[];

// One difference between two transcripts; an absent line is empty.
struct Difference {
  std::string label;
  std::string ours;
  std::string theirs;
};
// Lines are matched by label, and in order where a label repeats.
std::vector<Difference> Compare(const Transcript& ours, const Transcript& theirs);

}  // namespace feather::test
