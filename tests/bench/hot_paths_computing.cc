#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "proto/bootstrap.pb.h"
#include "proto/events.pb.h"
#include "proto/runtimeoptions.pb.h"
#include "proto/task.pb.h"
#include "proto/ttrpc.pb.h"
#include "runtime/base/async.h"
#include "runtime/base/file.h"
#include "runtime/bundle.h"
#include "runtime/cgroup.h"
#include "runtime/cgroup_metrics.h"
#include "runtime/mount/mountinfo.h"
#include "runtime/runtime_log.h"
#include "shim/commands/bootstrap.h"
#include "shim/commands/socket_name.h"
#include "shim/options.h"
#include "shim/rpc/method_table.h"
#include "shim/ttrpc/frame.h"
#include "tests/bench/hot_paths.h"
#include "tests/support/shim_bundle.h"

namespace feather::bench {

void Fail(const std::string& what) {
  fprintf(stderr, "%s\n", what.c_str());
  exit(2);
}

namespace {

namespace api = containerd::task::v2;
namespace bootstrap = containerd::runtime::bootstrap::v1;

HotPath EncodesAFrame(size_t size, Budget budget) {
  auto prepare = [size] {
    return [payload = std::string(size, 'x')] {
      Keep(ttrpc::EncodeFrame(1, ttrpc::kResponse, 0, payload));
    };
  };
  return {absl::StrCat("EncodesAFrame/", size), prepare, budget, size};
}

HotPath DecodesAFrame(size_t size, Budget budget) {
  auto prepare = [size] {
    auto decoder = std::make_shared<ttrpc::FrameDecoder>();
    auto frames = std::make_shared<std::vector<ttrpc::Frame>>();
    std::string bytes = ttrpc::EncodeFrame(1, ttrpc::kRequest, 0, std::string(size, 'x'));
    return [=] {
      decoder->Feed(bytes, *frames);
      frames->clear();
    };
  };
  return {absl::StrCat("DecodesAFrame/", size), prepare, budget, size};
}

Async<> AwaitAnswer(std::shared_ptr<const rpc::Method> method, std::string payload) {
  rpc::CallContext context;
  absl::StatusOr<std::string> answer =
      co_await method->unary(std::move(context), std::move(payload));
  Keep(answer);
}

// From the bytes of a request to those of its answer, without a socket.
Turn DispatchesARequest() {
  auto methods = std::make_shared<rpc::MethodTable>();
  methods->AddUnary<api::StateRequest, api::StateResponse>(
      "containerd.task.v2.Task", "State",
      [](rpc::CallContext, api::StateRequest request) -> Async<absl::StatusOr<api::StateResponse>> {
        api::StateResponse response;
        response.set_id(request.id());
        co_return response;
      });
  api::StateRequest asked;
  asked.set_id(kLongId);
  ::ttrpc::Request request;
  request.set_service("containerd.task.v2.Task");
  request.set_method("State");
  request.set_payload(asked.SerializeAsString());
  auto io = std::make_shared<asio::io_context>(1);
  return [io, methods, bytes = request.SerializeAsString()] {
    ::ttrpc::Request parsed;
    parsed.ParseFromString(bytes);
    Spawn(*io, AwaitAnswer(*methods->Find(parsed.service(), parsed.method()), parsed.payload()));
    io->run();
    io->restart();
  };
}

// A config.json with so many mounts and environment variables; a pod's has some dozens.
std::string ConfigJson(int count) {
  std::string json = R"({"ociVersion":"1.0.2","process":{"terminal":false,"env":[)";
  for (int i = 0; i < count; ++i)
    absl::StrAppend(&json, i > 0 ? "," : "", R"("VARIABLE_)", i, R"(=a value of some length")");
  json += R"(]},"root":{"path":"rootfs"},"mounts":[)";
  for (int i = 0; i < count; ++i)
    absl::StrAppend(&json, i > 0 ? "," : "", R"({"destination":"/mnt/)", i,
                    R"(","type":"bind","source":"/var/lib/x","options":["rbind","ro"]})");
  return json + R"(],"linux":{"namespaces":[{"type":"pid"},{"type":"mount"}]}})";
}

HotPath ReadsAConfigJson(int count, Budget budget) {
  std::string json = ConfigJson(count);
  auto prepare = [json] { return [json] { Keep(ParseSpec(json)); }; };
  return {absl::StrCat("ReadsAConfigJson/", count), prepare, budget, json.size()};
}

// What an exec brings: a container's environment and capabilities again.
std::string ProcessJson(int count) {
  std::string json = R"({"args":["sh","-c","exit 0"],"cwd":"/","user":{"uid":0,"gid":0},"env":[)";
  for (int i = 0; i < count; ++i)
    absl::StrAppend(&json, i > 0 ? "," : "", R"("VARIABLE_)", i, R"(=a value of some length")");
  json += R"(],"capabilities":{)";
  for (const char* set : {"bounding", "effective", "permitted"}) {
    absl::StrAppend(&json, set[0] == 'b' ? "" : ",", "\"", set, "\":[\"CAP_CHOWN\"");
    for (int i = 0; i < 13; ++i) json += R"(,"CAP_NET_BIND_SERVICE")";
    json += "]";
  }
  return json + "}}";
}

HotPath RewritesAnExecsProcess(int count, Budget budget) {
  std::string json = ProcessJson(count);
  auto prepare = [json] { return [json] { Keep(ProcessSpec(json, false)); }; };
  return {absl::StrCat("RewritesAnExecsProcess/", count), prepare, budget, json.size()};
}

// A node's, which has a mount or more for each container.
std::string MountInfoOf(int count) {
  std::string text =
      "24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
      "25 1 0:23 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
  for (int i = 0; i < count; ++i)
    absl::StrAppend(&text, i + 100, " 1 0:50 / /run/containerd/io.containerd.runtime.v2.task/k8s/",
                    i, "/rootfs rw,relatime - overlay overlay rw,lowerdir=/var/lib/x/", i,
                    "/fs,upperdir=/var/lib/u,workdir=/var/lib/w\n");
  return text;
}

HotPath ReadsMountInfo(int count, Budget budget) {
  std::string text = MountInfoOf(count);
  auto prepare = [text] { return [text] { Keep(ParseMountInfo(text)); }; };
  return {absl::StrCat("ReadsMountInfo/", count), prepare, budget, text.size()};
}

HotPath FindsACgroup(int count, Budget budget) {
  std::string text = MountInfoOf(count);
  auto prepare = [text] {
    return [text] { Keep(ParseCgroup(false, "9:memory:/kubepods/pod1/c\n", text)); };
  };
  return {absl::StrCat("FindsACgroup/", count), prepare, budget, text.size()};
}

Turn EncodesAnEvent() {
  return [] {
    containerd::events::TaskExit event;
    event.set_container_id(kLongId);
    event.set_id(event.container_id());
    event.set_pid(12345);
    event.set_exit_status(137);
    event.mutable_exited_at()->set_seconds(1700000000);
    Keep(event.SerializeAsString());
  };
}

// What `start` makes of its input, and answers.
Turn AnswersStart() {
  bootstrap::BootstrapParams params;
  params.set_instance_id(kLongId);
  params.set_namespace_("k8s.io");
  params.set_containerd_grpc_address("/run/containerd/containerd.sock");
  params.set_containerd_ttrpc_address("/run/containerd/containerd.sock.ttrpc");
  runtimeoptions::v1::Options options;
  options.set_config_body("SystemdCgroup = true");
  google::protobuf::Any& sent = *params.add_extensions()->mutable_value();
  sent.set_type_url(options.GetTypeName());
  sent.set_value(options.SerializeAsString());
  Flags flags;
  flags.name_space = params.namespace_();
  flags.id = params.instance_id();
  flags.address = params.containerd_grpc_address();
  return [flags, bytes = params.SerializeAsString()] {
    StartInput input = Require(ParseStartInput(bytes, flags));
    Require(input.bootstrap && Require(DecodeOptions(input.options)).systemd_cgroup,
            "start: input");
    std::string path = SocketPath(kSocketDirectory, input.grpc_address, flags.name_space, flags.id);
    Keep(FormatAnswer({.encoding = AnswerFormat::Encoding::kProtobuf, .version = 3}, path));
  };
}

// A directory of files that a turn reads.
class Files {
 public:
  std::string Path(const std::string& name) const {
    return absl::StrCat(directory_.path(), "/", name);
  }
  void Add(const std::string& name, const std::string& text) const {
    Require(WriteFile(Path(name), text, 0644).ok(), "write a file");
  }

 private:
  test::TestDirectory directory_;
};

// After a command that has failed, in the log of a container that runs with debugging.
Turn ReadsARuntimeLog() {
  auto files = std::make_shared<Files>();
  std::string log;
  for (int i = 0; i < 30; ++i)
    log += R"({"level":"debug","msg":"nsexec[1]: => nsexec container setup",)"
           R"("time":"2024-01-01T00:00:00Z"})"
           "\n";
  log += R"({"level":"error","msg":"exec failed","time":"2024-01-01T00:00:00Z"})"
         "\n";
  files->Add("log.json", log);
  return [files, path = files->Path("log.json")] {
    Require(Require(LastRuntimeError(path, 0)) == "exec failed", "the runtime's error");
  };
}

constexpr char kCpuPressure[] =
    "some avg10=1.50 avg60=2.25 avg300=0.01 total=123\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=45\n";

std::string MemoryStat() {
  std::string text;
  for (const char* key : {"anon",
                          "file",
                          "kernel",
                          "kernel_stack",
                          "pagetables",
                          "percpu",
                          "sock",
                          "shmem",
                          "file_mapped",
                          "file_dirty",
                          "file_writeback",
                          "inactive_anon",
                          "active_anon",
                          "inactive_file",
                          "active_file",
                          "unevictable",
                          "slab_reclaimable",
                          "slab_unreclaimable",
                          "slab",
                          "workingset_refault_anon",
                          "workingset_refault_file",
                          "pgscan",
                          "pgsteal",
                          "pgfault",
                          "pgmajfault",
                          "pgrefill",
                          "pgactivate",
                          "pgdeactivate",
                          "cache",
                          "rss",
                          "swap"})
    absl::StrAppend(&text, key, " 123456789\n");
  return text;
}

// Stats, with cgroup2.
Turn ReadsMetricsV2() {
  auto files = std::make_shared<Files>();
  files->Add("memory.stat", MemoryStat());
  files->Add("memory.current", "123456789\n");
  files->Add("memory.max", "max\n");
  files->Add("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n");
  files->Add("memory.swap.current", "0\n");
  files->Add("memory.swap.max", "max\n");
  files->Add("cpu.stat", "usage_usec 12345\nuser_usec 12345\nsystem_usec 0\nnr_periods 0\n");
  files->Add("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n8:16 rbytes=1 wbytes=2 rios=3\n");
  files->Add("pids.current", "7\n");
  files->Add("pids.max", "max\n");
  for (const char* kind : {"cpu", "memory", "io"})
    files->Add(absl::StrCat(kind, ".pressure"), kCpuPressure);
  MetricsSources sources = {.huge_pages = files->Path("none"), .partitions = files->Path("none")};
  return [files, sources, path = files->Path("")] {
    Require(Require(ReadMetricsV2(path, sources)).pids().current() == 7, "metrics");
  };
}

// Stats, with cgroup1.
Turn ReadsMetricsV1() {
  auto files = std::make_shared<Files>();
  files->Add("memory.stat", MemoryStat());
  for (const char* kind : {"", "memsw.", "kmem.", "kmem.tcp."})
    for (const char* value : {"usage_in_bytes", "limit_in_bytes", "max_usage_in_bytes", "failcnt"})
      files->Add(absl::StrCat("memory.", kind, value), "123456789\n");
  files->Add("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
  files->Add("cpuacct.usage", "123456789\n");
  files->Add("cpuacct.stat", "user 12\nsystem 34\n");
  files->Add("cpuacct.usage_percpu", "1 2 3 4 5 6 7 8\n");
  files->Add("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n");
  files->Add("pids.current", "7\n");
  files->Add("pids.max", "max\n");
  for (const char* kind : {"io_service_bytes", "io_serviced"})
    files->Add(absl::StrCat("blkio.throttle.", kind, "_recursive"),
               "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Async 4\n8:0 Total 5\nTotal 5\n");
  Cgroup cgroup;
  for (const char* controller : {"memory", "cpu", "cpuacct", "pids", "blkio"})
    cgroup.controllers[controller] = files->Path("");
  MetricsSources sources = {.huge_pages = files->Path("none"), .partitions = files->Path("none")};
  return [files, sources, cgroup] {
    Require(Require(ReadMetricsV1(cgroup, sources)).pids().current() == 7, "metrics");
  };
}

// Pids, and what is killed with an init: of a container with cgroups of its own.
Turn ListsPids() {
  auto files = std::make_shared<Files>();
  files->Add("cgroup.procs", "1\n2\n3\n");
  for (const char* below : {"a", "b"}) {
    std::filesystem::create_directory(files->Path(below));
    files->Add(absl::StrCat(below, "/cgroup.procs"), "12345\n67890\n");
  }
  Cgroup cgroup;
  cgroup.unified = true;
  cgroup.path = files->Path("");
  return [files, cgroup] { Require(Require(CgroupPids(cgroup)).size() == 5, "pids"); };
}

}  // namespace

std::vector<HotPath> ComputingPaths() {
  return {
      EncodesAFrame(100, {.allocations = 1, .bytes = 111, .instructions = 311}),
      EncodesAFrame(64 << 10, {.allocations = 1, .bytes = 65547, .instructions = 6810}),
      DecodesAFrame(100, {.allocations = 1, .bytes = 101, .instructions = 774}),
      DecodesAFrame(64 << 10, {.allocations = 1, .bytes = 65537, .instructions = 7270}),
      {"DispatchesARequest",
       DispatchesARequest,
       {.allocations = 21, .bytes = 2402, .instructions = 18900}},
      ReadsAConfigJson(30, {.allocations = 10, .bytes = 227, .instructions = 842000}),
      ReadsAConfigJson(3000, {.allocations = 10, .bytes = 227, .instructions = 83600000}),
      RewritesAnExecsProcess(30, {.allocations = 23, .bytes = 10098, .instructions = 604000}),
      RewritesAnExecsProcess(3000, {.allocations = 28, .bytes = 362973, .instructions = 31500000}),
      ReadsMountInfo(30, {.allocations = 129, .bytes = 20525, .instructions = 158000}),
      ReadsMountInfo(1000, {.allocations = 4014, .bytes = 665137, .instructions = 5030000}),
      FindsACgroup(30, {.allocations = 12, .bytes = 1427, .instructions = 35900}),
      FindsACgroup(1000, {.allocations = 12, .bytes = 1427, .instructions = 800000}),
      {"EncodesAnEvent", EncodesAnEvent, {.allocations = 6, .bytes = 373, .instructions = 3140}},
      {"AnswersStart", AnswersStart, {.allocations = 46, .bytes = 2621, .instructions = 43700}},
      {"ReadsARuntimeLog",
       ReadsARuntimeLog,
       {.allocations = 680, .bytes = 26164, .system_calls = 6, .instructions = 1260000}},
      {"ListsPids",
       ListsPids,
       {.allocations = 15, .bytes = 515, .system_calls = 28, .instructions = 13000}},
      {"ReadsMetricsV2",
       ReadsMetricsV2,
       {.allocations = 85, .bytes = 4788, .system_calls = 46, .instructions = 138000}},
      {"ReadsMetricsV1",
       ReadsMetricsV1,
       {.allocations = 110, .bytes = 4978, .system_calls = 95, .instructions = 149000}},
  };
}

}  // namespace feather::bench
