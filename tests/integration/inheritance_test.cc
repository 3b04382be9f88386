// Descriptors that the OCI runtime, loggers and containers inherit from a shim that has many open:
// exactly those that are meant for them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr char kList[] = "ls -l /proc/self/fd";

// The descriptors in each output of `ls -l /proc/self/fd` in `text`, without that of ls itself.
std::vector<std::vector<int>> Lists(absl::string_view text) {
  std::vector<std::vector<int>> lists;
  for (absl::string_view line : absl::StrSplit(text, absl::ByAnyChar("\r\n"))) {
    std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (absl::StartsWith(line, "total") || lists.empty()) lists.emplace_back();
    int descriptor = -1;
    if (words.size() < 3 || words[words.size() - 2] != "->") continue;
    if (!absl::SimpleAtoi(words[words.size() - 3], &descriptor)) continue;
    if (!absl::EndsWith(words.back(), "/fd")) lists.back().push_back(descriptor);
  }
  std::erase_if(lists, [](const std::vector<int>& list) { return list.empty(); });
  return lists;
}

class Inheritance : public ShimTest {
 protected:
  // Has the shim hold streams of every kind, a connection and an OOM watch.
  void MakeTheShimBusy(Container& c) {
    ContainerOptions streams;
    streams.in = true;
    ASSERT_THAT(c.Exec("busy", {"sleep", "1000"}, streams), IsOk());
    ASSERT_THAT(c.Start("busy"), IsOk());
    auto terminal = c.ExecRequest("terminal", {"sleep", "1000"});
    terminal.set_terminal(true);
    terminal.clear_stderr();
    ASSERT_THAT(c.Exec(terminal), IsOk());
    ASSERT_THAT(c.Start("terminal"), IsOk());
  }
};

TEST_F(Inheritance, AContainerHasItsStandardStreamsOnly) {
  for (bool terminal : {false, true}) {
    ContainerOptions options =
        Shell(absl::StrCat("read line; ", kList, "; echo end; exec sleep 1000"));
    options.in = true;
    options.spec.terminal = terminal;
    options.err = !terminal;
    Container& c = New(terminal ? "t" : "p", options);
    auto request = c.CreateRequest();
    request.set_terminal(terminal);
    ASSERT_THAT(c.Create(request), IsOk());
    ASSERT_THAT(c.Start(), IsOk());
    MakeTheShimBusy(c);
    c.stdio().in->Write("go\n");
    ASSERT_THAT(c.Exec("x", {"ls", "-l", "/proc/self/fd"}), IsOk());
    ASSERT_THAT(c.Start("x"), IsOk());
    EXPECT_THAT(c.Wait("x"), IsOk());
    ASSERT_TRUE(WaitForEof(c.exec_stdio("x")));
    EXPECT_THAT(Lists(c.exec_stdio("x").out->data()), ElementsAre(ElementsAre(0, 1, 2)));
    ASSERT_TRUE(RunUntil([&] { return absl::StrContains(c.stdio().out->data(), "end"); }));
    EXPECT_THAT(Lists(c.stdio().out->data()), ElementsAre(ElementsAre(0, 1, 2)))
        << c.stdio().out->data();
    EXPECT_THAT(c.KillAndRemove(), IsOk());
  }
}

TEST_F(Inheritance, TheRuntimeHasItsStandardStreamsOnly) {
  TestDirectory directory;
  std::string seen = directory.path() + "/seen";
  settings_.runtime = WriteRuntime(
      "runtime", absl::StrCat("{ echo total; ", kList, "; } >>", seen, "\nexec runc \"$@\"\n"));
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  MakeTheShimBusy(c);
  ASSERT_THAT(c.Pause(), IsOk());
  ASSERT_THAT(c.Resume(), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
  std::vector<std::vector<int>> lists = Lists(ReadFile(seen).value_or(""));
  EXPECT_GE(lists.size(), 7u) << "create, start, two execs, pause, resume, kill, delete";
  // Standard output is the list itself.
  EXPECT_THAT(lists, Each(ElementsAre(0, 1, 2)));
}

TEST_F(Inheritance, ALoggerHasItsStandardStreamsAndTheThreeOfItsProtocol) {
  std::string seen = ctrd().directory() + "/seen";
  std::string logger =
      WriteRuntime("logger", absl::StrCat(kList, " >", seen, "\nexec 5>&-\ncat <&3 >/dev/null\n"));
  Container& busy = New("busy");
  ASSERT_THAT(busy.Run(), IsOk());
  MakeTheShimBusy(busy);
  auto exec = busy.ExecRequest("x", {"sleep", "1000"});
  exec.set_stdout("binary://" + logger);
  exec.clear_stderr();
  ASSERT_THAT(busy.Exec(exec), IsOk());
  ASSERT_THAT(busy.Start("x"), IsOk());
  EXPECT_THAT(Lists(ReadFile(seen).value_or("")), ElementsAre(ElementsAre(0, 1, 2, 3, 4, 5)));
  EXPECT_THAT(busy.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
