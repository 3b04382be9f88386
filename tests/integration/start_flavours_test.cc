// A group's shim of the one flavour (TTRPC, gRPC) is found by `start` of the other.
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/build.h"
#include "tests/support/commands.h"

namespace feather::test {
namespace {

constexpr char kPod[] = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";

class StartFlavours : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access(kBuiltGrpcShim, X_OK) != 0)
      GTEST_SKIP() << "this build has no shim that speaks gRPC";
  }
  HelperResult Start(const char* shim, const char* id, CommandBench::Caller caller) {
    bench_.shim = shim;
    bench_.MakeBundle(id, kPod);
    CommandBench::StartOptions start;
    start.caller = caller;
    start.env = {"FEATHER_SHIM_VERSION=3"};
    // Of which nothing can be read: it is taken for a new one.
    start.publish_binary = "/";
    return bench_.Start(id, start);
  }
  nlohmann::json Answer(const char* shim, const char* id) {
    HelperResult result = Start(shim, id, CommandBench::Caller::k2_1);
    EXPECT_EQ(result.exit_code, 0) << result.out;
    return nlohmann::json::parse(result.out, nullptr, false);
  }
  // Of this flavour, and none of the other; EndServers is about it from now on.
  void ExpectOneServer(const char* shim) {
    bench_.shim = shim;
    EXPECT_EQ(bench_.Servers().size(), 1u);
    EXPECT_EQ(Children().size(), 1u);
  }
  CommandBench bench_;
};

TEST_F(StartFlavours, OfTtrpcFindsAShimThatSpeaksGrpc) {
  nlohmann::json first = Answer(kBuiltGrpcShim, "a");
  EXPECT_EQ(first["protocol"], "grpc");
  EXPECT_EQ(Answer(kBuiltShim, "b"), first);
  ExpectOneServer(kBuiltGrpcShim);
  // One that speaks no gRPC must not be sent there.
  HelperResult old = Start(kBuiltShim, "c", CommandBench::Caller::k1_6);
  EXPECT_EQ(old.exit_code, 1);
  EXPECT_THAT(old.out, ::testing::HasSubstr("does not speak gRPC"));
  bench_.shim = kBuiltGrpcShim;
  EXPECT_THAT(bench_.EndServers(), ::testing::IsEmpty());
}

TEST_F(StartFlavours, OfGrpcFindsAShimThatSpeaksTtrpc) {
  nlohmann::json first = Answer(kBuiltShim, "a");
  EXPECT_EQ(first["protocol"], "ttrpc");
  EXPECT_EQ(first["version"], 3);
  EXPECT_EQ(Answer(kBuiltGrpcShim, "b"), first);
  ExpectOneServer(kBuiltShim);
  EXPECT_THAT(bench_.EndServers(), ::testing::IsEmpty());
}

}  // namespace
}  // namespace feather::test
