// Standard streams through `ctr`, with each containerd.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "runtime/base/file.h"
#include "tests/support/daemon_test.h"

namespace feather::test {
namespace {

// FNV-1a, over what comes in pieces.
class Checksum {
 public:
  void Add(absl::string_view data) {
    for (char c : data) hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    size_ += data.size();
  }
  uint64_t size() const { return size_; }
  std::string Text() const { return absl::StrCat(size_, " bytes, ", absl::Hex(hash_)); }

 private:
  uint64_t hash_ = 0xcbf29ce484222325;
  uint64_t size_ = 0;
};

// Bytes that do not repeat, so that a lost, doubled or swapped piece is seen.
class Noise {
 public:
  explicit Noise(uint64_t bytes) : left_(bytes) {}
  size_t Fill(char* buffer, size_t size) {
    size = static_cast<size_t>(std::min<uint64_t>(left_, size));
    for (size_t i = 0; i < size; i += 8) {
      state_ ^= state_ << 13;
      state_ ^= state_ >> 7;
      state_ ^= state_ << 17;
      memcpy(buffer + i, &state_, std::min<size_t>(8, size - i));
    }
    left_ -= size;
    return size;
  }

 private:
  uint64_t left_;
  uint64_t state_ = 0x9e3779b97f4a7c15;
};

// FEATHER_TEST_MIB: less on a machine (or in a kernel) that takes too long for 1 GiB.
uint64_t PipedBytes() {
  uint64_t mib = 1024;
  if (const char* text = getenv("FEATHER_TEST_MIB"); text != nullptr) {
    EXPECT_TRUE(absl::SimpleAtoi(text, &mib)) << text;
  }
  return mib << 20;
}

// ctr closes its FIFOs when it has learned of a container's exit, and what they and the shim still
// hold for it is lost (docs/compatibility.md). So a container whose output is to arrive as a whole
// ends when that has been read.
class DaemonStdio : public DaemonTest {
 protected:
  void SetUp() override {
    DaemonTest::SetUp();
    if (daemon_ == nullptr) return;
    shared_ = daemon_->directory() + "/shared";
    ASSERT_EQ(mkdir(shared_.c_str(), 0755), 0);
  }

  // Arguments of `ctr run` of a script that ends with Release().
  std::vector<std::string> RunHeld(std::vector<std::string> flags, const std::string& script) {
    flags.insert(flags.end(), {"--rm", "--mount",
                               absl::StrCat("type=bind,src=", shared_, ",dst=/tmp,options=rbind")});
    return daemon_->Run("a", flags,
                        {"sh", "-c", script + "; until [ -e /tmp/read ]; do sleep 0.05; done"});
  }
  void Release() const { EXPECT_TRUE(WriteFile(shared_ + "/read", "", 0644).ok()); }

 private:
  std::string shared_;
};
FEATHER_EVERY_DAEMON(DaemonStdio);

// Checklist: I4.
TEST_P(DaemonStdio, CarriesAGibibyteThroughCatUnchanged) {
  const std::unique_ptr<Subprocess> run = daemon_->StartCtr(RunHeld({}, "cat"), {.input = true});
  const uint64_t bytes = PipedBytes();
  Noise noise(bytes);
  Checksum sent, received;
  const bool whole = run->Pump(
      [&](char* buffer, size_t size) {
        const size_t n = noise.Fill(buffer, size);
        sent.Add(absl::string_view(buffer, n));
        return n;
      },
      [&](absl::string_view data) {
        received.Add(data);
        if (received.size() >= bytes) Release();
      });
  EXPECT_TRUE(whole) << "after " << received.Text();
  EXPECT_EQ(received.Text(), sent.Text());
  EXPECT_EQ(run->Wait(), 0) << run->err();
}

TEST_P(DaemonStdio, KeepsStdoutAndStderrApart) {
  const std::unique_ptr<Subprocess> run =
      daemon_->StartCtr(RunHeld({}, "seq 1 20000; seq 20001 40000 >&2"));
  std::string numbers[2];
  for (int i = 1; i <= 40000; ++i) absl::StrAppend(&numbers[i > 20000], i, "\n");
  EXPECT_TRUE(run->WaitOutput([&](const std::string& out) {
    return out.size() >= numbers[0].size() && run->err().size() >= numbers[1].size();
  }));
  Release();
  EXPECT_EQ(run->Wait(), 0);
  EXPECT_EQ(run->out(), numbers[0]);
  EXPECT_EQ(run->err(), numbers[1]);
}

TEST_P(DaemonStdio, GivesTheContainerWhatIsPipedInLineByLine) {
  const std::unique_ptr<Subprocess> run = daemon_->StartCtr(
      daemon_->Run("a", {"--rm"},
                   {"sh", "-c", "while read line; do echo \"got $line\"; done; exit 5"}),
      {.input = true});
  for (const char* word : {"one", "two", "three"}) {
    ASSERT_TRUE(run->Send(absl::StrCat(word, "\n")));
    ASSERT_TRUE(run->WaitOutput(absl::StrCat("got ", word, "\n"))) << run->out() << run->err();
  }
  run->CloseInput();
  EXPECT_EQ(run->Wait(), 5);
}

TEST_P(DaemonStdio, GivesAContainerATerminalOfTheClientsSize) {
  const std::unique_ptr<Subprocess> run =
      daemon_->StartCtr(daemon_->Run("a", {"--rm", "--tty"}, {"sh"}), {.terminal = true});
  run->Resize(101, 37);
  run->Signal(SIGWINCH);
  // The prompt; what is typed before would be echoed before the terminal is in raw mode.
  ASSERT_TRUE(run->WaitOutput("# ")) << run->out();
  ASSERT_TRUE(run->Send("tty; stty size\n"));
  EXPECT_TRUE(run->WaitOutput("/dev/pts/0\r")) << run->out();
  // ctr sends the size after the start, so the container may see it a little later.
  EXPECT_TRUE(Eventually([&] {
    run->Resize(101, 37);
    run->Signal(SIGWINCH);
    return run->Send("stty size\n") && run->WaitOutput("37 101\r", Milliseconds(500));
  })) << run->out();
  ASSERT_TRUE(run->Send("exit 9\n"));
  EXPECT_EQ(run->Wait(), 9);
}

TEST_P(DaemonStdio, InterruptsWhatRunsInATerminal) {
  // A loop: an interrupt just before the shell has a child would wait for that child's end.
  const std::unique_ptr<Subprocess> run = daemon_->StartCtr(
      daemon_->Run("a", {"--rm", "--tty"},
                   {"sh", "-c", "trap 'exit 12' INT; echo ready; while :; do sleep 0.05; done"}),
      {.terminal = true});
  ASSERT_TRUE(run->WaitOutput("ready")) << run->out();
  ASSERT_TRUE(run->Send("\x03"));
  EXPECT_EQ(run->Wait(), 12) << run->out();
}

TEST_P(DaemonStdio, LosesNothingOfATerminalsOutput) {
  const std::unique_ptr<Subprocess> run =
      daemon_->StartCtr(RunHeld({"--tty"}, "seq 1 20000"), {.terminal = true});
  EXPECT_TRUE(run->WaitOutput("\n20000\r"));
  Release();
  EXPECT_EQ(run->Wait(), 0);
  // Two terminals, the container's and ctr's, make a carriage return of each line's end.
  std::string expected;
  for (int i = 1; i <= 20000; ++i) absl::StrAppend(&expected, i, "\n");
  EXPECT_EQ(absl::StrReplaceAll(run->out(), {{"\r", ""}}), expected);
}

TEST_P(DaemonStdio, RunsAContainerWithoutStreams) {
  const CommandResult run =
      daemon_->Ctr(daemon_->Run("a", {"--detach", "--null-io"}, {"sh", "-c", "echo x; exit 4"}));
  EXPECT_EQ(run.code, 0) << run.err;
  ASSERT_TRUE(daemon_->WaitEvent("/tasks/exit a"));
  daemon_->Remove("a");
}

// What `ctr run --log-uri` and nerdctl ask for. Checklist: I6, I7, I8.
TEST_P(DaemonStdio, HandsWhatAContainerPrintsToAFileOrToALogger) {
  const std::string output = daemon_->directory() + "/output";
  const std::string logger = daemon_->directory() + "/logger";
  ASSERT_TRUE(WriteFile(logger,
                        "#!/bin/sh\ntrap '' TERM\nexec >\"$2\" 2>&1\necho \"$1 "
                        "$CONTAINER_NAMESPACE $CONTAINER_ID\"\n"
                        "printf '\\0' >&5\nexec 5>&-\n/bin/cat <&3\n/bin/cat <&4\necho end\n",
                        0755)
                  .ok());
  const std::pair<std::string, std::string> uris[] = {
      {"file", "file://" + output},
      {"binary", absl::StrCat("binary://", logger, "?out=", output)},
      {"binary-v2", absl::StrCat("binary-v2://", logger, "?out=", output)}};
  for (const auto& [id, uri] : uris) {
    unlink(output.c_str());
    const CommandResult run =
        daemon_->Ctr(daemon_->Run(id, {"--detach", "--log-uri", uri},
                                  {"sh", "-c", "echo printed; echo complained >&2; exit 6"}));
    ASSERT_EQ(run.code, 0) << uri << ": " << run.err;
    ASSERT_TRUE(daemon_->WaitEvent("/tasks/exit " + id)) << uri;
    daemon_->Remove(id);
    // In a file, either of the two may come first.
    std::vector<std::string> expected = {"printed\ncomplained\n", "complained\nprinted\n"};
    if (id != "file")
      expected = {absl::StrCat("out ", daemon_->containerd_namespace(), " ", id,
                               "\nprinted\ncomplained\nend\n")};
    EXPECT_TRUE(Eventually([&] {
      return std::count(expected.begin(), expected.end(), ReadFile(output).value_or("")) > 0;
    })) << uri
        << ": " << ReadFile(output).value_or("");
  }
}

}  // namespace
}  // namespace feather::test
