#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "runtime/base/unique_fd.h"

namespace feather::test {

using Milliseconds = std::chrono::milliseconds;

// Nothing in a test takes this long; a machine under load may take a while.
inline constexpr Milliseconds kProgramLimit{120'000};

// A program that a test runs, with its standard streams in the test's hands. The test is one
// thread: output is read while it waits for something. Dies with the test (PDEATHSIG) and with this
// object (SIGKILL).
class Subprocess {
 public:
  struct Options {
    std::vector<std::string> argv = {};
    // Empty: the test's own.
    std::vector<std::string> env = {};
    std::string working_directory = {};
    // A pseudo-terminal for all three streams, and as controlling terminal. Output is in out().
    bool terminal = false;
    // Standard input is a pipe that Send and CloseInput work on; otherwise /dev/null.
    bool input = false;
    // Both output streams are appended to this file instead of out() and err().
    std::string output_file = {};
  };

  explicit Subprocess(const Options& options);
  ~Subprocess();
  Subprocess(const Subprocess&) = delete;
  Subprocess& operator=(const Subprocess&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& out() const { return out_; }
  const std::string& err() const { return err_; }

  // Writes all of it, reading output meanwhile. False when the other side does not take it.
  bool Send(absl::string_view data, Milliseconds limit = kProgramLimit);
  void CloseInput() { input_.Reset(); }
  void Signal(int signal) const;
  // The terminal's size.
  void Resize(unsigned short columns, unsigned short rows) const;

  // Until `done` says so of out(). False when the limit passes or output ends before.
  bool WaitOutput(absl::FunctionRef<bool(const std::string&)> done,
                  Milliseconds limit = kProgramLimit);
  bool WaitOutput(absl::string_view text, Milliseconds limit = kProgramLimit);
  // Until the program has ended, with its output read to the end; the exit status as a shell gives
  // it. Nothing when the limit passes.
  std::optional<int> Wait(Milliseconds limit = kProgramLimit);

  // Feeds standard input from `produce` (0: the end, the input is closed) and hands standard output
  // to `consume` until its end. False when nothing moves for `limit`.
  bool Pump(absl::FunctionRef<size_t(char*, size_t)> produce,
            absl::FunctionRef<void(absl::string_view)> consume, Milliseconds limit = kProgramLimit);

 private:
  using TimePoint = std::chrono::steady_clock::time_point;
  // Reads what there is, waiting until `until` at most. False when both streams have ended.
  bool ReadSome(TimePoint until, bool want_write = false);
  void ReadInto(UniqueFd& fd, std::string& text);

  pid_t pid_ = -1;
  std::optional<int> status_;
  UniqueFd input_, output_, error_;
  std::string out_, err_;
};

struct CommandResult {
  // -1: did not end in time (it was killed).
  int code = -1;
  std::string out;
  std::string err;
};

CommandResult RunCommand(const Subprocess::Options& options, Milliseconds limit = kProgramLimit);

// Asks again and again, until it is true or the limit has passed.
bool Eventually(absl::FunctionRef<bool()> condition, Milliseconds limit = kProgramLimit);

}  // namespace feather::test
