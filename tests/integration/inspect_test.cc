// `inspect`, with real shims.

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

class Inspect : public ShimTest {
 protected:
  // Other tests' shims use the same directory for their sockets: this test's own are linked into
  // one where nothing else is.
  std::string SocketDirectory() {
    std::string directory = ctrd().directory() + "/s";
    mkdir(directory.c_str(), 0700);
    return directory;
  }
  void Link(const Container& container) {
    const std::string address(absl::StripPrefix(container.answer().address, "unix://"));
    ASSERT_EQ(
        symlink(address.c_str(), absl::StrCat(SocketDirectory(), "/", container.id()).c_str()), 0);
  }
  // The shim's own, and the one for debuggers.
  void LinkAllSocketsOf(pid_t shim) {
    const std::string table = *ReadFile("/proc/net/unix");
    for (absl::string_view line : absl::StrSplit(table, '\n')) {
      std::vector<std::string> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
      // Those that listen (__SO_ACCEPTCON).
      if (fields.size() != 8 || fields[3] != "00010000") continue;
      for (int fd = 0; fd < 20; ++fd) {
        char inode[64] = {};
        std::string link = absl::StrCat("/proc/", shim, "/fd/", fd);
        if (readlink(link.c_str(), inode, sizeof inode - 1) < 0) continue;
        if (inode != absl::StrCat("socket:[", fields[6], "]")) continue;
        sockets_.push_back(fields[7]);
        ASSERT_EQ(symlink(fields[7].c_str(),
                          absl::StrCat(SocketDirectory(), "/", sockets_.size()).c_str()),
                  0);
      }
    }
    EXPECT_EQ(sockets_.size(), 2u);
  }
  HelperResult Run(std::vector<std::string> words) {
    HelperCommand command;
    command.argv = {ShimUnderTest(), "inspect", "-socket-directory", SocketDirectory()};
    command.argv.insert(command.argv.end(), words.begin(), words.end());
    command.cwd = "/";
    command.joined = false;
    return RunHelper(command);
  }
  // On a busy machine a shim may not answer in time, the stock one above all: once more then.
  // `silent`: of so many no answer is expected.
  Json RunJson(std::vector<std::string> words = {}, size_t silent = 0) {
    words.push_back("-json");
    Json node;
    for (int i = 0; i < 10; ++i) {
      HelperResult result = Run(words);
      node = Json::parse(result.out, nullptr, false);
      if (result.exit_code == 0 && node["silent"].size() == silent) return node;
    }
    ADD_FAILURE() << node;
    return node;
  }

  std::vector<std::string> sockets_;
};

TEST_F(Inspect, TellsOfAContainersWholeLife) {
  Container& c = New("a", Shell("sleep 1000"));
  Link(c);
  Json shim = RunJson()["shims"][0];
  EXPECT_EQ(shim["id"], "a");
  EXPECT_EQ(shim["namespace"], ctrd().name_space());
  EXPECT_EQ(shim["pid"], c.shim_pid());
  EXPECT_EQ(shim["bundle"], c.bundle());
  EXPECT_GT(shim["private_memory_bytes"], 10000);
  EXPECT_GE(shim["connections"], 2) << "the test's, and its own";
  EXPECT_EQ(shim["containers"], Json::array());

  absl::StatusOr<uint32_t> pid = c.Create();
  ASSERT_THAT(pid, IsOk());
  Json container = RunJson()["shims"][0]["containers"][0];
  EXPECT_EQ(container["id"], "a");
  EXPECT_EQ(container["state"], "created");
  EXPECT_EQ(container["pid"], *pid);
  EXPECT_THAT(std::string(container["cgroup"]), HasSubstr("/sys/fs/cgroup"));

  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_THAT(c.Exec("x", {"false"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  ASSERT_THAT(c.Wait("x"), IsOk());
  container = RunJson()["shims"][0]["containers"][0];
  EXPECT_EQ(container["state"], "running");
  EXPECT_EQ(container["execs"][0]["id"], "x");
  EXPECT_EQ(container["execs"][0]["state"], "stopped");
  EXPECT_EQ(container["execs"][0]["exit_status"], 1);

  ASSERT_THAT(c.Kill(SIGKILL), IsOk());
  ASSERT_THAT(c.Wait(), IsOk());
  container = RunJson()["shims"][0]["containers"][0];
  EXPECT_EQ(container["state"], "stopped");
  EXPECT_EQ(container["exit_status"], 137);
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Inspect, FindsAShimByWhatItsContainersAreCalled) {
  Container& a = New("alpha");
  Container& b = New("beta");
  Link(a);
  Link(b);
  ASSERT_THAT(a.Run(), IsOk());
  ASSERT_THAT(b.Run(), IsOk());
  EXPECT_EQ(RunJson()["shims"].size(), 2u);
  EXPECT_EQ(RunJson({"alp"})["shims"][0]["id"], "alpha");
  HelperResult detail = Run({"beta"});
  EXPECT_EQ(detail.exit_code, 0);
  EXPECT_THAT(detail.out, HasSubstr("container    beta\n"));
  HelperResult none = Run({"gamma"});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, HasSubstr("no shim of feather's has gamma"));
  EXPECT_EQ(RunJson({"al..ha"})["shims"][0]["id"], "alpha") << "as the table has long ones";
  EXPECT_EQ(Run({"alp..alpha"}).exit_code, 1) << "nothing is left out there";
  HelperResult wrong = Run({"-no-such-flag"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("\nusage: containerd-shim-feather-v2 inspect "));
  HelperResult help = Run({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("-prometheus"));
  EXPECT_THAT(a.KillAndRemove(), IsOk());
  EXPECT_THAT(b.KillAndRemove(), IsOk());
}

TEST_F(Inspect, TellsShimsThatHangAndThoseThatAreGone) {
  Container& a = New("a");
  Container& b = New("b");
  Link(a);
  Link(b);
  // What a killed shim leaves.
  const std::string dead = SocketDirectory() + "/dead";
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  dead.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  close(fd);

  kill(b.shim_pid(), SIGSTOP);
  Json node = RunJson({}, 1);
  HelperResult table = Run({});
  kill(b.shim_pid(), SIGCONT);
  EXPECT_EQ(node["shims"].size(), 1u);
  EXPECT_EQ(node["shims"][0]["id"], "a");
  EXPECT_EQ(node["silent"], Json::array({SocketDirectory() + "/b"}));
  EXPECT_EQ(node["dead_sockets"], 1);
  EXPECT_THAT(table.out, HasSubstr("does not answer: " + SocketDirectory() + "/b\n"));
  EXPECT_EQ(RunJson()["shims"].size(), 2u) << "it goes on";
  EXPECT_THAT(a.Shutdown(), IsOk());
  EXPECT_THAT(b.Shutdown(), IsOk());
}

// At debug there is a second socket, for a debugger of the stock shim.
TEST_F(Inspect, DoesNotTakeADebugSocketForAShimThatHangs) {
  settings_.debug = true;
  Container& c = New("a");
  LinkAllSocketsOf(c.shim_pid());
  Json node = RunJson();
  EXPECT_EQ(node["shims"].size(), 1u);
  EXPECT_EQ(node["silent"], Json::array());
  EXPECT_EQ(node["other_shims"], 0);
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Inspect, ADebugSocketKeepsNobodyWaiting) {
  settings_.debug = true;
  Container& c = New("a");
  LinkAllSocketsOf(c.shim_pid());
  for (const std::string& path : sockets_) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    pollfd end = {fd, POLLIN, 0};
    // The end of file, and not of the shim's own, at which nothing was asked.
    if (path != absl::StripPrefix(c.answer().address, "unix://")) {
      EXPECT_EQ(poll(&end, 1, 30000), 1);
      char byte;
      EXPECT_EQ(read(fd, &byte, 1), 0);
    }
    close(fd);
  }
  EXPECT_THAT(c.Shutdown(), IsOk());
}

TEST_F(Inspect, CountsShimsOfOtherKinds) {
  settings_.shim = DebianBinary("bookworm", "containerd-shim-runc-v2");
  if (settings_.shim.empty()) settings_.shim = "/usr/bin/containerd-shim-runc-v2";
  settings_.daemon = Series::k1_6;
  Container& c = New("a");
  Link(c);
  Json node = RunJson();
  EXPECT_EQ(node["shims"], Json::array());
  EXPECT_EQ(node["other_shims"], 1);
  ctrd().ForgiveShim(c.shim_pid());
  EXPECT_THAT(c.Run(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Inspect, WritesTheSameIntoTheLogOnSignal) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ASSERT_THAT(c.Exec("x", {"sleep", "1000"}), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  kill(c.shim_pid(), SIGUSR1);
  EXPECT_TRUE(RunUntil([&] {
    return ctrd().log().find("msg=\"state of an exec\"") != std::string::npos;
  })) << ctrd().log();
  for (const char* part : {"containers=1", "started_at=", "msg=\"state of a container\"",
                           "exec_id=x", "state=running", "exited_at=", "sandbox="})
    EXPECT_THAT(ctrd().log(), HasSubstr(part));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Inspect, WithoutAShimThereIsNothingToTell) {
  EXPECT_EQ(RunJson()["shims"], Json::array());
  HelperCommand command;
  command.argv = {ShimUnderTest(), "inspect", "-prometheus", "-socket-directory", "/nowhere"};
  HelperResult result = RunHelper(command);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("feather_shims 0\n"));
}

}  // namespace
}  // namespace feather::test
