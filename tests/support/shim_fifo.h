#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace asio {
class io_context;
}

namespace feather::test {

// The client's ends of a task's standard streams. They work while the test's io_context runs.

// Makes a FIFO as containerd does (mode 0700).
void MakeFifo(const std::string& path);

// Reads a FIFO from when it is opened until EOF.
class FifoReader {
 public:
  // With `keep` it is open for writing too, as containerd has a bundle's `log`: it never ends.
  FifoReader(asio::io_context& io, std::string path, bool keep = false);
  FifoReader(const FifoReader&) = delete;
  FifoReader& operator=(const FifoReader&) = delete;
  ~FifoReader();

  // As a client that dies: closes without having seen the end.
  void Close();
  // A client that comes (back).
  void Open();
  // While paused nothing is read, so that the writer sees a full FIFO.
  void Pause();
  void Resume();

  const std::string& path() const { return path_; }
  // What was read, over all openings.
  const std::string& data() const;
  bool eof() const;
  // Bytes read; with Discard(true) they are counted but not kept.
  size_t size() const;
  void Discard(bool discard);

 private:
  struct State;
  asio::io_context& io_;
  std::string path_;
  bool keep_;
  std::shared_ptr<State> state_;
};

// Writes into a FIFO as soon as somebody reads it.
class FifoWriter {
 public:
  FifoWriter(asio::io_context& io, std::string path);
  FifoWriter(const FifoWriter&) = delete;
  FifoWriter& operator=(const FifoWriter&) = delete;
  ~FifoWriter();

  void Write(absl::string_view data);
  // Closes once everything is written.
  void Close();
  bool closed() const;
  const std::string& path() const { return path_; }

 private:
  struct State;
  std::string path_;
  std::shared_ptr<State> state_;
};

}  // namespace feather::test
