// What a burst of work has cost goes back to the kernel when it is over, and an idle shim sleeps.

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/build.h"
#include "tests/support/proc.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

constexpr int kMostKib = 256;

// The OCI runtime, with an `exec` that is a child of a shell's: a thousand of runc's would take a
// minute, and it is the shim's memory that is looked at.
constexpr char kQuickExec[] = R"(
# What turns the shim's own cache off is nobody else's business.
[ -z "$GLIBC_TUNABLES" ] || exit 1
case " $* " in
*" exec "*)
  while [ $# -gt 0 ]; do
    if [ "$1" = --pid-file ]; then pid_file=$2; fi
    shift
  done
  # Reaped by whoever inherits it, not by this shell.
  while kill -0 $$; do :; done 2>/dev/null &
  echo -n $! > "$pid_file"
  ;;
*) exec runc "$@" ;;
esac
)";

class Memory : public ShimTest {
 protected:
  void SetUp() override {
    if (!kReleaseBuild || getenv("FEATHER_SHIM") != nullptr)
      GTEST_SKIP() << "other builds than the shipped program carry debugging aids";
    // The text of a program that was linked a moment ago counts as dirty.
    absl::StatusOr<UniqueFd> shim = OpenFile(settings_.shim, O_RDONLY);
    ASSERT_THAT(shim, IsOk());
    ASSERT_EQ(fsync(shim->get()), 0);
  }

  static int PrivateDirty(const Container& c) {
    return FootprintOf(c.shim_pid()).private_dirty_kib;
  }
  // Once the shim has come to rest; the least that was seen if it stays above the limit.
  int AtRest(const Container& c) {
    int least = PrivateDirty(c);
    RunUntil([&] {
      least = std::min(least, PrivateDirty(c));
      return least <= kMostKib;
    });
    return least;
  }
  void ExpectIdle(const Container& c, const char* after) {
    int now = AtRest(c);
    printf("private dirty %s: %d KiB\n", after, now);
    EXPECT_LE(now, kMostKib) << after;
  }
};

TEST_F(Memory, IsBackAfterAThousandExecs) {
  settings_.runtime = WriteRuntime("runc-quick", kQuickExec);
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ContainerOptions streams;
  streams.err = false;
  for (int batch = 0; batch < 100; ++batch) {
    std::vector<std::string> ids;
    for (int i = 0; i < 10; ++i) ids.push_back(absl::StrCat("x", batch, "-", i));
    for (const std::string& id : ids) ASSERT_THAT(c.Exec(id, {"true"}, streams), IsOk());
    std::vector<Pending<task::WaitResponse>> ends;
    std::vector<Pending<task::StartResponse>> starts;
    for (const std::string& id : ids) {
      task::StartRequest request;
      request.set_id(c.id());
      request.set_exec_id(id);
      starts.push_back(c.Send<task::StartResponse>("Start", request));
      ends.push_back(c.WaitAsync(id));
    }
    for (auto& start : starts) ASSERT_THAT(start.Get(), IsOk());
    for (auto& end : ends) ASSERT_EQ(end.Get()->exit_status(), 0u);
    for (const std::string& id : ids) ASSERT_THAT(c.Delete(id), IsOk());
  }
  ExpectIdle(c, "after 1,000 execs");
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Memory, IsBackAfterThirtyContainersAtOnce) {
  auto grouped = [](ContainerOptions options) {
    options.spec.patch = R"({"annotations": {"io.containerd.runc.v2.group": "pod"}})";
    return options;
  };
  Container& first = New("first", grouped({}));
  ASSERT_THAT(first.Run(), IsOk());
  std::vector<Container*> containers;
  for (int i = 0; i < 30; ++i)
    containers.push_back(&New(absl::StrCat("c", i), grouped(Shell("exit 7"))));
  std::vector<Pending<task::CreateTaskResponse>> creates;
  for (Container* c : containers)
    creates.push_back(c->Send<task::CreateTaskResponse>("Create", c->CreateRequest()));
  for (auto& create : creates) ASSERT_THAT(create.Get(), IsOk());
  std::vector<Pending<task::StartResponse>> starts;
  std::vector<Pending<task::WaitResponse>> ends;
  for (Container* c : containers) {
    task::StartRequest request;
    request.set_id(c->id());
    starts.push_back(c->Send<task::StartResponse>("Start", request));
    ends.push_back(c->WaitAsync());
  }
  for (auto& start : starts) ASSERT_THAT(start.Get(), IsOk());
  for (auto& end : ends) ASSERT_EQ(end.Get()->exit_status(), 7u);
  for (Container* c : containers) EXPECT_THAT(c->Remove(), IsOk());
  ExpectIdle(first, "after 30 containers at once");
  EXPECT_THAT(first.KillAndRemove(), IsOk());
}

TEST_F(Memory, IsBackAfterAThousandConnections) {
  // The shim inherits it.
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_max < 1200) GTEST_SKIP() << "at most " << files.rlim_max << " open files";
  files.rlim_cur = std::max<rlim_t>(files.rlim_cur, 1200);
  setrlimit(RLIMIT_NOFILE, &files);
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string path(absl::StripPrefix(c.answer().address, "unix://"));
  ASSERT_LT(path.size(), sizeof address.sun_path);
  memcpy(address.sun_path, path.data(), path.size());
  size_t before = ListDirectory(absl::StrCat("/proc/", c.shim_pid(), "/fd")).size();
  auto descriptors = [&] {
    return ListDirectory(absl::StrCat("/proc/", c.shim_pid(), "/fd")).size();
  };
  std::vector<UniqueFd> connections;
  for (int i = 0; i < 1000; ++i) {
    connections.emplace_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(
        connect(connections.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
        0);
  }
  ASSERT_TRUE(RunUntil([&] { return descriptors() == before + connections.size(); }));
  connections.clear();
  ASSERT_TRUE(RunUntil([&] { return descriptors() == before; }));
  ExpectIdle(c, "after 1,000 connections");
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Memory, IsBackAfterALogOfAGibibyte) {
  ContainerOptions options = Shell("dd if=/dev/zero bs=64k count=16384; sleep 1000");
  Container& c = New("a", options);
  auto request = c.CreateRequest();
  c.stdio().out->Discard(true);
  ASSERT_THAT(c.Create(request), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_TRUE(RunUntil([&] { return c.stdio().out->size() == size_t{1} << 30; }));
  ExpectIdle(c, "after a log of 1 GiB");
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Seconds until the earliest of its timers that is set wakes a process (proc(5), timerfd).
int64_t NextTimer(pid_t pid) {
  int64_t next = std::numeric_limits<int64_t>::max();
  const std::string directory = absl::StrCat("/proc/", pid, "/fdinfo");
  for (const std::string& fd : ListDirectory(directory)) {
    const std::string info = feather::ReadFile(absl::StrCat(directory, "/", fd)).value_or("");
    const size_t at = info.find("it_value: (");
    int64_t seconds = 0, nanoseconds = 0;
    if (at == info.npos || sscanf(info.c_str() + at, "it_value: (%" SCNd64 ", %" SCNd64 ")",
                                  &seconds, &nanoseconds) != 2)
      continue;
    if (seconds > 0 || nanoseconds > 0) next = std::min(next, seconds);
  }
  return next;
}

class Idle : public ShimTest {};

TEST_F(Idle, ShimIsNotWokenWithinAMinute) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  // In half a minute, or what would have woken it has done so.
  EXPECT_TRUE(ctrd().loop().RunUntil([&] { return NextTimer(c.shim_pid()) > 60; },
                                     std::chrono::seconds(30)))
      << NextTimer(c.shim_pid()) << " s";
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
