// TTRPC itself: feather's client and server, and containerd's, each with its own kind.

#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/bench/bench.h"
#include "tests/support/shim.h"
#include "tests/support/subprocess.h"

namespace feather::bench {
namespace {

// Calls per second, and the median of one call in microseconds.
std::pair<double, double> RoundTrips(const std::string& program, int count, int tasks) {
  test::TestDirectory directory;
  std::string socket = directory.path() + "/socket";
  test::Subprocess server({.argv = {program, "serve", socket}, .input = true});
  if (!server.WaitOutput("ready")) throw std::runtime_error(program + " does not listen");
  test::CommandResult result =
      test::RunCommand({.argv = {program, "call", socket, absl::StrCat(std::max(count / tasks, 1)),
                                 absl::StrCat(tasks)}});
  std::vector<std::string> parts = absl::StrSplit(result.out, ' ');
  double rate = 0;
  double median = 0;
  if (result.code != 0 || parts.size() != 2 || !absl::SimpleAtod(parts[0], &rate) ||
      !absl::SimpleAtod(parts[1], &median))
    throw std::runtime_error(absl::StrCat(program, ": ", result.out, result.err));
  server.CloseInput();
  server.Wait();
  return {rate, median};
}

}  // namespace

void MeasurePeers(Bench& bench) {
  const std::string own = OwnPath();
  const std::string ours = own.substr(0, own.rfind('/') + 1) + "ttrpc_peer";
  const std::string theirs = ours + "_go";
  std::vector<std::pair<Column, std::string>> peers = {{Column::kFirst, ours}};
  if (access(theirs.c_str(), X_OK) == 0)
    peers.emplace_back(Column::kSecond, theirs);
  else
    bench.report.AddMissing(
        absl::StrCat("peers: there is no ", theirs, ", which tests/bench/run builds"));
  for (int round = 0; round < bench.counts.rounds; ++round) {
    for (const auto& [column, program] : peers) {
      auto add = [&, column = column](const std::string& name, const char* unit, bool more,
                                      double value) {
        bench.report
            .Get("TTRPC of each, " + name, unit, more ? "at least Go's" : "at most Go's", more)
            .values[static_cast<int>(column)]
            .push_back(value);
      };
      auto [rate, median] = RoundTrips(program, bench.counts.round_trips, 1);
      add("round trips one after another", "1/s", true, rate);
      add("latency", "µs", false, median);
      add("round trips, 32 in flight", "1/s", true,
          RoundTrips(program, bench.counts.round_trips, 32).first);
    }
  }
}

}  // namespace feather::bench
