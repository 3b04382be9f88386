#include "tests/fuzz/support.h"

#include <google/protobuf/stubs/logging.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "runtime/base/file.h"

// A target without seeds of its own.
__attribute__((weak)) std::vector<std::pair<std::string, std::string>> feather::fuzz::Seeds() {
  return {};
}

void feather::fuzz::SendInPieces(asio::io_context& io, UniqueFd peer, const uint8_t* bytes,
                                 size_t size) {
  const size_t piece = bytes[0] == 0 ? size : bytes[0];
  for (size_t at = 1; at < size; at += piece) {
    if (send(peer.get(), bytes + at, std::min(piece, size - at), MSG_NOSIGNAL) < 0) break;
    io.poll();
    char sent[4096];
    while (recv(peer.get(), sent, sizeof(sent), 0) > 0) {
    }
  }
  peer.Reset();
  io.poll();
}

// libFuzzer calls it before the first input.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  // protobuf reports every invalid string on stderr.
  google::protobuf::SetLogHandler(nullptr);
  if (*argc != 3 || strcmp((*argv)[1], "--seeds") != 0) return 0;
  for (const auto& [name, bytes] : feather::fuzz::Seeds()) {
    absl::Status written = feather::WriteFile(std::string((*argv)[2]) + "/" + name, bytes, 0644);
    if (!written.ok()) {
      fprintf(stderr, "%s\n", written.ToString().c_str());
      exit(1);
    }
  }
  exit(0);
}
