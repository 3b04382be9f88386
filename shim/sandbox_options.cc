#include "shim/sandbox_options.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/base/user_namespace.h"

namespace feather {
namespace {

constexpr char kCriConfig[] = "runtime.v1.PodSandboxConfig";

bool HasNul(absl::string_view text) { return absl::StrContains(text, absl::string_view("\0", 1)); }

}  // namespace

absl::StatusOr<cri::v1::PodSandboxConfig> ParseSandboxOptions(
    const google::protobuf::Any& options) {
  cri::v1::PodSandboxConfig config;
  absl::string_view type = options.type_url();
  type = type.substr(type.rfind('/') + 1);
  if (type.empty() && options.value().empty()) {
    // No CRI, and no process 1 either.
    config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(
        cri::v1::CONTAINER);
    return config;
  }
  if (type != kCriConfig)
    return absl::InvalidArgumentError(absl::StrCat("unknown type of sandbox options ", type));
  if (!config.ParseFromString(options.value()))
    return absl::InvalidArgumentError("broken sandbox options");
  if (HasNul(config.hostname())) return absl::InvalidArgumentError("a NUL byte in the hostname");
  for (const auto& [name, value] : config.linux().sysctls())
    if (HasNul(value))
      return absl::InvalidArgumentError(
          absl::StrCat("a NUL byte in sysctl \"", absl::CHexEscape(name), "\""));
  const cri::v1::UserNamespace& user =
      config.linux().security_context().namespace_options().userns_options();
  if (user.mode() != cri::v1::POD && user.mode() != cri::v1::NODE)
    return absl::InvalidArgumentError(
        absl::StrCat("unsupported mode ", user.mode(), " of the user namespace"));
  return config;
}

PodConfig NamespacesOf(const cri::v1::PodSandboxConfig& config, const std::string& netns_path) {
  const cri::v1::NamespaceOption& options = config.linux().security_context().namespace_options();
  PodConfig pod;
  pod.hostname = config.hostname();
  pod.netns_path = netns_path;
  pod.own_ipc = options.ipc() != cri::v1::NODE;
  pod.own_pid = options.pid() == cri::v1::POD;
  pod.host_pid = options.pid() == cri::v1::NODE;
  pod.own_user = options.has_userns_options() && options.userns_options().mode() == cri::v1::POD;
  for (const auto& [name, value] : config.linux().sysctls()) pod.sysctls.emplace_back(name, value);
  std::sort(pod.sysctls.begin(), pod.sysctls.end());
  if (!pod.own_net()) return pod;
  // What containerd sets by default in a pod with a network of its own. Before the pod's own, which
  // may be spelled otherwise.
  auto set = [&](const char* name, const char* value) {
    if (!config.linux().sysctls().contains(name))
      pod.sysctls.insert(pod.sysctls.begin(), {name, value});
  };
  set("net.ipv4.ip_unprivileged_port_start", "0");
  // In a user namespace those groups are not all there.
  if (!pod.own_user && !InUserNamespace()) set("net.ipv4.ping_group_range", "0 2147483647");
  return pod;
}

PodFiles FilesOf(const cri::v1::PodSandboxConfig& config, const PodConfig& pod,
                 const std::string& bundle) {
  PodFiles files;
  files.bundle = bundle;
  files.hostname = pod.hostname;
  files.shm = pod.own_ipc;
  if (config.has_dns_config()) {
    const cri::v1::DNSConfig& dns = config.dns_config();
    files.resolv_conf = ResolvConf({dns.servers().begin(), dns.servers().end()},
                                   {dns.searches().begin(), dns.searches().end()},
                                   {dns.options().begin(), dns.options().end()});
  }
  return files;
}

}  // namespace feather
