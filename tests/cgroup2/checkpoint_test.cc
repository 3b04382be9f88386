// Checkpoint and restore with a real CRIU, which wants a stock kernel: tests/cgroup2/run boots one
// in QEMU. The stock shim of containerd 2.1 has to do the same.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/cgroups_v2.pb.h"
#include "proto/runc_options.pb.h"
#include "runtime/base/file.h"
#include "tests/support/sandbox_fixture.h"
#include "tests/support/shim_test.h"
#include "tests/support/subprocess.h"

namespace feather::test {
namespace {

namespace v2 = io::containerd::cgroups::v2;
using Options = containerd::runc::v1::CheckpointOptions;
using containerd::v1::types::CREATED;
using containerd::v1::types::PAUSED;
using containerd::v1::types::RUNNING;

// Answers each line with its number: what is in its memory must live on. "run X" runs X.
constexpr char kCounter[] = R"(i=0
while read line; do
  i=$((i+1))
  case "$line" in "run "*) eval "${line#run }";; esac
  echo "$i $line"
done)";

// The size of the memory that is in an image.
uintmax_t PagesIn(const std::string& image) {
  uintmax_t bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator(image))
    if (absl::StartsWith(file.path().filename().string(), "pages-")) bytes += file.file_size();
  return bytes;
}

std::string NetworkOf(const std::string& process) {
  return std::filesystem::read_symlink("/proc/" + process + "/ns/net");
}

bool CriuWorks() {
  static const bool works = system("criu check >/dev/null 2>&1") == 0;  // NOLINT
  return works;
}

class Checkpoint : public ShimTest, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    if (!CriuWorks())
      GTEST_SKIP() << "CRIU does not work on this kernel: FEATHER_GUEST=qemu tests/cgroup2/run";
    if (!stock()) return;
    settings_.shim = DebianBinary("sid", "containerd-shim-runc-v2");
    if (settings_.shim.empty()) GTEST_SKIP() << "no containerd of sid: run tests/containerd/fetch";
    settings_.daemon = IsSince(3) ? Series::k2_3 : Series::k2_1;
  }
  void TearDown() override {
    // CRIU puts a container of another id into the cgroup of the one that was dumped, which it
    // makes again; the OCI runtime does not remove that.
    rmdir(absl::StrCat("/sys/fs/cgroup/", ctrd().name(), "-a").c_str());
    if (!stock()) ShimTest::TearDown();
  }
  static bool stock() { return absl::string_view(GetParam()) == "stock"; }
  // The stock shim is that of containerd 2.`minor` or later: sid moves.
  bool IsSince(int minor) const {
    const CommandResult version = RunCommand({.argv = {settings_.shim, "-v"}});
    const size_t at = version.out.find(" 2.");
    int number = 0;
    return at != std::string::npos &&
           absl::SimpleAtoi(version.out.substr(at + 3, version.out.find('.', at + 3) - at - 3),
                            &number) &&
           number >= minor;
  }

  static ContainerOptions Counter() {
    ContainerOptions options = Shell(kCounter);
    options.in = true;
    return options;
  }
  std::string Image(const char* name) { return absl::StrCat(ctrd().directory(), "/image-", name); }
  static absl::Status Save(Container& c, const std::string& image, const Options& options) {
    task::CheckpointTaskRequest request;
    request.set_id(c.id());
    request.set_path(image);
    request.mutable_options()->set_type_url("containerd.runc.v1.CheckpointOptions");
    request.mutable_options()->set_value(options.SerializeAsString());
    return c.Call<google::protobuf::Empty>("Checkpoint", request).status();
  }
  static absl::Status SaveAndEnd(Container& c, const std::string& image, Options options = {}) {
    options.set_exit(true);
    return Save(c, image, options);
  }
  // A new container that has been created from `image`, but not started.
  Container& Restored(const std::string& id, const std::string& image, ContainerOptions options) {
    Container& c = New(id, std::move(options));
    task::CreateTaskRequest request = c.CreateRequest();
    request.set_checkpoint(image);
    auto pid = c.Create(request);
    EXPECT_THAT(pid, IsOk());
    EXPECT_EQ(pid.value_or(1), 0u) << "nothing runs before Start";
    EXPECT_EQ(c.State()->status(), CREATED);
    return c;
  }
  bool Hears(Container& c, const std::string& text) {
    return RunUntil([&] { return absl::StrContains(c.stdio().out->data(), text); });
  }
  bool Answers(Container& c, const std::string& line, const std::string& answer) {
    c.stdio().in->Write(line + "\n");
    return Hears(c, answer);
  }
  static absl::StatusOr<v2::Metrics> Stats(Container& c) {
    task::StatsRequest request;
    request.set_id(c.id());
    auto stats = c.Call<task::StatsResponse>("Stats", request);
    if (!stats.ok()) return stats.status();
    v2::Metrics metrics;
    if (!metrics.ParseFromString(stats->stats().value())) return absl::UnknownError("no metrics");
    return metrics;
  }
};
INSTANTIATE_TEST_SUITE_P(Shims, Checkpoint, ::testing::Values("feather", "stock"),
                         [](const auto& param) { return std::string(param.param); });

// Checklist: R7, R8.
TEST_P(Checkpoint, WithFifosGoesOnWhereItWas) {
  Container& a = New("a", Counter());
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Answers(a, "one", "1 one\n"));
  ASSERT_THAT(Save(a, Image("first"), {}), IsOk());
  EXPECT_EQ(a.State()->status(), RUNNING);
  ASSERT_TRUE(Answers(a, "two", "2 two\n")) << "it runs on";
  ASSERT_THAT(SaveAndEnd(a, Image("second")), IsOk());
  EXPECT_EQ(a.Wait()->exit_status(), 137u);
  EXPECT_THAT(a.Remove(), IsOk());

  Container& b = Restored("b", Image("second"), Counter());
  auto pid = b.Start();
  ASSERT_THAT(pid, IsOk());
  EXPECT_EQ(b.State()->status(), RUNNING);
  EXPECT_EQ(b.State()->pid(), *pid);
  ASSERT_TRUE(Answers(b, "three", "3 three\n"));
  // It is in a's cgroup (see TearDown), and runc, which the stock shim asks, looks into b's.
  EXPECT_EQ(b.Pids()->processes_size(), stock() ? 0 : 1);
  ASSERT_THAT(b.Exec("x", {"true"}), IsOk());
  ASSERT_THAT(b.Start("x"), IsOk());
  EXPECT_EQ(b.Wait("x")->exit_status(), 0u);
  EXPECT_THAT(b.Delete("x"), IsOk());
  EXPECT_THAT(b.Pause(), IsOk());
  EXPECT_THAT(b.Resume(), IsOk());
  // stdin ends as that of any other container.
  b.stdio().in->Close();
  EXPECT_THAT(b.CloseIO(), IsOk());
  EXPECT_EQ(b.Wait()->exit_status(), 0u);
  EXPECT_TRUE(WaitForEof(b.stdio()));
  EXPECT_THAT(b.Remove(), IsOk());

  // And the first image, once more.
  Container& c = Restored("c", Image("first"), Counter());
  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_TRUE(Answers(c, "again", "2 again\n"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: R8.
TEST_P(Checkpoint, WithATerminalGoesOnWhereItWas) {
  ContainerOptions options = Counter();
  options.spec.terminal = true;
  Container& a = New("a", options);
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Answers(a, "one", "1 one\r\n"));
  ASSERT_THAT(SaveAndEnd(a, Image("tty")), IsOk());
  EXPECT_EQ(a.Wait()->exit_status(), 137u);
  EXPECT_TRUE(WaitForEof(a.stdio()));
  EXPECT_THAT(a.Remove(), IsOk());

  Container& b = Restored("a", Image("tty"), options);
  ASSERT_THAT(b.Start(), IsOk());
  ASSERT_TRUE(Answers(b, "two", "2 two\r\n"));
  EXPECT_THAT(b.ResizePty(101, 42), IsOk());
  ASSERT_TRUE(Answers(b, "run stty size", "42 101\r\n"));
  EXPECT_THAT(b.Kill(SIGKILL), IsOk());
  EXPECT_EQ(b.Wait()->exit_status(), 137u);
  EXPECT_TRUE(WaitForEof(b.stdio()));
  EXPECT_THAT(b.Remove(), IsOk());
}

// Checklist: R8.
TEST_P(Checkpoint, ARestoredContainerHasStatisticsAndIsWatchedForOomKills) {
  ContainerOptions options = Counter();
  options.spec.patch =
      R"({"linux": {"resources": {"memory": {"limit": 67108864}, "pids": {"limit": 32}}}})";
  Container& a = New("a", options);
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Answers(a, "one", "1 one\n"));
  ASSERT_THAT(SaveAndEnd(a, Image("oom")), IsOk());
  EXPECT_THAT(a.Wait(), IsOk());
  EXPECT_THAT(a.Remove(), IsOk());

  Container& b = Restored("a", Image("oom"), options);
  EXPECT_THAT(Stats(b).status(), IsError(kNotFound, "cgroup does not exist"));
  ASSERT_THAT(b.Start(), IsOk());
  auto metrics = Stats(b);
  ASSERT_THAT(metrics, IsOk());
  EXPECT_EQ(metrics->pids().current(), 1u);
  EXPECT_EQ(metrics->pids().limit(), 32u);
  EXPECT_GT(metrics->memory().usage(), 0u);
  EXPECT_EQ(metrics->memory().usage_limit(), 67108864u);
  ASSERT_TRUE(Answers(b, "run dd if=/dev/zero of=/dev/null bs=200M count=1", "2 run"));
  EXPECT_TRUE(ctrd().WaitForEvent([](const RecordedEvent& e) { return e.topic == "/tasks/oom"; }));
  metrics = Stats(b);
  ASSERT_THAT(metrics, IsOk());
  EXPECT_GE(metrics->memory_events().oom_kill(), 1u);
  EXPECT_THAT(b.KillAndRemove(), IsOk());
}

// Checklist: R7.
TEST_P(Checkpoint, OfAPausedContainerLeavesItPaused) {
  Container& a = New("a", Counter());
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Answers(a, "one", "1 one\n"));
  ASSERT_THAT(a.Pause(), IsOk());
  EXPECT_THAT(Save(a, Image("paused"), {}), IsOk());
  EXPECT_EQ(a.State()->status(), PAUSED);
  EXPECT_THAT(a.Resume(), IsOk());
  EXPECT_TRUE(Answers(a, "two", "2 two\n"));
  EXPECT_THAT(a.KillAndRemove(), IsOk());
}

// What CRIU refuses to dump without being told to. Checklist: R7.
TEST_P(Checkpoint, EachOptionReachesCriu) {
  // Debian's busybox has no flock.
  for (const char* file :
       {"/usr/bin/flock", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"}) {
    std::filesystem::path copy = ctrd().rootfs() + file;
    std::filesystem::create_directories(copy.parent_path());
    std::filesystem::copy_file(file, copy);
  }
  // A lock on a file, and both ends of a TCP connection.
  ContainerOptions options = Shell(
      "/usr/bin/flock /lock sleep 1001 & "
      "while /usr/bin/flock -n /lock true; do sleep 0.1; done; "
      "sleep 1002 | nc -l -p 5555 & "
      "while ! (echo connected; exec sleep 1003) | nc 127.0.0.1 5555; do sleep 0.1; done");
  Container& a = New("a", options);
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Hears(a, "connected"));
  Options asked;
  asked.set_open_tcp(true);
  absl::Status refused = Save(a, Image("x"), asked);
  std::string log = a.bundle() + "/criu-dump.log";
  EXPECT_THAT(refused, IsError(kUnknown, "path= " + log));
  EXPECT_TRUE(absl::StrContains(ReadFile(log).value_or(""), "file-locks")) << refused;
  unlink(log.c_str());
  EXPECT_NE(access((a.bundle() + "/work/criu-work").c_str(), F_OK), 0) << "removed";

  asked.set_open_tcp(false);
  asked.set_file_locks(true);
  asked.set_work_path(Image("work"));
  refused = Save(a, Image("y"), asked);
  EXPECT_THAT(refused, IsError(kUnknown, "path= " + log));
  EXPECT_TRUE(absl::StrContains(ReadFile(log).value_or(""), "tcp-established")) << refused;
  EXPECT_EQ(access((Image("work") + "/dump.log").c_str(), F_OK), 0) << "the client's, and kept";

  asked.set_open_tcp(true);
  asked.set_terminal(true);
  asked.set_external_unix_sockets(true);
  EXPECT_THAT(Save(a, Image("z"), asked), IsOk())
      << ReadFile(Image("work") + "/dump.log").value_or("");
  EXPECT_EQ(a.State()->status(), RUNNING);
  EXPECT_THAT(a.KillAndRemove(), IsOk());
}

// runc knows the name of one, and refuses all others. It never lets CRIU dump that one's contents,
// so a container with a network namespace of its own is the same without the option. Checklist: R7.
TEST_P(Checkpoint, EmptyNamespacesReachTheRuntime) {
  ContainerOptions options = Counter();
  options.spec.patch = R"({"linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"},
      {"type": "uts"}, {"type": "mount"}, {"type": "network"}]}})";
  Container& a = New("a", options);
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Answers(a, "one", "1 one\n"));
  Options asked;
  asked.add_empty_namespaces("network");
  asked.add_empty_namespaces("ipc");
  EXPECT_THAT(SaveAndEnd(a, Image("x"), asked),
              IsError(kUnknown, "namespace \"ipc\" is not supported"));
  EXPECT_EQ(a.State()->status(), RUNNING);
  asked.mutable_empty_namespaces()->RemoveLast();
  ASSERT_THAT(SaveAndEnd(a, Image("empty"), asked), IsOk())
      << ReadFile(a.bundle() + "/criu-dump.log").value_or("");
  EXPECT_EQ(a.Wait()->exit_status(), 137u);
  EXPECT_THAT(a.Remove(), IsOk());

  Container& b = Restored("a", Image("empty"), options);
  auto pid = b.Start();
  ASSERT_THAT(pid, IsOk());
  EXPECT_NE(NetworkOf(absl::StrCat(*pid)), NetworkOf("self"));
  EXPECT_TRUE(Answers(b, "two", "2 two\n"));
  ASSERT_THAT(SaveAndEnd(b, Image("again")), IsOk())
      << ReadFile(b.bundle() + "/criu-dump.log").value_or("");
  EXPECT_EQ(b.Wait()->exit_status(), 137u);
  EXPECT_THAT(b.Remove(), IsOk());

  Container& c = Restored("a", Image("again"), options);
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_TRUE(Answers(c, "three", "3 three\n"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// As CRI's pods and nerdctl have it: the namespace is somebody else's, stays when the container has
// ended, and is what the restored one gets. Checklist: R7, R8.
TEST_P(Checkpoint, ANetworkNamespaceByItsPathIsTheRestoredContainersToo) {
  NetworkNamespace network(ctrd().directory() + "/netns", /*user=*/false);
  ContainerOptions options = Counter();
  options.spec.patch = absl::StrCat(R"({"linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"},
      {"type": "uts"}, {"type": "mount"}, {"type": "network", "path": ")",
                                    network.path(), R"("}]}})");
  for (const char* empty : {"", "network"}) {
    SCOPED_TRACE(absl::StrCat("empty_namespaces: ", empty));
    Container& a = New("a", options);
    ASSERT_THAT(a.Run(), IsOk());
    EXPECT_EQ(NetworkOf(absl::StrCat(a.State()->pid())), network.name());
    ASSERT_TRUE(Answers(a, "one", "1 one\n"));
    Options asked;
    if (*empty != '\0') asked.add_empty_namespaces(empty);
    const std::string image = Image(absl::StrCat("path-", empty).c_str());
    ASSERT_THAT(SaveAndEnd(a, image, asked), IsOk())
        << ReadFile(a.bundle() + "/criu-dump.log").value_or("");
    EXPECT_EQ(a.Wait()->exit_status(), 137u);
    EXPECT_THAT(a.Remove(), IsOk());

    Container& b = Restored("a", image, options);
    auto pid = b.Start();
    ASSERT_THAT(pid, IsOk()) << ReadFile(b.bundle() + "/work/restore.log").value_or("");
    EXPECT_EQ(NetworkOf(absl::StrCat(*pid)), network.name());
    EXPECT_TRUE(Answers(b, "two", "2 two\n"));
    EXPECT_THAT(b.KillAndRemove(), IsOk());
  }
}

// What moves a running container does: first an image of its memory while it runs, which the OCI
// runtime is asked for directly, since the task API has no call for that; then one above it, with
// what has changed meanwhile. Checklist: R7.
TEST_P(Checkpoint, AboveAnEarlierImageIsWhatHasChangedSince) {
  // The stock shim of before does not know the option, and dumps everything.
  const bool layered = !stock() || IsSince(4);
  Container& a = New("a", Counter());
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Answers(a, "run big=$(busybox yes | head -c 4000000)", "1 run"));
  const CommandResult before = RunCommand(
      {.argv = {"runc", "--root", absl::StrCat(ctrd().runtime_root(), "/", ctrd().name_space()),
                "checkpoint", "--pre-dump", "--image-path", Image("before"), "a"}});
  ASSERT_EQ(before.code, 0) << before.out << before.err;
  ASSERT_TRUE(Answers(a, "two", "2 two\n")) << "it runs on";

  Options asked;
  if (layered) {
    asked.set_parent_path(Image("before"));
    EXPECT_THAT(Save(a, Image("x"), asked), IsError(kUnknown, "--parent-path must be relative"));
    asked.set_parent_path("../nothing");
    EXPECT_THAT(Save(a, Image("x"), asked), IsError(kUnknown, "invalid --parent-path"));
  }
  asked.set_parent_path("../image-before");
  ASSERT_THAT(SaveAndEnd(a, Image("above"), asked), IsOk());
  EXPECT_EQ(a.Wait()->exit_status(), 137u);
  EXPECT_THAT(a.Remove(), IsOk());
  std::error_code none;
  EXPECT_EQ(std::filesystem::read_symlink(Image("above") + "/parent", none),
            layered ? "../image-before" : "");
  EXPECT_GT(PagesIn(Image("before")), 4000000u);
  if (layered) {
    EXPECT_LT(PagesIn(Image("above")), 2000000u);
  } else {
    EXPECT_GT(PagesIn(Image("above")), 4000000u);
  }

  // Both together are all of it.
  Container& b = Restored("a", Image("above"), Counter());
  ASSERT_THAT(b.Start(), IsOk());
  EXPECT_TRUE(Answers(b, "run echo ${#big} $(echo \"$big\" | grep -c '^y$')", "3999999 2000000\n"))
      << b.stdio().out->data();
  EXPECT_THAT(b.KillAndRemove(), IsOk());
}

// An image names the one below it by itself: `runc restore` has no option for that, and
// containerd never fills the field. Checklist: R8.
TEST_P(Checkpoint, ARestoreWithAParentIsRefusedByTheRuntime) {
  Container& a = New("a", Counter());
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_TRUE(Answers(a, "one", "1 one\n"));
  ASSERT_THAT(SaveAndEnd(a, Image("whole")), IsOk());
  EXPECT_EQ(a.Wait()->exit_status(), 137u);
  EXPECT_THAT(a.Remove(), IsOk());

  Container& b = New("a", Counter());
  task::CreateTaskRequest request = b.CreateRequest();
  request.set_checkpoint(Image("whole"));
  request.set_parent_checkpoint(Image("whole"));
  ASSERT_THAT(b.Create(request), IsOk());
  EXPECT_THAT(b.Start(), IsError(kUnknown, "OCI runtime restore failed"));
  EXPECT_THAT(b.Delete(), IsOk());
  EXPECT_THAT(b.Shutdown(), IsOk());
}

// Checklist: R8.
TEST_P(Checkpoint, ARestoreThatFailsLeavesSomethingThatCanBeDeleted) {
  std::filesystem::create_directories(Image("nothing"));
  Container& a = Restored("a", Image("nothing"), Counter());
  EXPECT_THAT(a.Start(), IsError(kUnknown, "OCI runtime restore failed"));
  EXPECT_THAT(a.Delete(), IsOk());
  EXPECT_THAT(a.Shutdown(), IsOk());
}

}  // namespace
}  // namespace feather::test
