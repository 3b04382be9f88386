#pragma once

#include <gtest/gtest.h>

#include <asio/io_context.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "runtime/mount/mount.h"
#include "runtime/reaper.h"

namespace feather::test {

// A test that mounts for real: in a mount namespace that this program has for itself, with a tmpfs
// as its playground and an empty directory `rootfs()` in it. Afterwards nothing may be mounted but
// what was before, no child may be left and no descriptor open.
class MountTest : public testing::Test {
 protected:
  static void SetUpTestSuite();
  void SetUp() override;
  void TearDown() override;

  absl::Status Mounting(std::vector<Mount> mounts);
  absl::Status Unmounting(std::string directory);
  absl::Status Unmounting() { return Unmounting(rootfs()); }

  std::string rootfs() const { return At("rootfs"); }
  // A path in the playground.
  std::string At(absl::string_view name) const;
  // Makes a directory in the playground, with all above it, and returns its path.
  std::string MakeDirectory(absl::string_view name);
  // Writes a file in the playground, with all directories above it.
  void MakeFile(absl::string_view name, absl::string_view text);
  // A file's text, or "(error text)".
  std::string Read(absl::string_view name) const;
  // What writing a new file into a directory of the playground gives: 0 or an errno.
  int TryWriting(absl::string_view directory);

  // Mount points in the playground, relative to it and sorted; several mounts, several entries.
  std::vector<std::string> MountPoints() const;

  asio::io_context io_{1};
  Reaper reaper_{io_};

 private:
  absl::Status Run(Async<absl::Status> work);

  std::string directory_;
  int descriptors_ = 0;
};

}  // namespace feather::test
