// What the benchmark (tests/bench) makes of its figures.
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/base/file.h"
#include "tests/bench/report.h"
#include "tests/support/build.h"

namespace feather::bench {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kNames = {"ours", "theirs", "bare"};

TEST(BenchReport, TableTellsMediansRangesAndRatios) {
  Report report;
  report.Get("State", "µs").values[0] = {3, 1, 2};
  report.Get("State", "µs").values[1] = {8};
  EXPECT_THAT(report.Table({"a machine"}, kNames),
              ::testing::AllOf(HasSubstr("- a machine\n\n| figure | unit | ours | theirs | ratio"),
                               HasSubstr("| State | µs | 2.00 (1.00–3.00) | 8.00 | 0.25 |")));
}

TEST(BenchReport, ColumnsHaveDifferentNames) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(ColumnNames({"/a/containerd-shim-feather-v2"}), Names{"feather-v2"});
  EXPECT_EQ(ColumnNames({"/a/containerd-shim-feather-v2", "/b/containerd-shim-runc-v2"}),
            (Names{"feather-v2", "runc-v2"}));
  EXPECT_EQ(ColumnNames({"/home/new/bin/shim", "/home/old/bin/shim"}),
            (Names{"shim (new)", "shim (old)"}));
  EXPECT_EQ(ColumnNames({"/usr/bin/shim", "/bin/shim"}), (Names{"shim (usr)", "shim ()"}));
  EXPECT_EQ(ColumnNames({"/a/shim", "/a/shim"}), (Names{"shim", "shim again"}));
}

TEST(BenchReport, PageHasTheTable) {
  Report report;
  report.Get("a < b", "µs").values[0] = {3, 1, 2};
  report.Get("a < b", "µs").values[1] = {8};
  EXPECT_THAT(
      report.Html({"a machine"}, kNames),
      ::testing::AllOf(HasSubstr("<th>figure</th><th>unit</th><th>ours</th><th>theirs</th>"),
                       HasSubstr("<td>a &lt; b</td><td>µs</td><td>2.00 (1.00–3.00)</td>"
                                 "<td>8.00</td><td>0.25</td>")));
}

TEST(BenchReport, TellsOnceWhatIsMissing) {
  Report report;
  report.AddMissing("a < b: no peer");
  report.AddMissing("a < b: no peer");
  const std::string table = report.Table({"a machine"}, kNames);
  EXPECT_THAT(table, HasSubstr("- a machine\n- missing: a < b: no peer\n\n| figure | unit |"));
  EXPECT_THAT(report.Html({"a machine"}, kNames),
              HasSubstr("<li>a machine</li><li>missing: a &lt; b: no peer</li></ul>"));
}

TEST(BenchReport, BarsOfNegativeValuesGoToTheLeftOfZero) {
  Report report;
  report.Get("what a shim adds", "ms").values[0] = {-30};
  report.Get("what a shim adds", "ms").values[1] = {0, 10, 11};
  // 330 wide, from -30 to 11.
  EXPECT_THAT(report.Html({}, kNames),
              ::testing::AllOf(HasSubstr("<rect x='92.0' y='1' width='241.5'"),
                               HasSubstr("<rect x='333.5' y='20' width='80.5'"),
                               HasSubstr("x1='333.5' x2='333.5' y1='0' y2='38' class='zero'")));
}

TEST(BenchReport, BarsOfPositiveValuesBeginAtTheLeft) {
  Report report;
  report.Get("State", "µs").values[0] = {4};
  report.Get("State", "µs").values[1] = {8};
  const std::string page = report.Html({}, kNames);
  EXPECT_THAT(page, ::testing::AllOf(HasSubstr("<rect x='92.0' y='1' width='165.0'"),
                                     HasSubstr("<rect x='92.0' y='20' width='330.0'")));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("class='zero'")));
}

TEST(BenchReport, PlotOfFewPointsMarksEachAndTellsItsX) {
  Report report;
  for (auto [x, y] : {std::pair(1, 4104), std::pair(20, 500), std::pair(1000, 262)})
    report.AddPoint("Memory", "shims", "KiB", Column::kFirst, x, y, Scale::kLogOfFew);
  const std::string page = report.Html({}, kNames);
  for (const char* x :
       {"x='60.0' y='240' text-anchor='middle'>1<", "x='268.2' y='240' text-anchor='middle'>20<",
        "x='540.0' y='240' text-anchor='middle'>1000<"})
    EXPECT_THAT(page, HasSubstr(x));
  // From 200 to 5,000: 500 is 0.285 of the way, by its logarithm.
  for (const char* y : {">200<", ">500<", ">5000<", "<circle cx='268.2' cy='164.8'"})
    EXPECT_THAT(page, HasSubstr(y));
  EXPECT_THAT(page, ::testing::Not(::testing::AnyOf(HasSubstr(">100<"), HasSubstr(">10000<"))));
}

TEST(BenchReport, PlotOfManyPointsIsLinear) {
  Report report;
  for (int i = 0; i <= 100; ++i)
    report.AddPoint("State", "µs", "part", Column::kSecond, 1 + 99 * (i / 100.0), i / 100.0);
  const std::string page = report.Html({}, kNames);
  for (const char* tick : {">1.00<", ">3.16<", ">10.0<", ">31.6<", ">100<", ">0.25<", ">0.75<"})
    EXPECT_THAT(page, HasSubstr(tick));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("<circle")));
}

TEST(BenchReport, PlotOfOnePointIsDrawn) {
  Report report;
  report.AddPoint("Memory", "shims", "KiB", Column::kFirst, 1, 100, Scale::kLogOfFew);
  EXPECT_THAT(report.Html({}, kNames), HasSubstr("<circle cx='60.0' cy='224.0'"));
}

// The last cells of the row of a figure with these medians: the goal, and whether it is met.
std::string Judged(const std::string& goal, double first, std::optional<double> second = {},
                   std::optional<double> bare = {}, bool more_is_better = false) {
  Report report;
  Figure& figure = report.Get("x", "ms", goal, more_is_better);
  figure.values[0] = {first - 1, first, first + 1000};
  if (second) figure.values[1] = {*second};
  if (bare) figure.values[2] = {*bare};
  const std::string table = report.Table({}, kNames);
  const size_t at = table.rfind(" | " + goal + " | ");
  return at == table.npos ? table : table.substr(at + goal.size() + 6);
}

TEST(BenchReport, TellsWhetherAGoalIsMet) {
  const std::string met = "met |\n", missed = "missed |\n";
  struct Case {
    const char* goal;
    double good, bad;  // 100 is the second's and the bare runtime's
  };
  for (const Case& c : std::initializer_list<Case>{{"1", 1, 2},
                                                   {"0", 0, 0.5},
                                                   {"under 1", 0.9, 1},
                                                   {"at most 1.5", 1.5, 1.6},
                                                   {"at most 21", 21, 22},
                                                   {"at most 1/4", 25, 26},
                                                   {"at most 1/12", 8, 9},
                                                   {"at most 200, and 1/15", 6, 7},
                                                   {"at most 5, and 1/15", 5, 6},
                                                   {"at least 1.0", 100, 99},
                                                   {"at least 1.2 times", 120, 119},
                                                   {"at least Go's", 100, 99},
                                                   {"at most Go's", 100, 101},
                                                   {"no worse", 100, 101},
                                                   {"no slower", 100, 101},
                                                   {"faster", 99, 100},
                                                   {"less", 99, 100},
                                                   {"bare + 4", 104, 105},
                                                   {"bare + 3 %", 103, 103.1}}) {
    EXPECT_EQ(Judged(c.goal, c.good, 100, 100), met) << c.goal;
    EXPECT_EQ(Judged(c.goal, c.bad, 100, 100), missed) << c.goal;
  }
  EXPECT_EQ(Judged("no worse", 100, 100, {}, /*more_is_better=*/true), met);
  EXPECT_EQ(Judged("no worse", 99, 100, {}, /*more_is_better=*/true), missed);
}

TEST(BenchReport, DoesNotJudgeWhatHasNothingToBeComparedWith) {
  EXPECT_EQ(Judged("at most 1/4", 1), " |\n");
  EXPECT_EQ(Judged("bare + 4", 1, 2), " |\n");
  EXPECT_EQ(Judged("constant", 1, 2), " |\n");
  EXPECT_EQ(Judged("no growth", 1, 2), " |\n");
}

TEST(BenchReport, NoGrowthIsAPageMoreThanWhenIdle) {
  Report report;
  report.Get("private dirty memory, one idle container", "KiB").values[0] = {164, 168, 172};
  report.Get("after execs", "KiB", "no growth").values[0] = {176};
  report.Get("after a log", "KiB", "no growth").values[0] = {180};
  const std::string table = report.Table({}, kNames);
  EXPECT_THAT(table, HasSubstr("| after execs | KiB | 176 |  |  |  | no growth | met |"));
  EXPECT_THAT(table, HasSubstr("| after a log | KiB | 180 |  |  |  | no growth | missed |"));
}

TEST(BenchReport, ConstantIsAsMuchAsTheFirst) {
  Report report;
  for (double value : {160, 176, 177, 143}) {
    report.Get(absl::StrCat("to ", value), "KiB", "constant").values[0] = {value};
  }
  const std::string table = report.Table({}, kNames);
  for (const char* row : {"| to 160 | KiB | 160 |  |  |  | constant |  |",
                          "| to 176 | KiB | 176 |  |  |  | constant | met |",
                          "| to 177 | KiB | 177 |  |  |  | constant | missed |",
                          "| to 143 | KiB | 143 |  |  |  | constant | missed |"})
    EXPECT_THAT(table, HasSubstr(row));
}

TEST(BenchReport, PageTellsWhetherAGoalIsMet) {
  Report report;
  report.Get("threads", "", "1").values[0] = {1};
  report.Get("Create", "ms", "bare + 4").values[0] = {1};
  const std::string page = report.Html({}, kNames);
  EXPECT_THAT(page, HasSubstr("goal: 1, <b>met</b></p>"));
  EXPECT_THAT(page, HasSubstr("goal: bare + 4</p>"));
  EXPECT_THAT(page, HasSubstr("<td>1</td><td>met</td>"));
}

TEST(BenchReport, RefusesGoalsThatNobodyCanJudge) {
  Report report;
  for (const char* goal : {"quick", "at most", "at most x", "at most 1/4 or so", "bare + 3 %%"})
    EXPECT_THROW(report.Get(goal, "ms", goal), std::invalid_argument) << goal;
}

// Those of the long run, too, of which no other test is.
TEST(BenchReport, KnowsTheGoalsOfTheDocument) {
  const std::string document =
      ReadFile(absl::StrCat(test::kSourceDirectory, "/docs/performance.md")).value_or("");
  size_t title = document.find("| figure | unit |");
  ASSERT_NE(title, document.npos);
  const std::string text = document.substr(title, document.find("\n\n", title) - title);
  Report report;
  int goals = 0;
  for (absl::string_view row : absl::StrSplit(text, '\n')) {
    std::vector<std::string> cells = absl::StrSplit(row, " | ");
    ASSERT_GE(cells.size(), 7U) << row;
    std::string goal(absl::StripSuffix(cells[6], " |"));
    if (goal.empty() || goal == "goal" || goal == "---") continue;
    EXPECT_NO_THROW(report.Get(cells[0], "", goal)) << row;
    ++goals;
  }
  EXPECT_GT(goals, 40);
}

}  // namespace
}  // namespace feather::bench
