#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/async.h"
#include "runtime/reaper.h"

namespace feather::fuzz {

// In the place of the OCI runtime, the streams, the mounts, the reaper and the clock for pauses,
// linked instead of them: what they answer, and when, is the input's to say. Nothing outside of the
// bundles is touched, and there are no processes: the pids are none that a kernel gives.
struct FakeContainers {
  explicit FakeContainers(asio::io_context& context) : io(context) {}
  ~FakeContainers();

  // The commands of the runtime that are under way end, and the next ones do at once.
  void Release();
  // From now on they wait for Release.
  void Hold();
  // The process ends, if it has not.
  void Exit(size_t process, uint32_t status);

  // The one of the input that is being run.
  static FakeContainers* current;

  asio::io_context& io;
  std::shared_ptr<Event> gate;  // null: open
  bool fail_next = false;
  bool no_pid_file = false;
  std::vector<pid_t> processes;
  std::map<pid_t, std::vector<Reaper::Callback>> watched;
  std::map<pid_t, feather::Exit> exits;
  std::vector<std::string> pid_files;
};

}  // namespace feather::fuzz
