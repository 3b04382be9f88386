#pragma once

#include <asio/io_context.hpp>
#include <asio/local/stream_protocol.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "shim/ttrpc/frame.h"
#include "shim/ttrpc/inbox.h"

namespace google::protobuf {
class MessageLite;
}

namespace feather::ttrpc {

// What client and server have in common: a connected stream socket, frames in and out. A reader
// runs from Start to the end of the connection and holds a reference to it. Frames go out in the
// order of Send; a writer runs only while the socket does not take them at once, so an idle
// connection holds no buffer but the reader's small one.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // While more than this waits to be written, nothing more is read: who does not read its answers
  // gets no further requests served.
  static constexpr size_t kMaxQueued = size_t{1} << 20;

  Connection(asio::io_context& io, UniqueFd socket);
  virtual ~Connection() = default;

  void Start();
  // Ends the connection at once; what is not written is lost. Sets `gone` and calls OnClosed, once.
  void Close();
  bool closed() const { return gone_->set(); }
  const std::shared_ptr<Event>& gone() const { return gone_; }

  // Nothing happens on a closed connection. The payload must not exceed kMaxPayload.
  void Send(uint32_t stream, uint8_t type, uint8_t flags, absl::string_view payload);
  void SendMessage(uint32_t stream, uint8_t type, uint8_t flags,
                   const google::protobuf::MessageLite& message);

  bool congested() const { return queued_ > kMaxQueued; }
  // Both return early when the connection ends; false: the deadline passed first.
  static Async<bool> WaitUncongested(std::shared_ptr<Connection> self,
                                     std::optional<Clock::time_point> deadline);
  static Async<bool> WaitWritten(std::shared_ptr<Connection> self,
                                 std::optional<Clock::time_point> deadline);

 protected:
  // Returns null when the frame was dealt with. Otherwise the inbox that it is for is full: the
  // reader waits, then delivers the frame again or calls OnOverflow.
  virtual std::shared_ptr<Inbox> OnFrame(Frame& frame) = 0;
  virtual void OnOverflow(uint32_t stream) = 0;
  virtual void OnClosed() = 0;

  asio::io_context& io_;

 private:
  static Async<> ReadOrClose(std::shared_ptr<Connection> self);
  static Async<> Read(std::shared_ptr<Connection> self);
  // Reads on until a frame is complete, if the rest has arrived: its pieces shall not cost a turn
  // of the loop each.
  void ReadRest(std::vector<Frame>& frames);
  static Async<> Deliver(std::shared_ptr<Connection> self, std::vector<Frame> frames);
  static Async<> Write(std::shared_ptr<Connection> self);
  void Enqueue(std::string bytes);
  void WriteSome();
  void Written(size_t count);
  static Async<bool> WaitQueue(std::shared_ptr<Connection> self, size_t most,
                               std::optional<Clock::time_point> deadline);

  asio::local::stream_protocol::socket socket_;
  std::shared_ptr<Event> gone_ = std::make_shared<Event>();
  FrameDecoder decoder_;

  std::vector<std::string> queue_;  // frames; written ones before head_ are empty
  size_t head_ = 0;
  size_t offset_ = 0;  // written of the frame at head_
  size_t queued_ = 0;  // bytes not written
  bool writing_ = false;
  std::shared_ptr<Event> progress_;  // while somebody waits for the queue to shrink
};

}  // namespace feather::ttrpc
