// Creations and starts whose client is gone or silent, or whose OCI runtime leaves no pid.
#include <unistd.h>

#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

class Unserved : public ShimTest {
 protected:
  // A FIFO that nobody reads.
  std::string Unread() {
    std::string path = ctrd().directory() + "/unread";
    MakeFifo(path);
    return path;
  }
};

// The streams alone would be waited for half a minute.
TEST_F(Unserved, ACreationWhoseCallerHasGoneIsUndoneAtOnce) {
  Container& c = New("a");
  task::CreateTaskRequest request = c.CreateRequest();
  request.set_stdout(Unread());
  auto create = c.Send<task::CreateTaskResponse>("Create", request);
  std::string pid_file = c.bundle() + "/init.pid";
  ASSERT_TRUE(RunUntil([&] { return access(pid_file.c_str(), F_OK) == 0; }));
  auto gone = Clock::now();
  c.Disconnect();
  ASSERT_THAT(c.Connect(), IsOk());
  absl::Status again;
  do {
    ctrd().loop().RunFor(std::chrono::milliseconds(20));
    again = c.Create().status();
  } while (absl::IsAlreadyExists(again) && Clock::now() - gone < kLimit);
  EXPECT_LT(Clock::now() - gone, std::chrono::seconds(25));
  ASSERT_THAT(again, IsOk());
  EXPECT_THAT(c.Start(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  ASSERT_TRUE(ctrd().WaitForDelete("a"));
  EXPECT_THAT(ctrd().events().Summaries("a"),
              ::testing::ElementsAre("/tasks/create a", "/tasks/start a", "/tasks/exit a 137",
                                     "/tasks/delete a 137"));
}

TEST_F(Unserved, OrphansAreReapedWhileAnExecWaitsForItsStreams) {
  ContainerOptions options;
  // Orphans of a container that shares the machine's pid namespace come to the shim.
  options.spec.patch =
      R"({"linux": {"namespaces": [{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]}})";
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  auto request = c.ExecRequest("x", {"true"});
  request.set_stdout(Unread());
  ASSERT_THAT(c.Exec(request), IsOk());
  task::StartRequest start_request;
  start_request.set_id("a");
  start_request.set_exec_id("x");
  auto start = c.Send<task::StartResponse>("Start", start_request);
  ASSERT_TRUE(RunUntil([&] { return access((c.bundle() + "/x.pid").c_str(), F_OK) == 0; }));

  ASSERT_THAT(c.Exec("y", {"sh", "-c", "sh -c 'echo $$; exit 0' & exit 0"}), IsOk());
  ASSERT_THAT(c.Start("y"), IsOk());
  ASSERT_THAT(c.Wait("y"), IsOk());
  ASSERT_TRUE(WaitForEof(c.exec_stdio("y")));
  std::string orphan = c.exec_stdio("y").out->data();
  orphan.resize(orphan.find('\n'));
  EXPECT_TRUE(RunUntil([&] { return access(("/proc/" + orphan).c_str(), F_OK) != 0; }));
  EXPECT_FALSE(start.done()) << "reaped only at the end";
  FifoReader late(ctrd().io(), request.stdout());
  EXPECT_THAT(start.Get(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Unserved, AnExecWithoutAPidFileIsFoundKilledAndReported) {
  settings_.runtime = WriteRuntime("runc-no-pid", R"(
case "$*" in *' exec '*)
  runc "$@" || exit $?
  while [ $# -gt 1 ]; do [ "$1" = --pid-file ] && rm -f "$2"; shift; done
  exit 0;;
esac
exec runc "$@"
)");
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  EXPECT_THAT(c.Start("x"), IsError(kUnknown, "x.pid"));
  auto exit = c.Wait("x");
  ASSERT_THAT(exit, IsOk());
  EXPECT_EQ(exit->exit_status(), 137u);
  auto pids = c.Pids();
  ASSERT_THAT(pids, IsOk());
  EXPECT_EQ(pids->processes_size(), 1);
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
