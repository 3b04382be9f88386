#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/base/unique_fd.h"
#include "runtime/mount/options.h"

namespace feather {

// Idmapped mounts (mount_setattr(2), Linux 5.12; overlay on idmapped layers 5.19). Everything here
// runs in a child process (child.h).

// A user namespace with these maps ("container:host:size,…"), held by its descriptor alone.
absl::StatusOr<UniqueFd> MakeUserNamespace(const std::string& uid_map, const std::string& gid_map);

// Idmaps what is mounted at `target`, with all below it if `recursive`. The kernel only does that
// to a mount that nobody can see yet: an idmapped copy takes the mount's place.
absl::Status IdMapMount(const std::string& target, bool recursive, const MountOptions& options);

// While it lives, the lower directories in `options` of an overlay name a temporary, read-only,
// idmapped mount of their common parent. The overlay does not need it any more once it is mounted.
class IdMappedLayers {
 public:
  IdMappedLayers() = default;
  IdMappedLayers(const IdMappedLayers&) = delete;
  IdMappedLayers& operator=(const IdMappedLayers&) = delete;
  ~IdMappedLayers();

  absl::Status Mount(MountOptions& options);

 private:
  std::string directory_;  // empty: none made
  bool mounted_ = false;
};

}  // namespace feather
