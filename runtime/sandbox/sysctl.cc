#include "runtime/sandbox/sysctl.h"

#include <algorithm>
#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace feather {
namespace {

constexpr std::array<absl::string_view, 8> kOfIpc = {
    "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",
    "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"};

bool IsOwn(absl::string_view path, const OwnNamespaces& own) {
  if (absl::StartsWith(path, "net/")) return own.net;
  if (absl::StartsWith(path, "fs/mqueue/")) return own.ipc;
  if (std::find(kOfIpc.begin(), kOfIpc.end(), path) != kOfIpc.end()) return own.ipc;
  return path == "kernel/domainname" && own.uts;
}

}  // namespace

absl::StatusOr<std::string> SysctlPath(absl::string_view name, const OwnNamespaces& own) {
  std::string path(name);
  size_t first = path.find_first_of("./");
  if (first != std::string::npos && path[first] == '.')
    for (char& c : path) c = c == '.' ? '/' : c == '/' ? '.' : c;
  // Not for the kernel's sake, but for that of "name=value", in which it is passed on.
  bool plain =
      !absl::StrContains(path, absl::string_view("\0", 1)) && !absl::StrContains(path, '=');
  for (absl::string_view part : absl::StrSplit(path, '/'))
    plain = plain && !part.empty() && part != "." && part != "..";
  if (!plain || !IsOwn(path, own))
    return absl::InvalidArgumentError(absl::StrCat("sysctl \"", absl::CHexEscape(name),
                                                   "\" is not in a namespace of the pod's own"));
  return absl::StrCat("/proc/sys/", path);
}

}  // namespace feather
