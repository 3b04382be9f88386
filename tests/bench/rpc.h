#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/base/unique_fd.h"

namespace feather::bench {

// A TTRPC client that does one thing at a time and blocks: what is measured is the peer. Throws
// where the connection ends, and where nothing has come for a minute.
class BlockingClient {
 public:
  // "unix://PATH".
  explicit BlockingClient(const std::string& address);

  // Whether the answer was no error.
  bool Call(const std::string& service, const std::string& method, const std::string& payload) {
    Send(service, method, payload);
    return Receive();
  }
  // For several calls in flight; answers come in any order.
  void Send(const std::string& service, const std::string& method, const std::string& payload);
  bool Receive();

 private:
  void ReadExactly(char* out, size_t size);

  UniqueFd socket_;
  uint32_t stream_ = 1;
  std::string buffer_;
};

// Exec requests, 32 at a time; each is an event, and nothing else happens.
void AddExecs(BlockingClient& client, const std::string& service,
              const std::vector<std::string>& requests);

// The address in what `start` has printed, in whichever format.
std::string AddressIn(const std::string& answer);

}  // namespace feather::bench
