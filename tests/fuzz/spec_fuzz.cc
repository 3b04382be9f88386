#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/bundle.h"
#include "tests/fuzz/support.h"

// Everything that reads JSON from a bundle or a request. What is written must be readable again and
// then stay as it is.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view json(reinterpret_cast<const char*>(data), size);
  (void)feather::ValidateId(json);
  bool valid = feather::ParseSpec(json).ok();
  absl::StatusOr<std::string> process = feather::ProcessSpec(json, true);
  absl::StatusOr<std::string> resources = feather::Resources(json);
  if (process.ok() != valid || resources.ok() != valid) abort();
  if (!valid) return 0;
  if (feather::ProcessSpec(*process, true).value_or("") != *process) abort();
  if (feather::Resources(*resources).value_or("") != *resources) abort();
  return 0;
}

std::vector<std::pair<std::string, std::string>> feather::fuzz::Seeds() {
  return {
      {"config", R"({"ociVersion":"1.0.2","annotations":{"io.containerd.runc.v2.group":"g",
"io.kubernetes.cri.sandbox-id":"s"},"linux":{"namespaces":[{"type":"pid"},
{"type":"network","path":"/n"}],"x":[1.5e3,-0,null,[true]]}})"},
      {"process", R"({"args":["sh","-c","\u00e4\ud83d\ude00"],"Terminal":{"a":[{}]},"cwd":"/"})"},
      {"resources", R"({"memory":{"limit":null,"swap":1},"pids":null,"list":[null,{"a":null}]})"},
      {"id", "a-b_c.d0"},
      {"deep", "{\"a\":" + std::string(1001, '[')}};
}
