#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace feather {

// A child of a sandbox' shim, in which the pod's namespaces are made: an executable's hidden
// command, `pod-init`. It makes them, sets them up, reports on kReport and keeps them alive
// until the shim lets go of kLife: itself, or, for a pod whose containers share a pid namespace, as
// that namespace's process 1, which reaps what the containers leave behind and does nothing else.
//
// The report, up to EOF, is "ok PID", in the shim's pid namespace the process by whose /proc/PID/ns
// the namespaces can be had, or "error TEXT".
//
// As process 1 it is seen by the pod's containers, so that there is nothing to be had by it: a
// mount namespace with an empty root, its executable on a read-only mount, no capability, no
// descriptor but kLife, and not dumpable, so that its /proc/1/root is closed to a container's root.
struct PodInit {
  static constexpr char kCommand[] = "pod-init";
  // Descriptors in the child.
  static constexpr int kReport = 3;
  static constexpr int kLife = 4;
  static constexpr int kUser = 5;  // of the pod's user namespace, /dev/null: the host's
  static constexpr int kNet = 6;   // of the pod's network namespace, /dev/null: the host's

  bool user = false;
  bool net = false;
  bool ipc = false;
  bool uts = false;
  bool pid = false;
  std::string hostname;                                      // with uts
  std::vector<std::pair<std::string, std::string>> sysctls;  // file below /proc/sys, value

  // Arguments after the command's name.
  std::vector<std::string> Arguments() const;
};

// The command; `arguments` are those after its name. The exit code.
int RunPodInit(const std::vector<absl::string_view>& arguments);

}  // namespace feather
