#pragma once

#include <asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "runtime/io/copier.h"
#include "runtime/io/fifo.h"

namespace feather {

// One output of a process, from its pipe or terminal to where the client wants it: a FIFO, a file
// or a logger's pipe. Owns both ends from Start on.
//
// While it copies to a FIFO it holds a reading end of its own, so that a client may go and another
// come without EPIPE or loss: meanwhile the FIFO fills up, then the process' pipe, then the process
// waits. At the source's end that reading end is closed first. If a client reads then, the writing
// end is closed too and the client reads EOF; if none does, the writing end stays, and with it what
// is unread, until somebody has opened the FIFO or nobody needs to be waited for any more.
//
// Order: one of the Open calls, Start, then the others at any time. Close may come at any time.
class OutputStream : public std::enable_shared_from_this<OutputStream> {
 public:
  explicit OutputStream(asio::io_context& io) : io_(io) {}
  OutputStream(const OutputStream&) = delete;
  OutputStream& operator=(const OutputStream&) = delete;

  // `handle` is an O_PATH descriptor of `path`. A FIFO is opened when a client reads it; anything
  // else is appended to.
  Async<absl::Status> OpenPath(UniqueFd handle, std::string path, Clock::time_point deadline);
  // OpenPath, now or later, tries once.
  void GiveUpOpening() { given_up_.Set(); }
  // A pipe's writing end that is this stream's alone, non-blocking.
  absl::Status OpenPipe(UniqueFd pipe);

  void Start(DescriptorPtr source, bool terminal);

  // What the process has written goes to the client now, as far as that takes it.
  void MoveNow() {
    if (copier_) copier_->MoveNow();
  }
  // A terminal's output: what is readable now is the last.
  void EndWhenEmpty();
  // Nobody is to be waited for after the end of the source.
  void Abandon();
  // False if the end of the stream has not come by `deadline`.
  Async<bool> WaitForEnd(Clock::time_point deadline);
  // Closes everything and returns when nothing of the stream runs any more.
  Async<> Close();

 private:
  static Async<> Run(std::shared_ptr<OutputStream> self);
  Async<> WaitForClient();

  asio::io_context& io_;
  std::string path_;
  DescriptorPtr source_;
  DescriptorPtr sink_;
  UniqueFd own_reader_;
  std::shared_ptr<Copier> copier_;
  Event given_up_;
  Event abandoned_;
  Event closed_;
  Event done_;
};

// A process' stdin, from the client's FIFO to its pipe or terminal. Holds a writing end of the FIFO
// of its own, so that a client may go and come back: stdin ends when that is closed by CloseWriter
// and the client has closed its end too.
class InputStream : public std::enable_shared_from_this<InputStream> {
 public:
  explicit InputStream(asio::io_context& io) : io_(io) {}
  InputStream(const InputStream&) = delete;
  InputStream& operator=(const InputStream&) = delete;

  // Never waits. Something else than a FIFO is read to its end.
  absl::Status OpenPath(UniqueFd handle, const std::string& path);
  // Copies until stdin has ended, then closes the client's FIFO, and the sink unless it is a
  // terminal, and calls `ended` (which may be empty).
  void Start(DescriptorPtr sink, bool terminal, std::function<void()> ended);

  // Idempotent; may come before OpenPath.
  void CloseWriter();
  // Closes everything and returns when nothing of the stream runs any more.
  Async<> Close();

 private:
  static Async<> Run(std::shared_ptr<InputStream> self);

  asio::io_context& io_;
  std::string path_;
  DescriptorPtr source_;
  DescriptorPtr sink_;
  UniqueFd own_writer_;
  bool writer_closed_ = false;
  bool terminal_ = false;
  std::function<void()> ended_;
  std::shared_ptr<Copier> copier_;
  Event done_;
};

}  // namespace feather
