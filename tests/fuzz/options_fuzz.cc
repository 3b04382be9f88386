// A runtime's options: the text of runtimeoptions.v1.Options, a containerd.runc.v1.Options, and
// what a bundle's options.json says. The first byte tells which.
#include <google/protobuf/any.pb.h>
#include <stdlib.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>

#include "proto/runc_options.pb.h"
#include "proto/runtimeoptions.pb.h"
#include "runtime/base/file.h"
#include "shim/options.h"
#include "tests/fuzz/support.h"

namespace feather {
namespace {

google::protobuf::Any Any(const char* type, std::string value) {
  google::protobuf::Any any;
  any.set_type_url(type);
  any.set_value(std::move(value));
  return any;
}

// A bundle on no disk.
struct Directory {
  std::string path = "/dev/shm/options-XXXXXX";
  Directory() {
    if (mkdtemp(path.data()) == nullptr) abort();
  }
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

void ReadBack(const std::string& json) {
  static const Directory bundle;
  if (!WriteFile(bundle.path + "/options.json", json, 0600).ok()) abort();
  absl::StatusOr<RuntimeOptions> options = ReadOptions(bundle.path);
  if (!options.ok()) return;
  // What has been read is written, and is then read as the same.
  if (!WriteOptions(bundle.path, *options).ok()) abort();
  absl::StatusOr<RuntimeOptions> again = ReadOptions(bundle.path);
  if (!again.ok() || again->root != options->root || again->io_uid != options->io_uid) abort();
  if (!WriteFile(bundle.path + "/runtime", "", 0600).ok()) abort();
}

}  // namespace

std::vector<std::pair<std::string, std::string>> fuzz::Seeds() {
  containerd::runc::v1::Options runc;
  runc.set_binary_name("crun");
  runc.set_io_uid(7);
  runc.set_systemd_cgroup(true);
  runc.set_root("/run/r");
  return {{"cri",
           "tBinaryName = \"/usr/bin/crun\"\nIoUid = 1000\nNoPivotRoot = false\n"
           "Root = \"\"\nSystemdCgroup = true\nTypeUrl = \"x\"\n"},
          {"underscores",
           "t# \xc3\xa4\nbinary_name='crun' # x\r\nio_uid=0x5\nroot=\"\\u00e4\xc3\xa4\"\n"},
          {"multi", "tRoot = \"\"\"\\\n  a\\\"\"\"\"\"\"\nShimCgroup = '''\n'b''\n'''\n"},
          {"others",
           "tIoUid = 2e100\nIoGid = [1, {a = 1979-05-27T07:32:00Z}]\n[Root]\nx.y = nan\n"
           "[[a]]\nb = 0b101\nc = 07:32:00.5\n"},
          {"date", "tx = [0, {a = 1979-05-27T:3207:00Z}t"},
          {"lines",
           "tio_gid=0b1_0\nroot=\"\"\"\n\"\"\\U0001f600\\\r\n \\u0041\"\"\"\"\"\r\n"
           "'binary_name' = '''r'''\n"},
          {"foreign", "t\xc3\xa4 = 1\n\"\xc3\xa4\" = 2\n[\x01"},
          {"runc", "r" + runc.SerializeAsString()},
          {"json", "j{\"io_uid\":7,\"root\":\"/r\\u00e4\",\"systemd_cgroup\":true,\"x\":[{}]}"}};
}

}  // namespace feather

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace feather;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'j') {
    ReadBack(text);
  } else if (data[0] == 'r') {
    DecodeOptions(Any("containerd.runc.v1.Options", std::move(text))).status().IgnoreError();
  } else {
    runtimeoptions::v1::Options message;
    message.set_config_body(std::move(text));
    DecodeOptions(Any("runtimeoptions.v1.Options", message.SerializeAsString()))
        .status()
        .IgnoreError();
  }
  return 0;
}
