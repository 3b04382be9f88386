#include "shim/ttrpc/frame.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace feather::ttrpc {
namespace {

// Below this a payload is copied out of the connection's read buffer.
constexpr size_t kDirectRead = 2048;
// The first piece of a long payload; each further one is as long as all that has arrived.
constexpr size_t kFirstPiece = 64 << 10;

void Put32(uint32_t value, char* out) {
  for (int i = 0; i < 4; ++i) out[i] = static_cast<char>(value >> (24 - 8 * i));
}

uint32_t Get32(const char* in) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(in[i]);
  return value;
}

}  // namespace

void EncodeHeader(const FrameHeader& header, char* out) {
  Put32(header.length, out);
  Put32(header.stream, out + 4);
  out[8] = static_cast<char>(header.type);
  out[9] = static_cast<char>(header.flags);
}

FrameHeader DecodeHeader(const char* in) {
  return {.length = Get32(in),
          .stream = Get32(in + 4),
          .type = static_cast<uint8_t>(in[8]),
          .flags = static_cast<uint8_t>(in[9])};
}

std::string EncodeFrame(uint32_t stream, uint8_t type, uint8_t flags, absl::string_view payload) {
  std::string bytes;
  bytes.reserve(kHeaderSize + payload.size());
  bytes.resize(kHeaderSize);
  EncodeHeader({.length = static_cast<uint32_t>(payload.size()),
                .stream = stream,
                .type = type,
                .flags = flags},
               bytes.data());
  bytes.append(payload.data(), payload.size());
  return bytes;
}

std::string OversizeText(size_t length) {
  return absl::StrCat("message length ", length, " exceed maximum message size of ", kMaxPayload);
}

void FrameDecoder::Feed(absl::string_view bytes, std::vector<Frame>& frames) {
  while (!bytes.empty()) {
    if (header_size_ < kHeaderSize) {
      size_t n = std::min(kHeaderSize - header_size_, bytes.size());
      memcpy(header_.data() + header_size_, bytes.data(), n);
      header_size_ += n;
      bytes.remove_prefix(n);
      if (header_size_ < kHeaderSize) return;
      frame_.header = DecodeHeader(header_.data());
    }
    size_t n = std::min(missing(), bytes.size());
    if (!frame_.oversize()) frame_.payload.append(bytes.data(), n);
    received_ += n;
    bytes.remove_prefix(n);
    FinishIfComplete(frames);
  }
}

std::pair<char*, size_t> FrameDecoder::PayloadSpace() {
  if (header_size_ < kHeaderSize || frame_.oversize() || missing() < kDirectRead) return {};
  size_t piece = std::min(missing(), std::max(kFirstPiece, received_));
  frame_.payload.resize(received_ + piece);
  return {frame_.payload.data() + received_, piece};
}

void FrameDecoder::PayloadRead(size_t count, std::vector<Frame>& frames) {
  received_ += count;
  frame_.payload.resize(received_);
  FinishIfComplete(frames);
}

void FrameDecoder::FinishIfComplete(std::vector<Frame>& frames) {
  if (missing() > 0) return;
  frames.push_back(std::move(frame_));
  frame_ = Frame();
  header_size_ = 0;
  received_ = 0;
}

}  // namespace feather::ttrpc
