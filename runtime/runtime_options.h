#pragma once

#include <cstdint>
#include <string>

namespace feather {

// The options of one container, decoded from containerd.runc.v1.Options or
// runtimeoptions.v1.Options (shim/options.h does that). Defaults are those of an absent message.
struct RuntimeOptions {
  bool no_pivot_root = false;
  bool no_new_keyring = false;
  std::string shim_cgroup;
  uint32_t io_uid = 0;
  uint32_t io_gid = 0;
  std::string binary_name;  // empty: runc
  std::string root;         // empty: kDefaultRuntimeRoot
  std::string criu_path;    // containerd 1.x
  bool systemd_cgroup = false;
  std::string criu_image_path;
  std::string criu_work_path;
  std::string task_api_address;
  uint32_t task_api_version = 0;

  std::string binary() const { return binary_name.empty() ? "runc" : binary_name; }
};

inline constexpr char kDefaultRuntimeRoot[] = "/run/containerd/runc";

}  // namespace feather
