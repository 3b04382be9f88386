// The codec: however the bytes are cut, the same frames come out, by both ways of reading.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "runtime/base/utf8.h"
#include "shim/ttrpc/frame.h"
#include "tests/fuzz/support.h"

namespace feather {

std::vector<std::pair<std::string, std::string>> fuzz::Seeds() {
  return {{"two", "\x08" + ttrpc::EncodeFrame(1, 1, 0, "hello") + ttrpc::EncodeFrame(3, 3, 5, "")},
          {"long", "\x80" + ttrpc::EncodeFrame(1, 2, 0, std::string(3000, 'x'))}};
}

}  // namespace feather

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using feather::ttrpc::Frame;
  if (size < 1) return 0;
  absl::string_view rest(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  size_t piece = std::max<size_t>(bytes[0], 1);

  std::vector<Frame> whole;
  feather::ttrpc::FrameDecoder at_once;
  at_once.Feed(rest, whole);

  std::vector<Frame> cut;
  feather::ttrpc::FrameDecoder in_pieces;
  while (!rest.empty()) {
    auto [space, room] = in_pieces.PayloadSpace();
    size_t n = std::min(rest.size(), room == 0 ? piece : std::min(room, 16 * piece));
    if (room == 0) {
      in_pieces.Feed(rest.substr(0, n), cut);
    } else {
      memcpy(space, rest.data(), n);
      in_pieces.PayloadRead(n, cut);
    }
    rest.remove_prefix(n);
  }
  if (whole.size() != cut.size() || at_once.mid_frame() != in_pieces.mid_frame()) abort();
  for (size_t i = 0; i < whole.size(); ++i) {
    if (whole[i].header.stream != cut[i].header.stream || whole[i].payload != cut[i].payload)
      abort();
    std::string text = feather::ValidUtf8(whole[i].payload);
    if (feather::ValidUtf8(text) != text) abort();
  }
  return 0;
}
