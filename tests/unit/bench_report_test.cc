// What the benchmark (tests/bench) makes of its figures.
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/bench/report.h"

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
  for (auto [x, y] : {std::pair(1, 4104), std::pair(20, 358), std::pair(1000, 162)})
    report.AddPoint("Memory", "shims", "KiB", Column::kFirst, x, y, Scale::kLogOfFew);
  const std::string page = report.Html({}, kNames);
  for (const char* x :
       {"x='60.0' y='240' text-anchor='middle'>1<", "x='268.2' y='240' text-anchor='middle'>20<",
        "x='540.0' y='240' text-anchor='middle'>1000<"})
    EXPECT_THAT(page, HasSubstr(x));
  // From 100 to 5,000: 358 is a third of the way, by its logarithm.
  for (const char* y : {">100<", ">200<", ">500<", ">5000<", "<circle cx='268.2' cy='156.2'"})
    EXPECT_THAT(page, HasSubstr(y));
  EXPECT_THAT(page, ::testing::Not(::testing::AnyOf(HasSubstr(">50<"), HasSubstr(">10000<"))));
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

}  // namespace
}  // namespace feather::bench
