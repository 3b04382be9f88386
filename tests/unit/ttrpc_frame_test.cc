#include <gtest/gtest.h>

#include <cstring>

#include "shim/ttrpc/frame.h"

namespace feather::ttrpc {
namespace {

TEST(TtrpcFrame, TheHeaderIsTenBytesBigEndian) {
  std::string bytes = EncodeFrame(0x01020304, kData, kRemoteClosed | kNoData, "ab");
  EXPECT_EQ(bytes, std::string("\0\0\0\x02\x01\x02\x03\x04\x03\x05"
                               "ab",
                               12));
  FrameHeader header = DecodeHeader(bytes.data());
  EXPECT_EQ(header.length, 2u);
  EXPECT_EQ(header.stream, 0x01020304u);
  EXPECT_EQ(header.type, kData);
  EXPECT_EQ(header.flags, 5);
}

// Checklist: T1.
TEST(TtrpcFrame, DecodesTheSameFramesHoweverTheBytesAreCut) {
  std::string bytes = EncodeFrame(1, kRequest, 0, "hello") + EncodeFrame(3, kData, 4, "") +
                      EncodeFrame(5, 77, 0xff, std::string(3000, 'x'));
  for (size_t cut : {1, 2, 7, 10, 11, 100, 5000}) {
    FrameDecoder decoder;
    std::vector<Frame> frames;
    for (size_t i = 0; i < bytes.size(); i += cut)
      decoder.Feed(absl::string_view(bytes).substr(i, cut), frames);
    ASSERT_EQ(frames.size(), 3u) << cut;
    EXPECT_FALSE(decoder.mid_frame());
    EXPECT_EQ(frames[0].payload, "hello");
    EXPECT_EQ(frames[1].header.flags, kNoData);
    EXPECT_EQ(frames[2].header.type, 77);
    EXPECT_EQ(frames[2].payload, std::string(3000, 'x'));
  }
}

TEST(TtrpcFrame, AHeaderAloneIsMidFrame) {
  FrameDecoder decoder;
  std::vector<Frame> frames;
  decoder.Feed(std::string("\0\0\0\x01", 4), frames);
  EXPECT_TRUE(decoder.mid_frame());
  EXPECT_TRUE(frames.empty());
}

TEST(TtrpcFrame, ALongPayloadIsReadInPlaceInPiecesThatFollowWhatArrived) {
  std::string bytes = EncodeFrame(1, kRequest, 0, std::string(kMaxPayload, 'p'));
  FrameDecoder decoder;
  std::vector<Frame> frames;
  EXPECT_EQ(decoder.PayloadSpace().second, 0u);
  decoder.Feed(absl::string_view(bytes).substr(0, 100), frames);
  size_t at = 100;
  EXPECT_LE(decoder.PayloadSpace().second, size_t{128} << 10);
  decoder.PayloadRead(0, frames);
  while (at < bytes.size()) {
    auto [space, size] = decoder.PayloadSpace();
    if (size == 0) {
      decoder.Feed(absl::string_view(bytes).substr(at), frames);
      break;
    }
    ASSERT_LE(size, bytes.size() - at);
    size_t part = size / 2 + 1;
    memcpy(space, bytes.data() + at, part);
    decoder.PayloadRead(part, frames);
    at += part;
  }
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].payload.size(), kMaxPayload);
  EXPECT_EQ(frames[0].payload.find_first_not_of('p'), std::string::npos);
}

TEST(TtrpcFrame, AFrameAboveTheLimitIsDrainedWithoutItsPayload) {
  char header[kHeaderSize];
  EncodeHeader({.length = kMaxPayload + 1, .stream = 9, .type = kRequest, .flags = 0}, header);
  FrameDecoder decoder;
  std::vector<Frame> frames;
  decoder.Feed(absl::string_view(header, sizeof(header)), frames);
  EXPECT_EQ(decoder.PayloadSpace().second, 0u);
  std::string piece(kMaxPayload / 4, 'z');
  for (int i = 0; i < 4; ++i) decoder.Feed(piece, frames);
  EXPECT_TRUE(frames.empty());
  decoder.Feed("z" + EncodeFrame(11, kRequest, 0, "next"), frames);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_TRUE(frames[0].oversize());
  EXPECT_EQ(frames[0].payload, "");
  EXPECT_EQ(frames[1].payload, "next");
  EXPECT_EQ(OversizeText(kMaxPayload + 1),
            "message length 4194305 exceed maximum message size of 4194304");
}

}  // namespace
}  // namespace feather::ttrpc
