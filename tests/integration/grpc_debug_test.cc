// A shim over gRPC and a client that knows nothing of it: server reflection and health.
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"
#include "tests/support/shim_test.h"
#include "tests/support/subprocess.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

// Before the fixture looks.
[[maybe_unused]] const bool over_grpc = setenv("FEATHER_TEST_TRANSPORT", "grpc", 1) == 0;

class GrpcDebug : public ShimTest {
 protected:
  // Its standard output, or what it says on standard error.
  std::string Ask(Container& container, std::vector<std::string> arguments) {
    std::vector<std::string> argv = {
        absl::StrCat(kSourceDirectory, "/tests/support/grpc-client"),
        std::string(absl::StripPrefix(container.answer().address, "unix://"))};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    CommandResult client = RunCommand({.argv = std::move(argv)});
    return client.code == 0 ? client.out : client.err;
  }
};

TEST_F(GrpcDebug, TellsItsServicesToWhoeverAsks) {
  Container& a = New("a");
  EXPECT_EQ(Ask(a, {"list"}),
            "containerd.runtime.sandbox.v1.Sandbox\ncontainerd.task.v2.Task\n"
            "containerd.task.v3.Task\nfeather.inspect.v1.Inspect\ngrpc.health.v1.Health\n"
            "grpc.reflection.v1.ServerReflection\ngrpc.reflection.v1alpha.ServerReflection\n");
  EXPECT_EQ(Ask(a, {"describe", "containerd.runtime.sandbox.v1.Sandbox.StopSandbox"}),
            "proto/sandbox.proto\ngoogle/protobuf/any.proto\ngoogle/protobuf/timestamp.proto\n"
            "proto/types.proto\n");
  EXPECT_EQ(Ask(a, {"describe", "grpc.health.v1.HealthCheckResponse.ServingStatus"}),
            "proto/grpc_health.proto\n");
  EXPECT_EQ(Ask(a, {"describe", "no.such.Thing"}), "reflection: not found\n");
  EXPECT_THAT(a.Shutdown(), IsOk());
}

TEST_F(GrpcDebug, AClientWithoutItsFilesCallsIt) {
  Container& a = New("a");
  ASSERT_THAT(a.Run(), IsOk());
  const std::string state = Ask(a, {"call", "containerd.task.v3.Task", "State", R"({"id": "a"})"});
  EXPECT_THAT(state, HasSubstr(R"("status": "RUNNING")"));
  EXPECT_THAT(state, HasSubstr(a.bundle()));
  EXPECT_THAT(Ask(a, {"call", "containerd.runtime.sandbox.v1.Sandbox", "Platform", "{}"}),
              HasSubstr(R"("os": "linux")"));
  EXPECT_EQ(Ask(a, {"call", "containerd.task.v2.Task", "State", R"({"id": "b"})"}),
            "NOT_FOUND: container not created: not found\n");
  EXPECT_THAT(Ask(a, {"call", "feather.inspect.v1.Inspect", "Shim", "{}"}),
              HasSubstr(R"("id": "a")"));
  EXPECT_THAT(a.KillAndRemove(), IsOk());
}

TEST_F(GrpcDebug, TellsThatItIsWell) {
  Container& a = New("a");
  auto check = [&](const char* command, const char* method, const std::string& service) {
    return Ask(a, {command, "grpc.health.v1.Health", method, R"({"service": ")" + service + "\"}"});
  };
  const std::string serving = "{\"status\": \"SERVING\"}\n";
  EXPECT_EQ(check("call", "Check", ""), serving);
  EXPECT_EQ(check("call", "Check", "containerd.task.v3.Task"), serving);
  EXPECT_EQ(check("call", "Check", "containerd.task.v4.Task"),
            "NOT_FOUND: service containerd.task.v4.Task\n");
  EXPECT_EQ(check("first", "Watch", "grpc.health.v1.Health"), serving);
  EXPECT_EQ(check("first", "Watch", "other"), "{\"status\": \"SERVICE_UNKNOWN\"}\n");
  EXPECT_THAT(a.Shutdown(), IsOk());
}

TEST(Programs, OnlyTheOneThatSpeaksGrpcHasAnythingOfIt) {
  if (!kReleaseBuild) GTEST_SKIP() << "gRPC is in the static program only";
  for (const char* part : {"grpc.reflection.v1", "HTTP2", "grpc_chttp2"}) {
    EXPECT_TRUE(absl::StrContains(*ReadFile(kBuiltGrpcShim), part)) << part;
    EXPECT_FALSE(absl::StrContains(*ReadFile(kBuiltShim), part)) << part;
  }
}

}  // namespace
}  // namespace feather::test
