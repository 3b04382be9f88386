// What the benchmark (tests/bench) makes of its figures.
#include <string>
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

}  // namespace
}  // namespace feather::bench
