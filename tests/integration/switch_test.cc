// A node that goes from containerd's own shim to feather or back while its pods run: whichever
// binary is installed joins and cleans up what the other one has begun.

#include <signal.h>
#include <unistd.h>

#include <ostream>

#include "absl/strings/strip.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

struct Suite {
  const char* name;
  Series daemon;
  friend void PrintTo(const Suite& suite, std::ostream* out) { *out << suite.name; }
};

class Switch : public ShimTest, public ::testing::WithParamInterface<Suite> {
 protected:
  void SetUp() override {
    stock_ = DebianBinary(GetParam().name, "containerd-shim-runc-v2");
    if (stock_.empty())
      GTEST_SKIP() << "no containerd of " << GetParam().name
                   << ": install it, or run tests/containerd/fetch";
    settings_.daemon = GetParam().daemon;
  }

  static ContainerOptions InPod() {
    ContainerOptions options = Shell("echo ready; sleep 1000");
    options.spec.patch = R"({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}})";
    return options;
  }

  // A pod whose shim is `first`, joined when `second` is installed, down to its end.
  void JoinAPod(const std::string& first, const std::string& second, Series later) {
    settings_.shim = first;
    Container& pod = New("pod", InPod());
    ASSERT_THAT(pod.Run(), IsOk());
    // It may leave its socket's file, and end in a way of its own.
    ctrd().ForgiveShim(pod.shim_pid());

    ctrd().Switch(second, later);
    Container& joined = New("joined", InPod());
    if (second != ShimUnderTest() && joined.shim_pid() != 0 &&
        joined.answer().address == pod.answer().address) {
      // On a busy machine it takes the socket's place. Nothing is lost, but there is nothing to see
      // either.
      EXPECT_THAT(joined.Shutdown(), IsOk());
      EXPECT_THAT(pod.KillAndRemove(), IsOk());
      ctrd().ForgiveShim(joined.shim_pid());
      unlink(std::string(absl::StripPrefix(pod.answer().address, "unix://")).c_str());
      GTEST_SKIP() << "the stock shim has given up a connection within its 100 ms";
    }
    EXPECT_EQ(joined.shim_pid(), 0) << "no second shim";
    EXPECT_EQ(joined.answer().address, pod.answer().address);
    ASSERT_THAT(joined.Run(), IsOk()) << "version " << joined.answer().version;
    EXPECT_TRUE(RunUntil([&] { return joined.stdio().out->data() == "ready\n"; }));
    for (Container* container : {&pod, &joined}) {
      ASSERT_THAT(container->Exec("x", {"sh", "-c", "exit 3"}), IsOk());
      ASSERT_THAT(container->Start("x"), IsOk());
      EXPECT_EQ(container->Wait("x")->exit_status(), 3u);
      EXPECT_THAT(container->Delete("x"), IsOk());
    }
    EXPECT_THAT(joined.KillAndRemove(), IsOk());
    EXPECT_EQ(pod.State()->status(), containerd::v1::types::RUNNING);
    EXPECT_THAT(pod.KillAndRemove(), IsOk());
    EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(pod.shim_pid()).has_value(); }));
    unlink(std::string(absl::StripPrefix(pod.answer().address, "unix://")).c_str());
  }

  // The shim is `first` and is killed; `second` is what containerd calls then.
  void CleanUpAfterDeath(const std::string& first, const std::string& second) {
    settings_.shim = first;
    Container& c = New("a", Shell("sleep 1000"));
    ASSERT_THAT(c.Run(), IsOk());
    c.KillShim();
    ctrd().Switch(second, GetParam().daemon);
    const Container::DeleteResult result = c.RunDelete();
    EXPECT_EQ(result.helper.exit_code, 0) << result.helper.out << result.helper.err;
    EXPECT_EQ(result.response.exit_status(), 128u + SIGKILL);
    EXPECT_THAT(c.RemoveBundle(), IsOk());
    unlink(std::string(absl::StripPrefix(c.answer().address, "unix://")).c_str());
  }

  std::string stock_;
};

std::string SuiteName(const ::testing::TestParamInfo<Suite>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Debian, Switch,
                         ::testing::Values(Suite{"bookworm", Series::k1_6},
                                           Suite{"trixie", Series::k1_7},
                                           Suite{"sid", Series::k2_1}),
                         SuiteName);

TEST_P(Switch, FeatherJoinsAPodOfTheStockShim) {
  JoinAPod(stock_, ShimUnderTest(), GetParam().daemon);
}

TEST_P(Switch, TheStockShimJoinsAPodOfFeather) {
  JoinAPod(ShimUnderTest(), stock_, GetParam().daemon);
}

TEST_P(Switch, FeatherJoinsAPodOfTheStockShimAfterAnUpgradeToContainerd2_1) {
  JoinAPod(stock_, ShimUnderTest(), Series::k2_1);
}

TEST_P(Switch, FeatherJoinsAPodOfTheStockShimAfterAnUpgradeToContainerd2_3) {
  JoinAPod(stock_, ShimUnderTest(), Series::k2_3);
}

// The pod was begun under an older containerd, and then feather was taken away.
TEST_P(Switch, TheStockShimJoinsAPodOfFeatherAfterAnUpgradeToContainerd2_1) {
  const std::string newer = DebianBinary("sid", "containerd-shim-runc-v2");
  if (newer.empty()) GTEST_SKIP() << "no containerd of sid: run tests/containerd/fetch";
  JoinAPod(ShimUnderTest(), newer, Series::k2_1);
}

// Checklist: D7.
TEST_P(Switch, FeatherCleansUpAfterTheStockShim) { CleanUpAfterDeath(stock_, ShimUnderTest()); }

TEST_P(Switch, TheStockShimCleansUpAfterFeather) { CleanUpAfterDeath(ShimUnderTest(), stock_); }

}  // namespace
}  // namespace feather::test
