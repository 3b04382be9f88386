#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "runtime/base/file.h"
#include "runtime/oci_runtime.h"
#include "runtime/reaper.h"
#include "tests/support/shim_bundle.h"
#include "tests/support/shim_loop.h"
#include "tests/support/shim_process.h"

namespace feather::test {

struct Pipe {
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) abort();
    reader.Reset(ends[0]);
    writer.Reset(ends[1]);
  }
  UniqueFd reader;
  UniqueFd writer;
};

// A directory that is a bundle, a loop with a reaper, and the configuration of an OCI runtime.
class RuntimeFixture : public ::testing::Test {
 protected:
  RuntimeFixture() {
    BecomeSubreaper();
    config_.binary = Path("fake");
    config_.root = Path("root/ns");
    config_.bundle = directory_.path();
    config_.id = directory_.name();
  }

  std::string Path(const std::string& name) const {
    return absl::StrCat(directory_.path(), "/", name);
  }

  // Empty if there is no such file.
  std::string Read(const std::string& name) const {
    auto text = ReadFile(Path(name));
    return text.ok() ? *text : "";
  }

  void Write(const std::string& name, const std::string& text, mode_t mode = 0644) {
    absl::Status status = WriteFile(Path(name), text, mode);
    ASSERT_TRUE(status.ok()) << status;
  }

  // The runtime is a shell script from now on; $D is the test's directory.
  void Fake(const std::string& script) {
    Write("fake", absl::StrCat("#!/bin/sh\nD=", directory_.path(), "\n", script, "\n"), 0755);
  }

  template <typename T>
  T Await(Async<T> work) {
    std::optional<T> result;
    asio::co_spawn(loop_.io(), std::move(work), [&](std::exception_ptr error, T value) {
      EXPECT_EQ(error, nullptr);
      result = std::move(value);
    });
    EXPECT_TRUE(loop_.RunUntil([&] { return result.has_value(); }));
    if (!result) abort();  // the coroutine would go on with what is gone
    return *std::move(result);
  }

  // The text of an error, with this test's directory as D.
  std::string Text(const absl::Status& status) const {
    return absl::StrReplaceAll(status.message(), {{directory_.path(), "D"}});
  }

  TestDirectory directory_;
  Loop loop_;
  Reaper reaper_{loop_.io()};
  OciRuntime::Config config_;
};

}  // namespace feather::test
