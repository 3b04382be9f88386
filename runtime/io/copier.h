#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/base/async.h"
#include "runtime/io/fifo.h"

namespace feather {

// Moves bytes in one direction, from a non-blocking source to a non-blocking sink, in order and
// without loss; a sink that is full stops the reading of the source. Between two pipes pages are
// moved with splice(2); what is shorter than a page is read and written, since a spliced piece
// takes a whole slot of the receiving pipe. Nothing is buffered while there is nothing to move.
//
// Owns neither the meaning of the two ends nor their closing: Run returns when the copying has
// ended, whoever started it closes what is to be closed.
class Copier : public std::enable_shared_from_this<Copier> {
 public:
  struct Options {
    // The source is a terminal's master: EIO and end of file say that no process has the terminal
    // open at the moment (tty_ioctl(4)); the source ends only by EndWhenEmpty.
    bool from_terminal = false;
    // The sink is a terminal's master: EIO is a sink that takes nothing now.
    bool to_terminal = false;
  };

  Copier(asio::io_context& io, DescriptorPtr source, DescriptorPtr sink, Options options);
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Until the source ends, an end fails, or Stop. Once.
  Async<> Run();

  // Moves what can be moved at this moment, before Run has its next turn.
  void MoveNow();
  // From now on a source that has nothing to read is at its end.
  void EndWhenEmpty();
  // Ends Run without moving anything more; what is awaited on the descriptors is cancelled by
  // their closing, which is the caller's.
  void Stop();

  // errno of the end that failed, 0 if the source ended.
  int error() const { return error_; }

 private:
  // What has to happen before more can be moved.
  enum class Next { kNothing, kReadable, kWritable, kEnd };

  Next MoveAvailable();
  Next MovePages();
  Next MoveBytes();
  // Writes `data`; what the sink does not take now is left in `pending_`.
  Next Write(absl::string_view data);
  Next Fail(int error);
  Async<> WaitFor(Next next);

  DescriptorPtr source_;
  DescriptorPtr sink_;
  const Options options_;
  const bool pipes_;
  asio::steady_timer pause_;

  bool pages_ = false;  // the last piece was a page or more: splice the next
  bool end_when_empty_ = false;
  bool stopped_ = false;
  size_t moved_ = 0;     // in this turn
  int stalled_ = 0;      // turns in a row that moved nothing
  std::string pending_;  // read, and not yet taken by the sink
  int error_ = 0;
};

}  // namespace feather
