#pragma once

#include <asio/io_context.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/unique_fd.h"

namespace feather::fuzz {

// A seed corpus written by code; a target may define this. `NAME_fuzz --seeds DIR` writes it into
// DIR (name and content) and ends; its test does so before it starts fuzzing.
std::vector<std::pair<std::string, std::string>> Seeds();

// What a peer sends, and its end. The first byte says in which pieces the rest arrives; what the
// other side sends meanwhile is read and thrown away.
void SendInPieces(asio::io_context& io, UniqueFd peer, const uint8_t* bytes, size_t size);

}  // namespace feather::fuzz
