#include "runtime/base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace feather {
namespace {

using testing::ContainsRegex;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

class LogTest : public testing::Test {
 protected:
  LogTest() {
    std::array<int, 2> ends;
    if (pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) < 0) abort();
    reader_.Reset(ends[0]);
    SetLogSink(UniqueFd(ends[1]));
    SetLogLevel(LogLevel::kInfo);
    SetLogCommonField("", "");
  }
  ~LogTest() override { SetLogSink(UniqueFd()); }

  // What is in the pipe now.
  std::string Written() {
    std::string all;
    std::array<char, 4096> buffer;
    ssize_t n;
    while ((n = read(reader_.get(), buffer.data(), buffer.size())) > 0)
      all.append(buffer.data(), static_cast<size_t>(n));
    return all;
  }

  UniqueFd reader_;
};

// Checklist: B1.
TEST_F(LogTest, WritesLogrusText) {
  LogInfo("task started", {{"pid", "12"}, {"id", "a-b.c_d/e@f^g+h"}, {"error", "no such: \"x\""}});
  EXPECT_THAT(
      Written(),
      ContainsRegex(
          "^time=\"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{9}Z\" level=info "
          "msg=\"task started\" error=\"no such: \\\\\"x\\\\\"\" id=a-b.c_d/e@f\\^g\\+h "
          "pid=12\n$"));
}

TEST_F(LogTest, NamesTheLevelsAsLogrusDoes) {
  SetLogLevel(LogLevel::kTrace);
  Log(LogLevel::kTrace, "a");
  LogDebug("b");
  LogWarning("c");
  LogError("d");
  std::vector<std::string> lines = absl::StrSplit(Written(), '\n', absl::SkipEmpty());
  ASSERT_THAT(lines, SizeIs(4));
  EXPECT_THAT(lines[0], EndsWith(" level=trace msg=a"));
  EXPECT_THAT(lines[1], EndsWith(" level=debug msg=b"));
  EXPECT_THAT(lines[2], EndsWith(" level=warning msg=c"));
  EXPECT_THAT(lines[3], EndsWith(" level=error msg=d"));
}

TEST_F(LogTest, LeavesOutWhatIsBelowTheLevel) {
  LogDebug("quiet");
  EXPECT_EQ(Written(), "");
  SetLogLevel(LogLevel::kDebug);
  LogDebug("loud");
  EXPECT_THAT(Written(), HasSubstr("msg=loud"));
}

TEST_F(LogTest, EveryLineCarriesTheCommonField) {
  SetLogCommonField("namespace", "k8s.io");
  LogInfo("x", {{"a", "1"}, {"z", "2"}});
  EXPECT_THAT(Written(), EndsWith(" msg=x a=1 namespace=k8s.io z=2\n"));
}

TEST_F(LogTest, KeepsControlCharactersOutOfTheLine) {
  LogInfo("a\nb\tc\rd\x01\x7f\\ \xc3\xa4");
  EXPECT_THAT(Written(), EndsWith(" msg=\"a\\nb\\tc\\rd\\x01\\x7f\\\\ \xc3\xa4\"\n"));
}

TEST_F(LogTest, CutsALineThatAPipeCouldTear) {
  LogInfo(std::string(10000, '\n'), {{"id", "late"}});
  std::string line = Written();
  EXPECT_LE(line.size(), size_t{PIPE_BUF});
  EXPECT_THAT(line, EndsWith("\\n...\"\n"));
}

// Checklist: B2.
TEST_F(LogTest, DropsAndCountsWhenTheSinkIsFullAndTellsLater) {
  uint64_t before = DroppedLogLines();
  std::string filler(PIPE_BUF, 'x');
  while (DroppedLogLines() == before) LogInfo(filler);
  LogInfo(filler);
  EXPECT_EQ(DroppedLogLines(), before + 2);
  Written();
  LogInfo("room again");
  std::vector<std::string> lines = absl::StrSplit(Written(), '\n', absl::SkipEmpty());
  ASSERT_THAT(lines, SizeIs(2));
  EXPECT_THAT(lines[0], EndsWith(" level=warning msg=\"log lines dropped\" count=2"));
  EXPECT_THAT(lines[1], EndsWith(" msg=\"room again\""));
  LogInfo("told once");
  EXPECT_THAT(Written(), Not(HasSubstr("dropped")));
  EXPECT_EQ(DroppedLogLines(), before + 2);
}

TEST_F(LogTest, WithoutASinkNothingIsWrittenOrCounted) {
  SetLogSink(UniqueFd());
  uint64_t before = DroppedLogLines();
  LogError("lost");
  EXPECT_EQ(DroppedLogLines(), before);
}

TEST_F(LogTest, WritesLogrusJsonIfAsked) {
  SetLogFormat(LogFormat::kJson);
  SetLogCommonField("shim", "pod");
  LogWarning("a \"b\"\n", {{"id", "x\xff"}, {"alpha", "1"}});
  SetLogFormat(LogFormat::kText);
  const std::string line = Written();
  const auto json = nlohmann::json::parse(line, nullptr, false);
  ASSERT_TRUE(json.is_object()) << line;
  EXPECT_EQ(json["level"], "warning");
  EXPECT_EQ(json["msg"], "a \"b\"\n");
  EXPECT_EQ(json["id"], "x\xef\xbf\xbd") << "bytes that are no UTF-8";
  EXPECT_EQ(json["shim"], "pod");
  EXPECT_THAT(std::string(json["time"]), ContainsRegex("^2[0-9-]{9}T[0-9:]{8}[.][0-9]{9}Z$"));
  EXPECT_THAT(line, EndsWith("}\n"));
}

TEST_F(LogTest, CutsWhatIsTooLongInJsonToo) {
  SetLogFormat(LogFormat::kJson);
  LogInfo("m", {{"a", std::string(10000, '\n')}, {"id", "kept"}});
  SetLogFormat(LogFormat::kText);
  const std::string line = Written();
  EXPECT_LE(line.size(), size_t{PIPE_BUF});
  EXPECT_EQ(nlohmann::json::parse(line, nullptr, false)["id"], "kept");
}

TEST_F(LogTest, KeepsTheLastProblemsEvenWhenNobodyReads) {
  SetLogSink(UniqueFd());
  const uint64_t before = ProblemCount();
  for (size_t i = 0; i < kKeptProblems; ++i) LogWarning("old");
  LogInfo("no problem");
  LogError("new", {{"id", "c"}, {"error", std::string(5000, 'e')}});
  EXPECT_EQ(ProblemCount(), before + kKeptProblems + 1);
  ASSERT_THAT(LastProblems(), SizeIs(kKeptProblems));
  EXPECT_EQ(LastProblems().front().text, "msg=old");
  EXPECT_EQ(LastProblems().back().level, LogLevel::kError);
  EXPECT_THAT(LastProblems().back().text, testing::StartsWith("msg=new error=eee"));
  EXPECT_LT(LastProblems().back().text.size(), 600u);
}

TEST(UtcText, IsRfc3339) {
  using std::chrono::system_clock;
  const system_clock::time_point leap =
      system_clock::time_point(std::chrono::duration_cast<system_clock::duration>(
          std::chrono::nanoseconds(951827696000000042)));
  EXPECT_EQ(UtcText(leap), "2000-02-29T12:34:56.000000042Z");
  EXPECT_EQ(UtcText(leap, false), "2000-02-29T12:34:56Z");
}

TEST_F(LogTest, KeepsErrno) {
  errno = ENOTTY;
  SetLogSink(UniqueFd(open("/dev/full", O_WRONLY | O_CLOEXEC)));
  errno = ENOTTY;
  LogInfo("x");
  EXPECT_EQ(errno, ENOTTY);
}

}  // namespace
}  // namespace feather
