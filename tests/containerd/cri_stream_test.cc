// The streams of CRI (exec, attach, port-forward), with each containerd, by WebSocket.

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/cri.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

class CriStream : public CriTest {
 protected:
  void RunAPod(const std::string& script, bool tty = false) {
    config_ = PodConfig("pod");
    auto pod = RunPod(config_, Handler());
    ASSERT_TRUE(pod.ok()) << pod.status();
    pod_ = *pod;
    cri::ContainerConfig container = ContainerConfig(config_, "a", script);
    container.set_stdin(true);
    container.set_tty(tty);
    auto id = RunContainer(pod_, config_, container);
    ASSERT_TRUE(id.ok()) << id.status();
    id_ = *id;
  }
  void RemoveThePod() {
    EXPECT_TRUE(StopPod(pod_).ok());
    EXPECT_TRUE(RemovePod(pod_).ok());
  }
  cri::ExecRequest Exec(const std::string& script) const {
    cri::ExecRequest request;
    request.set_container_id(id_);
    for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script})
      request.add_cmd(word);
    request.set_stdin(true);
    request.set_stdout(true);
    request.set_stderr(true);
    return request;
  }
  cri::AttachRequest Attach() const {
    cri::AttachRequest request;
    request.set_container_id(id_);
    request.set_stdin(true);
    request.set_stdout(true);
    request.set_stderr(true);
    return request;
  }

  // A line for a container that echoes them. containerd hands input on before it hands out output:
  // an answer that comes in between is in the log only.
  static bool IsAnswered(WebSocket& attach, const std::string& line) {
    return Eventually([&] {
      attach.Send(0, line + "\n");
      return attach.ReadUntil(
          [&] { return absl::StrContains(attach.channel(1), "got " + line + "\n"); },
          Milliseconds(5000));
    });
  }
  // Without what was said again.
  std::string LogOnce() const {
    std::string text, last;
    for (absl::string_view line : absl::StrSplit(LogOf("a"), '\n', absl::SkipEmpty())) {
      if (line != last) absl::StrAppend(&text, line, "\n");
      last = std::string(line);
    }
    return text;
  }

  cri::PodSandboxConfig config_;
  std::string pod_;
  std::string id_;
};
INSTANTIATE_TEST_SUITE_P(Containerd, CriStream,
                         ::testing::Values("bookworm", "trixie", "sid", "sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(CriStream, AnExecHasItsStreamsItsTerminalAndItsStatus) {
  ASSERT_NO_FATAL_FAILURE(RunAPod("exec sleep 1000"));
  auto exec = Stream("Exec", Exec("read -r line; echo got $line; echo oops >&2; exit 3"));
  ASSERT_NE(exec, nullptr);
  exec->Send(0, "hello\n");
  EXPECT_TRUE(exec->ReadToEnd());
  EXPECT_EQ(exec->channel(1), "got hello\n");
  EXPECT_EQ(exec->channel(2), "oops\n");
  EXPECT_THAT(exec->channel(3), HasSubstr(R"("reason":"ExitCode","message":"3")"));

  cri::ExecRequest request =
      Exec("until [ \"$(stty size)\" = '37 91' ]; do sleep 0.02; done; stty size; tty");
  request.set_tty(true);
  request.set_stderr(false);
  auto terminal = Stream("Exec", request);
  ASSERT_NE(terminal, nullptr);
  // containerd forgets a size that comes before the process has started.
  EXPECT_TRUE(Eventually([&] {
    terminal->Send(4, R"({"Width":91,"Height":37})");
    return terminal->ReadToEnd(Milliseconds(200));
  }));
  EXPECT_THAT(terminal->channel(1), HasSubstr("37 91\r\n/dev/pts/"));
  EXPECT_THAT(terminal->channel(3), HasSubstr("Success"));

  // More than any buffer on the way holds.
  auto much = Stream("Exec", Exec("head -c 3000000 | md5sum; head -c 3000000 /dev/zero"));
  ASSERT_NE(much, nullptr);
  for (int i = 0; i < 300; ++i) much->Send(0, std::string(10'000, 'x'));
  EXPECT_TRUE(much->ReadToEnd());
  EXPECT_THAT(much->channel(1), HasSubstr("8e32e22642bddc89698e25a4e9bf528b  -\n"));
  EXPECT_EQ(much->channel(1).size(), 3'000'000u + 36);
  RemoveThePod();
}

TEST_P(CriStream, AnAttachSeesTheContainerAlsoAfterARestartOfContainerd) {
  ASSERT_NO_FATAL_FAILURE(RunAPod("while read -r line; do echo got $line; done; exit 6"));
  auto attach = Stream("Attach", Attach());
  ASSERT_NE(attach, nullptr);
  EXPECT_TRUE(IsAnswered(*attach, "one")) << attach->channel(1);
  attach = Stream("Attach", Attach());
  ASSERT_NE(attach, nullptr);
  EXPECT_TRUE(IsAnswered(*attach, "two")) << attach->channel(1);

  // What containerd has read and not yet written to the log goes with it.
  EXPECT_TRUE(Eventually([&] { return LogOnce() == "got one\ngot two\n"; })) << LogOf("a");
  ASSERT_TRUE(daemon_->Restart()) << daemon_->Log();
  EXPECT_TRUE(attach->ReadToEnd());
  EXPECT_TRUE(Eventually([&] { return ExecSync(id_, "true").ok(); }));
  attach = Stream("Attach", Attach());
  ASSERT_NE(attach, nullptr);
  EXPECT_TRUE(IsAnswered(*attach, "three")) << attach->channel(1);
  EXPECT_TRUE(Eventually([&] { return LogOnce() == "got one\ngot two\ngot three\n"; }))
      << LogOf("a");
  EXPECT_TRUE(StopContainer(id_, 0).ok());
  EXPECT_TRUE(attach->ReadToEnd());
  RemoveThePod();
}

TEST_P(CriStream, AnAttachGoesOnWhileTheContainerIsBeingStopped) {
  ASSERT_NO_FATAL_FAILURE(
      RunAPod("trap 'echo asked' TERM; echo ready;"
              // A signal ends the read.
              "until [ \"$line\" = end ]; do line=; read -r line && echo got $line; done;"
              "echo bye; exit 6"));
  auto attach = Stream("Attach", Attach());
  ASSERT_NE(attach, nullptr);
  EXPECT_TRUE(Eventually([&] { return LogOf("a") == "ready\n"; })) << LogOf("a");
  EXPECT_TRUE(IsAnswered(*attach, "one")) << attach->channel(1);
  std::jthread stop([&] { EXPECT_TRUE(StopContainer(id_, 1000).ok()); });
  EXPECT_TRUE(attach->ReadUntil([&] { return absl::StrContains(attach->channel(1), "asked\n"); }));
  // One that was there, and one that comes while it stops.
  EXPECT_TRUE(IsAnswered(*attach, "two")) << attach->channel(1);
  auto later = Stream("Attach", Attach());
  ASSERT_NE(later, nullptr);
  EXPECT_TRUE(IsAnswered(*later, "three")) << later->channel(1);
  attach->Send(0, "end\n");
  EXPECT_TRUE(attach->ReadToEnd());
  EXPECT_TRUE(later->ReadToEnd());
  stop.join();
  // containerd may close an attach before it has handed out the last of the output.
  EXPECT_TRUE(Eventually([&] { return LogOf("a").ends_with("got end\nbye\n"); })) << LogOf("a");
  EXPECT_EQ(ContainerStatus(id_).exit_code(), 6);
  RemoveThePod();
}

TEST_P(CriStream, APortOfThePodCanBeForwarded) {
  ASSERT_NO_FATAL_FAILURE(RunAPod("exec nc -ll -p 8080 -e /bin/cat"));
  cri::PortForwardRequest request;
  request.set_pod_sandbox_id(pod_);
  request.add_port(8080);
  const std::string port = {'\x90', '\x1f'};
  std::string echoed;
  // Until it listens.
  EXPECT_TRUE(Eventually([&] {
    auto forward = Stream("PortForward", request);
    if (forward == nullptr) return true;
    forward->Send(0, "hello\n");
    forward->ReadUntil([&] {
      return forward->channel(0).size() >= port.size() + 6 || forward->channel(1).size() > 2;
    });
    echoed = forward->channel(0);
    return echoed.size() > port.size();
  }));
  EXPECT_EQ(echoed, port + "hello\n");
  RemoveThePod();
}

}  // namespace
}  // namespace feather::test
