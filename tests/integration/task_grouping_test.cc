// Containers that share a shim.

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

class Grouping : public ShimTest, public ::testing::WithParamInterface<Series> {
 protected:
  void SetUp() override { settings_.daemon = GetParam(); }
  static ContainerOptions Grouped(ContainerOptions options, const char* annotation,
                                  const std::string& group) {
    options.spec.patch =
        absl::StrCat(R"({"annotations": {")", annotation, R"(": ")", group, R"("}})");
    return options;
  }
};
std::string SeriesName(const ::testing::TestParamInfo<Series>& param) {
  constexpr const char* kNames[] = {"v1_6", "v1_7", "v2_1", "v2_3"};
  return kNames[static_cast<int>(param.param)];
}
INSTANTIATE_TEST_SUITE_P(Daemons, Grouping,
                         ::testing::Values(Series::k1_6, Series::k1_7, Series::k2_1, Series::k2_3),
                         SeriesName);

// Checklist: S5.
TEST_P(Grouping, ByAnnotationIsOneShimWithAConnectionForEachContainer) {
  for (const char* annotation : {"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}) {
    ContainerOptions options = Grouped({}, annotation, std::string("pod-") + annotation);
    Container& a = New(std::string("a") + annotation[3], options);
    Container& b = New(std::string("b") + annotation[3], options);
    EXPECT_NE(a.shim_pid(), 0);
    EXPECT_EQ(b.shim_pid(), 0) << "no second process";
    EXPECT_EQ(a.answer().address, b.answer().address);
    ASSERT_THAT(a.Run(), IsOk());
    ASSERT_THAT(b.Run(), IsOk());
    EXPECT_EQ(b.ConnectTask()->shim_pid(), static_cast<uint32_t>(a.shim_pid()));
    // gRPC's is told without the scheme.
    EXPECT_THAT(*ReadFile(b.bundle() + "/address"), ::testing::EndsWith(a.answer().address));
    EXPECT_THAT(a.KillAndRemove(), IsOk());
    EXPECT_EQ(b.State()->status(), containerd::v1::types::RUNNING)
        << "the end of the first, its bundle included, is nothing to the second";
    ASSERT_THAT(b.Exec("x", {"true"}), IsOk());
    ASSERT_THAT(b.Start("x"), IsOk());
    EXPECT_EQ(b.Wait("x")->exit_status(), 0u);
    EXPECT_THAT(b.KillAndRemove(), IsOk());
    EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(a.shim_pid()).has_value(); }));
  }
}

TEST_P(Grouping, ContainersOfDifferentGroupsHaveDifferentShims) {
  Container& a = New("a", Grouped({}, "io.containerd.runc.v2.group", "one"));
  Container& b = New("b", Grouped({}, "io.containerd.runc.v2.group", "two"));
  Container& c = New("c");
  EXPECT_NE(a.answer().address, b.answer().address);
  EXPECT_NE(a.answer().address, c.answer().address);
  for (Container* container : {&a, &b, &c}) {
    ASSERT_THAT(container->Run(), IsOk());
    EXPECT_THAT(container->KillAndRemove(), IsOk());
  }
}

TEST_P(Grouping, ASocketThatNobodyServesIsReplaced) {
  Container& a = New("a", Grouped({}, "io.containerd.runc.v2.group", "pod"));
  std::string path(absl::StripPrefix(a.answer().address, "unix://"));
  a.KillShim();
  struct stat socket {};
  ASSERT_EQ(stat(path.c_str(), &socket), 0) << "a killed shim cannot have removed it";
  Container& b = New("b", Grouped(Shell("exit 0"), "io.containerd.runc.v2.group", "pod"));
  EXPECT_NE(b.shim_pid(), 0);
  EXPECT_EQ(b.answer().address, a.answer().address);
  ASSERT_THAT(b.Run(), IsOk());
  EXPECT_THAT(b.Wait(), IsOk());
  EXPECT_THAT(b.Remove(), IsOk());
}

TEST_P(Grouping, ThePodsEventsComeFromTheOneShimInTheirOrder) {
  ContainerOptions options = Grouped(Shell("exit 3"), "io.containerd.runc.v2.group", "pod");
  std::vector<Container*> containers;
  for (const char* id : {"a", "b", "c"}) containers.push_back(&New(id, options));
  for (Container* c : containers) ASSERT_THAT(c->Create(), IsOk());
  for (Container* c : containers) ASSERT_THAT(c->Start(), IsOk());
  for (Container* c : containers) EXPECT_EQ(c->Wait()->exit_status(), 3u);
  for (Container* c : containers) EXPECT_THAT(c->Remove(), IsOk());
  for (Container* c : containers) {
    const std::string& id = c->id();
    ASSERT_TRUE(ctrd().WaitForDelete(id));
    EXPECT_THAT(ctrd().events().Summaries(id),
                ::testing::ElementsAre("/tasks/create " + id, "/tasks/start " + id,
                                       "/tasks/exit " + id + " 3", "/tasks/delete " + id + " 3"));
  }
}

// containerd 2 says in a container's bundle whose it is, and cleans up for the pod's bundle alone.
TEST_P(Grouping, ThePodsOtherContainersEndWithAShimThatIsKilled) {
  const ContainerOptions options = Grouped({}, "io.containerd.runc.v2.group", "pod");
  Container& pod = New("pod", options);
  ASSERT_THAT(pod.Run(), IsOk());
  const std::string members = pod.bundle() + "/members";
  const auto join = [&](Container& container) {
    ASSERT_TRUE(WriteFile(container.bundle() + "/sandbox", "pod", 0600).ok());
  };

  Container& a = New("a", options);
  ASSERT_NO_FATAL_FAILURE(join(a));
  task::CreateTaskRequest request = a.CreateRequest();
  request.mutable_rootfs(0)->set_source("/no/such/image");
  EXPECT_FALSE(a.Create(request).ok());
  EXPECT_NE(access(members.c_str(), F_OK), 0) << "one that was not created is none";
  ASSERT_THAT(a.Run(), IsOk());
  EXPECT_EQ(access((members + "/a").c_str(), F_OK), 0);
  EXPECT_THAT(a.KillAndRemove(), IsOk());
  EXPECT_NE(access(members.c_str(), F_OK), 0) << "nor is one that was deleted";

  Container& b = New("b", options);
  ASSERT_NO_FATAL_FAILURE(join(b));
  Container& other = New("other", options);
  std::vector<pid_t> inits;
  for (Container* container : {&b, &other}) {
    ASSERT_THAT(container->Run(), IsOk());
    inits.push_back(static_cast<pid_t>(container->State()->pid()));
  }
  pod.KillShim();
  EXPECT_EQ(pod.RunDelete().helper.err, "");
  EXPECT_TRUE(RunUntil([&] {
    ctrd().Reap();
    return kill(inits[0], 0) < 0;
  }));
  EXPECT_EQ(kill(inits[1], 0), 0) << "for that one containerd runs the command too";
  EXPECT_EQ(other.RunDelete().helper.err, "");
  for (Container* container : {&pod, &b, &other}) EXPECT_THAT(container->RemoveBundle(), IsOk());
}

}  // namespace
}  // namespace feather::test
