#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace feather {

// The options of one mount, sorted by who takes them.
struct MountOptions {
  unsigned long flags = 0;        // MS_* of mount(2)
  std::vector<std::string> data;  // the file system's own
  bool loop = false;              // the source is a file: mount it through a loop device
  bool direct_io = false;         // of the loop device
  std::string uid_map;            // "container:host:size,…"; idmapped if both are given
  std::string gid_map;
  bool idmapped() const { return !uid_map.empty() && !gid_map.empty(); }
  std::string Data() const;  // joined with commas
};

// Words that are no flags, "defaults" and the propagation words among them, are the file system's.
// `X-containerd.` options are for containerd's mount manager and an error here.
absl::StatusOr<MountOptions> ParseMountOptions(const std::vector<std::string>& options);

// The elements of overlay's lowerdir=, which are separated by colons and escape them by a
// backslash; elements stay escaped. Empty ones (of the "::" before data-only layers) are kept.
std::vector<std::string> SplitLowerdirs(absl::string_view lowerdirs);

// The deepest directory that is a proper ancestor of all `paths` but the empty ones, without a
// slash at its end; empty if that is the root, a path is not absolute, or there is none.
std::string CommonParent(const std::vector<std::string>& paths);

// mount(2) takes one page of data, which the lower directories of a large image fill. If overlay's
// options come near that, the lower ones are made relative to their common parent, which is
// returned and must be the working directory of the call. Otherwise `options` is left alone and the
// result is empty.
std::string CompactLowerdirs(MountOptions& options, size_t page_size);

// Replaces the directory `from` by `to` at the beginning of every lower directory.
void MoveLowerdirs(MountOptions& options, absl::string_view from, absl::string_view to);

// The value of lowerdir=, empty if there is none.
std::string Lowerdirs(const MountOptions& options);

// "container:host:size,…" as the text of /proc/<pid>/uid_map.
absl::StatusOr<std::string> ParseIdMap(absl::string_view map);

}  // namespace feather
