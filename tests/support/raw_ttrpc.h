#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "shim/ttrpc/frame.h"

namespace feather::test {

// A TTRPC peer that speaks in raw bytes, on one end of a stream socket. Reading and writing run
// beside the loop under test: each call waits for its socket and lets the loop go on.
class RawPeer {
 public:
  RawPeer(asio::io_context& io, UniqueFd fd) : io_(&io), fd_(std::move(fd)) {}
  static RawPeer Connect(asio::io_context& io, const std::string& path);

  int fd() const { return fd_.get(); }
  void Close() { fd_.Reset(); }
  void Write(absl::string_view bytes);
  void WriteFrame(uint32_t stream, uint8_t type, uint8_t flags, absl::string_view payload) {
    Write(ttrpc::EncodeFrame(stream, type, flags, payload));
  }
  void WriteRequest(uint32_t stream, const std::string& service, const std::string& method,
                    const std::string& payload, int64_t timeout_nano = 0, uint8_t flags = 0);
  // nullopt when the connection ended first.
  std::optional<ttrpc::Frame> ReadFrame();
  // The next frame, which has to be a response on that stream.
  ::ttrpc::Response ReadResponse(uint32_t stream);
  // "CODE MESSAGE" of the next frame's status.
  std::string ReadStatus(uint32_t stream);
  // True when the peer closes without a further byte.
  bool ReadsEof();

 private:
  bool ReadExactly(char* out, size_t size);
  void Step();

  asio::io_context* io_;
  UniqueFd fd_;
};

std::string MakeRequest(const std::string& service, const std::string& method,
                        const std::string& payload, int64_t timeout_nano = 0);

}  // namespace feather::test
