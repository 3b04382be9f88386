#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/io/stdio.h"
#include "runtime/reaper.h"
#include "tests/support/shim_fifo.h"
#include "tests/support/shim_loop.h"

namespace feather::test {

// What /proc/self/fd shows: descriptor and what it refers to.
std::map<int, std::string> OpenDescriptors();

// A test of one process' standard streams: a directory, a loop, a reaper, and real child processes
// in the place of the container. At the end no descriptor may be open that was not before, and the
// directory's console sockets must be gone.
class StdioTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  asio::io_context& io() { return loop_.io(); }
  bool RunUntil(const std::function<bool()>& done) { return loop_.RunUntil(done); }

  // Runs the loop until `work` has ended.
  template <typename T>
  T Await(Async<T> work) {
    auto result = std::make_shared<std::optional<T>>();
    Spawn(io(), Keep(std::move(work), result));
    if (!RunUntil([&result] { return result->has_value(); })) ADD_FAILURE() << "never ended";
    return std::move(**result);
  }
  void Await(Async<> work) { Await(Done(std::move(work))); }

  // Whether there comes a time at which the loop has nothing to do for a fifth of a second.
  bool BecomesQuiet();

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  std::string Fifo(const std::string& name);
  void WriteScript(const std::string& name, const std::string& text);
  std::string Read(const std::string& name) const;

  static StdioRequest Streams(std::string in, std::string out, std::string err) {
    return StdioRequest{std::move(in), std::move(out), std::move(err), false};
  }
  absl::StatusOr<std::shared_ptr<Stdio>> TryPrepare(StdioRequest request,
                                                    StdioLimits limits = StdioLimits());
  // Fails the test unless it succeeds.
  std::shared_ptr<Stdio> Prepare(StdioRequest request, StdioLimits limits = StdioLimits());

  // A process of /bin/sh on the streams, or on /dev/null, with `more` descriptors.
  pid_t Shell(const std::string& script, const std::array<int, 3>& fds,
              std::vector<std::pair<int, int>> more = {});
  // The container's first process; then, as after the runtime's return, Attach.
  pid_t StartContainer(Stdio& stdio, const std::string& script);
  // Exit status of a process that Shell has started.
  uint32_t WaitFor(pid_t pid);

  // Drain and Close, as at Delete. Whether everything was handed over.
  bool Delete(Stdio& stdio, Clock::duration limit = std::chrono::seconds(60));

  Stdio::Owner owner_;
  std::string directory_;

 private:
  template <typename T>
  static Async<> Keep(Async<T> work, std::shared_ptr<std::optional<T>> result) {
    result->emplace(co_await std::move(work));
  }
  static Async<bool> Done(Async<> work) {
    co_await std::move(work);
    co_return true;
  }

  Loop loop_;
  std::unique_ptr<Reaper> reaper_;
  std::map<pid_t, std::shared_ptr<std::optional<uint32_t>>> exits_;
  std::map<int, std::string> before_;
};

}  // namespace feather::test
