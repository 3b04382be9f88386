#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <memory>
#include <string>

#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "runtime/reaper.h"

namespace feather {

// One output of a process that is appended to a regular file. A child process does it: the file may
// be on a file system that hangs, and a write to it cannot be waited for in any other way.
//
// Order: Start, then the others at any time.
class FileOutput : public std::enable_shared_from_this<FileOutput> {
 public:
  FileOutput() = default;
  FileOutput(const FileOutput&) = delete;
  FileOutput& operator=(const FileOutput&) = delete;

  // `pipe`: the reading end; `handle`: an O_PATH descriptor of the file, `path` its name for the
  // log.
  void Start(asio::io_context& io, Reaper& reaper, UniqueFd pipe, UniqueFd handle,
             std::string path);
  // Until everything has been written and nobody holds the pipe's other end; false if `deadline`
  // passes first.
  Async<bool> WaitForEnd(Clock::time_point deadline) { return ended_.WaitUntil(deadline); }
  // Ends the child, and waits for that unless it hangs.
  Async<> Close();

 private:
  static Async<> Run(std::shared_ptr<FileOutput> self, Reaper* reaper, UniqueFd pipe,
                     UniqueFd handle, std::string path);

  pid_t child_ = 0;
  bool closed_ = false;
  Event ended_;
};

}  // namespace feather
