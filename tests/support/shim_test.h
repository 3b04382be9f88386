#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/support/shim.h"

namespace feather::test {

inline absl::Status StatusOf(const absl::Status& status) { return status; }
template <typename T>
absl::Status StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

MATCHER(IsOk, "is OK") {
  absl::Status status = StatusOf(arg);
  *result_listener << status.ToString();
  return status.ok();
}

// The code, and a part of the text.
MATCHER_P2(IsError, code, text, "") {
  absl::Status status = StatusOf(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         status.message().find(absl::string_view(text)) != absl::string_view::npos;
}

inline constexpr auto kUnknown = absl::StatusCode::kUnknown;
inline constexpr auto kNotFound = absl::StatusCode::kNotFound;
inline constexpr auto kInvalidArgument = absl::StatusCode::kInvalidArgument;
inline constexpr auto kAlreadyExists = absl::StatusCode::kAlreadyExists;
inline constexpr auto kFailedPrecondition = absl::StatusCode::kFailedPrecondition;
inline constexpr auto kDeadlineExceeded = absl::StatusCode::kDeadlineExceeded;

// Functions of a script in the place of runc. `restore_or_run "$@"` does what runc would do, but
// restores a container by making it anew, which takes neither CRIU nor an image.
inline constexpr char kRestores[] = R"(restore() {
  globals=
  while [ "$1" != restore ]; do globals="$globals $1"; shift; done
  create=
  while [ $# -gt 1 ]; do
    case $1 in --bundle | --pid-file | --console-socket) create="$create $1 $2" ;; esac
    shift
  done
  runc $globals create $create "$1" && runc $globals start "$1"
}
restore_or_run() {
  case " $* " in *" restore "*) restore "$@"; exit ;; esac
  exec runc "$@"
}
)";

// One containerd, and after each test a look that nothing is left.
class ShimTest : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_THAT(ctrd().FindLeftovers(), ::testing::IsEmpty()) << "log of the shims:\n"
                                                              << ctrd().log();
  }
  // Made at the first use, so that a test may change the settings before.
  FakeContainerd& ctrd() {
    if (!ctrd_) ctrd_ = std::make_unique<FakeContainerd>(settings_);
    return *ctrd_;
  }
  Container& New(const std::string& id, ContainerOptions options = {}) {
    return ctrd().New(id, std::move(options));
  }
  // A container whose init runs this shell script.
  static ContainerOptions Shell(const std::string& script) {
    ContainerOptions options;
    options.spec.args = {"sh", "-c", script};
    return options;
  }
  bool RunUntil(const std::function<bool()>& done) { return ctrd().loop().RunUntil(done); }
  // The states of both streams' ends have been seen.
  bool WaitForEof(const ClientStdio& stdio) {
    return RunUntil(
        [&] { return (!stdio.out || stdio.out->eof()) && (!stdio.err || stdio.err->eof()); });
  }
  // An executable script in the place of the OCI runtime; `body` may say `exec runc "$@"`.
  std::string WriteRuntime(const std::string& name, const std::string& body);

  Settings settings_;

 private:
  TestDirectory runtimes_;
  std::unique_ptr<FakeContainerd> ctrd_;
};

// The same with each OCI runtime of this machine.
class RuntimeTest : public ShimTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    settings_.runtime = GetParam();
    if (access((std::string("/usr/bin/") + GetParam()).c_str(), X_OK) != 0)
      GTEST_SKIP() << GetParam() << " is not installed";
    if (settings_.runtime == "crun" && !HideUnifiedCgroup())
      GTEST_SKIP() << "crun needs a private mount namespace: " << strerror(errno);
  }
};

inline const auto kRuntimes = ::testing::Values("runc", "crun");
inline std::string RuntimeName(const ::testing::TestParamInfo<const char*>& info) {
  return info.param;
}

}  // namespace feather::test
