#pragma once

#include <sys/types.h>

#include <asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/async.h"
#include "runtime/base/unique_fd.h"
#include "runtime/reaper.h"

namespace feather {

// What a pod has of its own, besides its containers.
struct PodConfig {
  std::string hostname;    // empty: the host's
  std::string netns_path;  // empty: the host's network, and then its UTS namespace too
  bool own_ipc = true;
  // The containers share a pid namespace, which needs a process 1.
  bool own_pid = false;
  // They are in the host's pid namespace.
  bool host_pid = false;
  // The network namespace belongs to a user namespace, which is the pod's.
  bool own_user = false;
  std::vector<std::pair<std::string, std::string>> sysctls;  // name, value

  bool own_net() const { return !netns_path.empty(); }
  bool own_uts() const { return own_net(); }
};

// Kinds of namespaces, as an OCI spec names them ("network"), with files of their own.
using NamespacePaths = std::vector<std::pair<std::string, std::string>>;

// The path of a descriptor of this process, for others. Spelled with a dot: runc (1.2 to 1.5 at
// least) takes every path of a user namespace that begins like /proc/7 for /proc/7/ns/user, and
// would find the mapping of this process, the host's, instead of that of the namespace.
std::string DescriptorPath(int fd);

// The namespaces of a pod, without a process for them: a short-lived child makes them (pod_init.h)
// and this process enters them (home_namespaces.h), so that they are those of /proc/<its pid>/ns.
// Only a pod that shares a pid namespace has a process of its own, the one that process 1 is; then
// this process stays where it is.
//
// One at a time in a process.
class PodNamespaces {
 public:
  // `on_end` is called, from the loop, if the pod's process 1 ends before Leave.
  static Async<absl::StatusOr<std::shared_ptr<PodNamespaces>>> Enter(
      asio::io_context& io, Reaper& reaper, PodConfig config,
      std::function<void(const Exit&)> on_end);
  PodNamespaces() = default;
  PodNamespaces(const PodNamespaces&) = delete;
  PodNamespaces& operator=(const PodNamespaces&) = delete;

  // The process by whose /proc/<pid>/ns the pod's namespaces can be had.
  pid_t pid() const { return pid_; }
  // Those of its own, as descriptors of this process. Unlike /proc/<pid>/ns/* such a path is never
  // that of another namespace: after Leave it leads nowhere.
  NamespacePaths Paths() const;
  // The pod's process 1 has ended.
  bool ended() const { return ended_ && ended_->set(); }

  // Lets go of the namespaces. They live on while containers do. Once; again after an error.
  Async<absl::Status> Leave();

 private:
  struct Holder;
  absl::Status OpenGiven(const PodConfig& config);
  absl::StatusOr<std::unique_ptr<Holder>> StartHolder(const PodConfig& config);
  absl::Status Adopt(const PodConfig& config, pid_t holder);
  int Descriptor(absl::string_view type) const;

  pid_t pid_ = 0;
  // By the OCI spec's kinds.
  std::vector<std::pair<std::string, UniqueFd>> own_;
  UniqueFd life_;  // the process 1 ends when this is closed
  bool left_ = false;
  std::shared_ptr<Event> ended_;  // the process 1 has; null: there is none
};

}  // namespace feather
