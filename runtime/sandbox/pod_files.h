#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/base/async.h"
#include "runtime/reaper.h"
#include "runtime/sandbox/pod_namespaces.h"

namespace feather {

// What a pod's containers find in /etc and /dev/shm, kept in the directory `pod` of the sandbox'
// bundle. With a pause container CRI prepares that itself, in directories of its own.
struct PodFiles {
  std::string bundle;
  std::string hostname;                    // empty: the host's
  std::optional<std::string> resolv_conf;  // its text; none: the host's
  bool shm = true;                         // a /dev/shm of the pod's own

  std::string Path(const std::string& name) const { return bundle + "/pod/" + name; }
};

// Writes hostname, hosts (the host's) and resolv.conf, and mounts a tmpfs for /dev/shm. After an
// error nothing of it is left.
Async<absl::Status> MakePodFiles(Reaper& reaper, PodFiles files);

// Unmounts, whoever may use it, and removes them; what is missing is no error. Also for the delete
// command, after the end of a shim that was killed.
absl::Status RemovePodFiles(const std::string& bundle);

// Makes a container's config.json that of a pod whose namespaces are those of /proc/<pid>/ns:
// - a container in the pod's IPC namespace whose /dev/shm is a tmpfs of its own gets the pod's;
// - one in the pod's network namespace gets those of /etc/hostname, /etc/hosts and /etc/resolv.conf
//   for which it has no mount;
// - each of those is given its label for SELinux (linux.mountLabel), if it has one: the containers
//   of a pod have the same if the pod's configuration names it; if not, then from the second on
//   without the categories, in which they differ;
// - each of those namespaces of which `namespaces` has another path is named by that one.
// A file that is missing or broken, or of a container outside of the pod, is left alone.
// InvalidArgument if the container is to share the pod's pid namespace and there is none: that of
// `pid` would be the host's, which is for a pod of the host's (`host_pid`) only.
absl::Status JoinPod(const std::string& config, const PodFiles& files, pid_t pid,
                     const NamespacePaths& namespaces, bool host_pid);

// resolv.conf(5) with a line for each kind that is not empty.
std::string ResolvConf(const std::vector<std::string>& servers,
                       const std::vector<std::string>& searches,
                       const std::vector<std::string>& options);

}  // namespace feather
