// The paths that every request, container or event takes, each by itself: tests/bench/run --micro.

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/events.pb.h"
#include "proto/task.pb.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/async.h"
#include "runtime/bundle.h"
#include "runtime/cgroup.h"
#include "runtime/mount/mountinfo.h"
#include "shim/rpc/method_table.h"
#include "shim/ttrpc/frame.h"

namespace feather {
namespace {

namespace api = containerd::task::v2;

void EncodesAFrame(benchmark::State& state) {
  std::string payload(static_cast<size_t>(state.range(0)), 'x');
  for (auto _ : state)
    benchmark::DoNotOptimize(ttrpc::EncodeFrame(1, ttrpc::kResponse, 0, payload));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(EncodesAFrame)->Arg(100)->Arg(64 << 10);

void DecodesAFrame(benchmark::State& state) {
  std::string bytes = ttrpc::EncodeFrame(1, ttrpc::kRequest, 0,
                                         std::string(static_cast<size_t>(state.range(0)), 'x'));
  ttrpc::FrameDecoder decoder;
  std::vector<ttrpc::Frame> frames;
  for (auto _ : state) {
    decoder.Feed(bytes, frames);
    frames.clear();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(DecodesAFrame)->Arg(100)->Arg(64 << 10);

// From the bytes of a request to those of its answer, without a socket.
void DispatchesARequest(benchmark::State& state) {
  asio::io_context io(1);
  rpc::MethodTable methods;
  methods.AddUnary<api::StateRequest, api::StateResponse>(
      "containerd.task.v2.Task", "State",
      [](rpc::CallContext, api::StateRequest request) -> Async<absl::StatusOr<api::StateResponse>> {
        api::StateResponse response;
        response.set_id(request.id());
        co_return response;
      });
  api::StateRequest asked;
  asked.set_id("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
  ::ttrpc::Request request;
  request.set_service("containerd.task.v2.Task");
  request.set_method("State");
  request.set_payload(asked.SerializeAsString());
  const std::string bytes = request.SerializeAsString();
  auto call = [](std::shared_ptr<const rpc::Method> method, std::string payload) -> Async<> {
    rpc::CallContext context;
    absl::StatusOr<std::string> answer =
        co_await method->unary(std::move(context), std::move(payload));
    benchmark::DoNotOptimize(answer);
  };
  for (auto _ : state) {
    ::ttrpc::Request parsed;
    parsed.ParseFromString(bytes);
    Spawn(io, call(*methods.Find(parsed.service(), parsed.method()), parsed.payload()));
    io.run();
    io.restart();
  }
}
BENCHMARK(DispatchesARequest);

// A config.json with so many mounts and environment variables; a pod's has some dozens.
void ReadsAConfigJson(benchmark::State& state) {
  std::string json = R"({"ociVersion":"1.0.2","process":{"terminal":false,"env":[)";
  for (int64_t i = 0; i < state.range(0); ++i)
    absl::StrAppend(&json, i > 0 ? "," : "", R"("VARIABLE_)", i, R"(=a value of some length")");
  json += R"(]},"root":{"path":"rootfs"},"mounts":[)";
  for (int64_t i = 0; i < state.range(0); ++i)
    absl::StrAppend(&json, i > 0 ? "," : "", R"({"destination":"/mnt/)", i,
                    R"(","type":"bind","source":"/var/lib/x","options":["rbind","ro"]})");
  json += R"(],"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}})";
  for (auto _ : state) benchmark::DoNotOptimize(ParseSpec(json));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(json.size()));
}
BENCHMARK(ReadsAConfigJson)->Arg(30)->Arg(3000);

// What an exec brings: a container's environment and capabilities again.
void RewritesAnExecsProcess(benchmark::State& state) {
  std::string json = R"({"args":["sh","-c","exit 0"],"cwd":"/","user":{"uid":0,"gid":0},"env":[)";
  for (int64_t i = 0; i < state.range(0); ++i)
    absl::StrAppend(&json, i > 0 ? "," : "", R"("VARIABLE_)", i, R"(=a value of some length")");
  json += R"(],"capabilities":{)";
  for (const char* set : {"bounding", "effective", "permitted"}) {
    absl::StrAppend(&json, set[0] == 'b' ? "" : ",", "\"", set, "\":[\"CAP_CHOWN\"");
    for (int i = 0; i < 13; ++i) json += R"(,"CAP_NET_BIND_SERVICE")";
    json += "]";
  }
  json += "}}";
  for (auto _ : state) benchmark::DoNotOptimize(ProcessSpec(json, false));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(json.size()));
}
BENCHMARK(RewritesAnExecsProcess)->Arg(30)->Arg(3000);

std::string MountInfoOf(int64_t count) {
  std::string text =
      "24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
      "25 1 0:23 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
  for (int64_t i = 0; i < count; ++i)
    absl::StrAppend(&text, i + 100, " 1 0:50 / /run/containerd/io.containerd.runtime.v2.task/k8s/",
                    i, "/rootfs rw,relatime - overlay overlay rw,lowerdir=/var/lib/x/", i,
                    "/fs,upperdir=/var/lib/u,workdir=/var/lib/w\n");
  return text;
}

// A node's, which has a mount or more for each container.
void ReadsMountInfo(benchmark::State& state) {
  std::string text = MountInfoOf(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(ParseMountInfo(text));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}
BENCHMARK(ReadsMountInfo)->Arg(30)->Arg(1000);

void FindsACgroup(benchmark::State& state) {
  std::string text = MountInfoOf(state.range(0));
  for (auto _ : state)
    benchmark::DoNotOptimize(ParseCgroup(false, "9:memory:/kubepods/pod1/c\n", text));
}
BENCHMARK(FindsACgroup)->Arg(30)->Arg(1000);

void EncodesAnEvent(benchmark::State& state) {
  for (auto _ : state) {
    containerd::events::TaskExit event;
    event.set_container_id("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    event.set_id(event.container_id());
    event.set_pid(12345);
    event.set_exit_status(137);
    event.mutable_exited_at()->set_seconds(1700000000);
    benchmark::DoNotOptimize(event.SerializeAsString());
  }
}
BENCHMARK(EncodesAnEvent);

}  // namespace
}  // namespace feather
