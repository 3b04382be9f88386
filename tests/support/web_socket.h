#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/subprocess.h"

namespace feather::test {

// A client of CRI's streams by WebSocket (RFC 6455), protocol "v4.channel.k8s.io": the first byte
// of each message is its channel. Of exec and attach: 0 standard input, 1 output, 2 error, 3 the
// end as JSON, 4 the terminal's size; of port-forward: 0 data and 1 errors of the first port, both
// beginning with its number in two bytes.
class WebSocket {
 public:
  // `url`: "http://ADDRESS:PORT/…" with a numeric IPv4 address.
  static absl::StatusOr<std::unique_ptr<WebSocket>> Open(const std::string& url);

  void Send(int channel, absl::string_view data);
  // Reads until `done`; false when the stream ends or the limit passes before.
  bool ReadUntil(const std::function<bool()>& done, Milliseconds limit = kProgramLimit);
  bool ReadToEnd(Milliseconds limit = kProgramLimit);

  // What has come so far.
  const std::string& channel(int number) const { return channels_[static_cast<size_t>(number)]; }

 private:
  absl::Status HandShake(const std::string& host, const std::string& path);
  // False at the end of the stream.
  bool ReadSome(Milliseconds limit);
  void TakeFrames();

  UniqueFd socket_;
  std::string unread_;
  bool ended_ = false;
  std::array<std::string, 5> channels_;
};

}  // namespace feather::test
