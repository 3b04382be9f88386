#pragma once

#include <cstdint>
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

// A detached, idmapped copy of the mount at `path`, with all below it if `recursive`: the kernel
// idmaps only what nobody can see yet. `name`: what the error texts call it. `attributes`: of
// mount_setattr(2).
absl::StatusOr<UniqueFd> IdMappedCopy(const std::string& path, const std::string& name,
                                      bool recursive, const MountOptions& options,
                                      uint64_t attributes = 0);
// Mounts such a copy.
absl::Status AttachMount(int tree, const std::string& path, const std::string& name);

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
