#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace feather::ttrpc {

// The frame of ttrpc's PROTOCOL.md: a header of ten bytes (payload length and stream id, big
// endian; type; flags), then the payload. Nothing here does IO.

inline constexpr size_t kHeaderSize = 10;
inline constexpr size_t kMaxPayload = size_t{4} << 20;

// Not enums: unknown types and flags have to pass through.
inline constexpr uint8_t kRequest = 1;
inline constexpr uint8_t kResponse = 2;
inline constexpr uint8_t kData = 3;

inline constexpr uint8_t kRemoteClosed = 0x01;
inline constexpr uint8_t kRemoteOpen = 0x02;
inline constexpr uint8_t kNoData = 0x04;

struct FrameHeader {
  uint32_t length = 0;
  uint32_t stream = 0;
  uint8_t type = 0;
  uint8_t flags = 0;
};

struct Frame {
  FrameHeader header;
  // Empty when `oversize()`: such a payload is discarded as it arrives.
  std::string payload;

  bool oversize() const { return header.length > kMaxPayload; }
};

void EncodeHeader(const FrameHeader& header, char* out);
FrameHeader DecodeHeader(const char* in);
// Header and payload; the header's length is the payload's.
std::string EncodeFrame(uint32_t stream, uint8_t type, uint8_t flags, absl::string_view payload);

// What a frame with a payload of `length` bytes is answered: "message length N exceed …".
std::string OversizeText(size_t length);

// Cuts a byte stream into frames. Memory follows the bytes that have arrived, not the length that a
// header claims, and none is held between frames.
class FrameDecoder {
 public:
  // Takes all of `bytes` and appends the frames that they complete. A frame longer than the limit
  // is appended, without payload, once the last of its bytes has gone by.
  void Feed(absl::string_view bytes, std::vector<Frame>& frames);

  // For long payloads, to save a copy: where the next bytes of the stream may be read to directly
  // ({null, 0}: nowhere, use Feed), and how many were. Nothing else may be called between the two.
  std::pair<char*, size_t> PayloadSpace();
  void PayloadRead(size_t count, std::vector<Frame>& frames);

  // Some bytes of a frame have arrived, but not all.
  bool mid_frame() const { return header_size_ > 0; }

 private:
  size_t missing() const { return frame_.header.length - received_; }
  void FinishIfComplete(std::vector<Frame>& frames);

  std::array<char, kHeaderSize> header_{};
  size_t header_size_ = 0;
  Frame frame_;          // valid once the header is complete
  size_t received_ = 0;  // of the payload
};

}  // namespace feather::ttrpc
