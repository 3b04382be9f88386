#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shim/inspect/report.h"

namespace feather::inspect {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr int64_t kNow = 1'800'000'000;

std::chrono::system_clock::time_point At(int64_t seconds) {
  return std::chrono::system_clock::time_point(std::chrono::seconds(seconds));
}

Node::Shim Pod() {
  Node::Shim shim{"/run/containerd/s/abc", {}};
  v1::ShimResponse& report = shim.report;
  report.set_id(std::string(64, 'a') + "end");
  report.set_namespace_("k8s.io");
  report.set_version("1.2.3");
  report.set_revision("cafe");
  report.set_pid(4194304);
  report.mutable_started_at()->set_seconds(kNow - 3 * 86400 - 4 * 3600 - 5);
  report.set_bundle("/run/bundle");
  report.set_private_memory_bytes(152 << 10);
  report.set_descriptors(24);
  report.set_connections(2);
  report.set_pending_events(7);
  report.set_oom_kills(3);
  report.set_dropped_log_lines(1);
  report.set_problems(9);
  v1::Problem& problem = *report.add_last_problems();
  problem.mutable_at()->set_seconds(kNow);
  problem.set_level("warning");
  problem.set_text("msg=\"it broke\"");
  v1::Container& running = *report.add_containers();
  running.set_id("one");
  running.set_state("running");
  running.set_pid(11);
  running.set_oom_kills(1);
  v1::Exec& exec = *running.add_execs();
  exec.set_id("shell");
  exec.set_state("stopped");
  exec.set_exit_status(130);
  v1::Container& stopped = *report.add_containers();
  stopped.set_id("two");
  stopped.set_state("stopped");
  stopped.set_exit_status(137);
  stopped.mutable_exited_at()->set_seconds(kNow);
  return shim;
}

Node OneNode() {
  Node node;
  node.at = At(kNow);
  node.shims.push_back(Pod());
  return node;
}

std::vector<std::string> Lines(const std::string& text) {
  return absl::StrSplit(text, '\n', absl::SkipEmpty());
}

TEST(InspectTable, HasALineForEachShimThatFitsTheTerminal) {
  const std::vector<std::string> lines = Lines(TableText(OneNode()));
  ASSERT_EQ(lines.size(), 3u);
  const std::vector<std::string> words = absl::StrSplit(lines[1], ' ', absl::SkipEmpty());
  EXPECT_THAT(words, ElementsAre("k8s.io", "aaaaaaaaaaa..aaend", "1.2.3", "4194304", "3d4h", "152",
                                 "KiB", "24", "1/2", "running", "1", "3", "7"));
  EXPECT_EQ(lines[0].size(), kTableWidth) << "the id has what is left";
  EXPECT_EQ(lines[2], "aaaaaaaaaa..aend: 9 problems, the last 0s ago: warning msg=\"it broke\"");
  for (const std::string& line : lines) EXPECT_LE(line.size(), kTableWidth) << line;
}

// Whatever a shim tells.
TEST(InspectTable, FitsTheTerminalWithTheLargestFigures) {
  Node node = OneNode();
  v1::ShimResponse& report = node.shims[0].report;
  report.set_namespace_("a-namespace-of-somebody");
  report.set_version("100.200.300~rc1");
  report.set_pid(UINT32_MAX);
  report.mutable_started_at()->set_seconds(0);
  report.set_private_memory_bytes(UINT64_MAX);
  report.set_descriptors(UINT32_MAX);
  report.set_pending_events(UINT64_MAX);
  report.set_problems(UINT64_MAX);
  report.mutable_last_problems(0)->set_text(std::string(300, 'x'));
  report.set_oom_kills(UINT64_MAX);
  for (int i = 0; i < 20000; ++i) {
    report.mutable_containers(0)->add_execs();
    report.add_containers()->set_state("running");
  }
  std::vector<std::string> lines = Lines(TableText(node));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[1], HasSubstr(" aaaa..d "));
  for (const std::string& line : lines) EXPECT_LE(line.size(), kTableWidth) << line;
  report.clear_containers();
  report.mutable_sandbox()->set_state("stopped");
  for (const std::string& line : Lines(TableText(node))) EXPECT_LE(line.size(), kTableWidth);
}

TEST(InspectTable, ShortIdsAreNotCutAndLongOnesGetWhatIsLeft) {
  Node node = OneNode();
  v1::ShimResponse& report = node.shims[0].report;
  report.set_namespace_("default");
  report.set_pid(77);
  report.set_private_memory_bytes(11 << 20);
  report.set_id("web-server-of-somebody");
  EXPECT_THAT(TableText(node), HasSubstr(" web-server-of-somebody "));
  report.set_id(std::string(64, 'a'));
  EXPECT_THAT(TableText(node), HasSubstr("\ndefault    aaaaaaaaaaaaaa..aaaaaaa  1.2.3 "));
  EXPECT_THAT(TableText(node), HasSubstr("  11 MiB  "));
}

TEST(InspectTable, TellsWhatDidNotAnswer) {
  Node node = OneNode();
  node.silent = {"/run/containerd/s/mute"};
  node.others = 2;
  node.dead = 3;
  const std::string text = TableText(node);
  EXPECT_THAT(text, HasSubstr("does not answer: /run/containerd/s/mute\n"));
  EXPECT_THAT(text, HasSubstr("2 shims of other kinds\n"));
  EXPECT_THAT(text, HasSubstr("3 sockets without a shim\n"));
}

TEST(InspectTable, PassesNoControlCharactersOn) {
  Node node = OneNode();
  node.shims[0].report.set_id("a\x1b[2J\nb");
  EXPECT_THAT(TableText(node), HasSubstr("a?[2J?b"));
  v1::ShimResponse& report = node.shims[0].report;
  report.mutable_containers(0)->set_state("r\x1b[1m\xc2\x9b");
  report.mutable_containers(0)->mutable_execs(0)->set_state("\x1b");
  report.mutable_last_problems(0)->set_level("\x1b");
  report.set_version("\x1b");
  report.mutable_containers()->RemoveLast();
  node.silent = {"/\x1b"};
  for (const std::string& text : {TableText(node), DetailText(node.shims[0], node.at)}) {
    EXPECT_THAT(text, Not(HasSubstr("\x1b")));
    EXPECT_THAT(text, Not(HasSubstr("\x9b")));
  }
}

TEST(InspectDetail, TellsEverything) {
  const std::string text = DetailText(Pod(), At(kNow));
  for (const char* part :
       {"up           3d4h, since 2027-01-12T03:59:55Z\n", "memory       152 KiB private\n",
        "events       7 waiting for containerd\n", "log          9 problems, 1 lines dropped\n",
        "socket       /run/containerd/s/abc\n", "container    one\n", "  state      running\n",
        "OOM kills    3\n", "  OOM kills  1\n", "exec  shell  stopped  exit status 130\n",
        "stopped, exit status 137 at 2027-01-15T08:00:00Z\n",
        "2027-01-15T08:00:00Z warning msg=\"it broke\"\n"})
    EXPECT_THAT(text, HasSubstr(part));
}

TEST(InspectJson, HasEverythingUnderTheNamesOfTheMessages) {
  Node node = OneNode();
  node.silent = {"/run/containerd/s/mute"};
  const auto json = nlohmann::json::parse(JsonText(node), nullptr, false);
  ASSERT_TRUE(json.is_object());
  const auto& shim = json["shims"][0];
  EXPECT_EQ(shim["pid"], 4194304);
  EXPECT_EQ(shim["private_memory_bytes"], 152 << 10);
  EXPECT_EQ(shim["started_at"], "2027-01-12T03:59:55.000000000Z");
  EXPECT_EQ(shim["containers"][0]["execs"][0]["exit_status"], 130);
  EXPECT_FALSE(shim["containers"][0].contains("exit_status")) << "it runs";
  EXPECT_EQ(shim["containers"][1]["exit_status"], 137);
  EXPECT_EQ(shim["last_problems"][0]["level"], "warning");
  EXPECT_EQ(json["silent"][0], "/run/containerd/s/mute");
}

TEST(Inspect, TellsOfAPodWithoutAPauseContainer) {
  Node node = OneNode();
  v1::ShimResponse& report = node.shims[0].report;
  EXPECT_FALSE(nlohmann::json::parse(JsonText(node))["shims"][0].contains("sandbox"));
  report.mutable_sandbox()->set_state("ready");
  report.mutable_sandbox()->set_pid(4194304);
  EXPECT_THAT(TableText(node), HasSubstr("1/2 running"));
  EXPECT_THAT(DetailText(node.shims[0], At(kNow)), HasSubstr("sandbox  ready\n  pid    4194304\n"));
  const auto json = nlohmann::json::parse(JsonText(node));
  EXPECT_EQ(json["shims"][0]["sandbox"], nlohmann::json({{"state", "ready"}, {"pid", 4194304}}));
  report.clear_containers();
  EXPECT_THAT(TableText(node), HasSubstr(" pod ready "));
}

TEST(InspectJson, TakesNamesThatAreNoUtf8) {
  Node node = OneNode();
  node.shims[0].report.mutable_containers(0)->set_id("\xff");
  EXPECT_TRUE(nlohmann::json::accept(JsonText(node)));
}

TEST(InspectPrometheus, HasEveryFamilyOnceWithItsSamplesBehindIt) {
  Node node = OneNode();
  node.shims.push_back(Pod());
  node.shims[1].report.set_id("b\"\\\n");
  node.silent = {"x"};
  const std::string text = PrometheusText(node);
  std::vector<std::string> families;
  for (const std::string& line : Lines(text)) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words[0] == "#") {
      if (words[1] == "HELP") families.push_back(words[2]);
      EXPECT_EQ(words[2], families.back()) << line;
      continue;
    }
    ASSERT_FALSE(families.empty());
    EXPECT_THAT(line, testing::MatchesRegex(families.back() + "([{].*[}])? [0-9]+"));
  }
  EXPECT_EQ(std::set<std::string>(families.begin(), families.end()).size(), families.size());
  for (const char* line :
       {"feather_shims 2\n", "feather_shims_silent 1\n",
        "feather_container_oom_kills_total{namespace=\"k8s.io\",shim=\"b\\\"\\\\\\n\",container="
        "\"one\"} 1\n",
        "feather_shim_oom_kills_total{namespace=\"k8s.io\",shim=\"b\\\"\\\\\\n\"} 3\n",
        "feather_shim_private_memory_bytes{namespace=\"k8s.io\",shim=\"b\\\"\\\\\\n\"} 155648\n",
        "container=\"two\",state=\"stopped\"} 1\n"})
    EXPECT_THAT(text, HasSubstr(line));
}

TEST(InspectPrometheus, HasNoSeriesTwice) {
  Node node = OneNode();
  node.shims.push_back(Pod());
  node.shims[1].report.mutable_started_at()->set_seconds(kNow);
  node.shims[1].report.set_descriptors(99);
  node.shims.push_back(Pod());
  const std::string text = PrometheusText(node);
  std::set<std::string> series;
  for (const std::string& line : Lines(text)) {
    if (line[0] == '#') continue;
    EXPECT_TRUE(series.insert(line.substr(0, line.rfind(' '))).second) << line;
  }
  EXPECT_THAT(text, HasSubstr("feather_shims 3\n"));
  EXPECT_THAT(text, HasSubstr("} 99\n")) << "the newest";
}

}  // namespace
}  // namespace feather::inspect
