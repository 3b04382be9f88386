// How long the hot paths take, each by itself: tests/bench/run --micro.

#include <benchmark/benchmark.h>

#include "tests/bench/hot_paths.h"

namespace feather::bench {
namespace {

void Measure(benchmark::State& state, const HotPath& path) {
  const Turn turn = path.prepare();
  for (auto _ : state) turn();
  if (path.data > 0) state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(path.data));
}

}  // namespace
}  // namespace feather::bench

int main(int argc, char** argv) {
  using namespace feather::bench;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const HotPath& path : HotPaths())
    benchmark::RegisterBenchmark(path.name.c_str(),
                                 [path](benchmark::State& state) { Measure(state, path); });
  benchmark::RunSpecifiedBenchmarks();
}
