#include "runtime/base/home_namespaces.h"

#include <fcntl.h>
#include <sched.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

struct Kind {
  const char* file;
  int flag;
};
constexpr std::array<Kind, 3> kKinds = {Kind{"net", CLONE_NEWNET}, Kind{"ipc", CLONE_NEWIPC},
                                        Kind{"uts", CLONE_NEWUTS}};

using Descriptors = std::array<int, 3>;
constexpr Descriptors kNone = {-1, -1, -1};

bool g_away = false;
Descriptors g_home = kNone;
int g_net = -1;  // where AtHome comes back to

void CloseAll(Descriptors& descriptors) {
  for (int& fd : descriptors) UniqueFd(std::exchange(fd, -1)).Reset();
}

absl::Status Enter(const Descriptors& to) {
  RaisedCapabilities raised({CAP_SYS_ADMIN});
  for (size_t i = 0; i < to.size(); ++i)
    if (to[i] >= 0 && setns(to[i], kKinds[i].flag) < 0)
      return ErrnoError(errno, absl::StrCat("enter a namespace of type ", kKinds[i].file));
  return absl::OkStatus();
}

}  // namespace

absl::Status LeaveHome(Namespaces to) {
  if (g_away) return absl::FailedPreconditionError("in other namespaces already");
  const Descriptors target = {to.net, to.ipc, to.uts};
  for (size_t i = 0; i < target.size(); ++i) {
    if (target[i] < 0) continue;
    absl::StatusOr<UniqueFd> own =
        OpenFile(absl::StrCat("/proc/self/ns/", kKinds[i].file), O_RDONLY);
    if (!own.ok()) {
      CloseAll(g_home);
      return own.status();
    }
    g_home[i] = own->Release();
  }
  // In a user namespace, home may be nothing that one can come back to.
  if (absl::Status back = Enter(g_home); !back.ok()) {
    CloseAll(g_home);
    return Annotate(back, "there would be no way back");
  }
  g_away = true;
  g_net = to.net;
  absl::Status status = Enter(target);
  if (!status.ok()) (void)ReturnHome().ok();
  return status;
}

absl::Status ReturnHome() {
  if (!g_away) return absl::OkStatus();
  RETURN_IF_ERROR(Enter(g_home));
  CloseAll(g_home);
  g_net = -1;
  g_away = false;
  return absl::OkStatus();
}

const std::array<int, 3>* HomeNamespaces() { return g_away ? &g_home : nullptr; }

absl::Status ReturnHomeInChild() { return ReturnHome(); }

AtHome::AtHome() {
  if (!g_away || g_home[0] < 0) return;
  RaisedCapabilities raised({CAP_SYS_ADMIN});
  // What fails here would leave a socket that outlives its namespace: no harm to anybody's data.
  (void)setns(g_home[0], CLONE_NEWNET);
}

AtHome::~AtHome() {
  if (!g_away || g_net < 0) return;
  int error = errno;
  RaisedCapabilities raised({CAP_SYS_ADMIN});
  // For want of memory. No container looks at /proc/<pid>/ns/net; the next of these tries again.
  if (setns(g_net, CLONE_NEWNET) < 0)
    LogWarning("cannot go back to the pod's network namespace", {{"error", ErrnoText(errno)}});
  errno = error;
}

}  // namespace feather
