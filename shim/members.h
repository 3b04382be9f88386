#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/runtime_options.h"

namespace feather {

// The members of a pod: the containers in a shim beside the one (a pause container), or the
// sandbox, that the shim was started for. When a shim has been killed, containerd 2 runs `delete`
// for the bundle that it was started with and for no other one, unless containerd has been
// restarted since (its issue 10727); whoever runs it there has to end the members too. So the shim
// keeps a directory for each of them in that bundle, `members/<id>`, with the member's options
// (options.h). It goes with the bundle.
//
// `delete` could not find them itself: containerd takes the members' bundles, the only place where
// a container says whose member it is, away at the same time as it runs `delete`; and the OCI
// runtime, which knows the containers still, has no command that tells of pods.
//
// A member is who has in its bundle the file `sandbox`, containerd's, with the name of the pod's
// bundle. Where containerd writes none (1.x; pods that a 1.x has made) it runs `delete` for every
// container's bundle. Where it does both, each is harmless to the other.
//
// `pod` is the path of the bundle that the shim was started with; empty if it was gone by then:
// there are no members.

// Does nothing for a container that is no member.
absl::Status NoteMember(const std::string& pod, const std::string& id, const std::string& bundle,
                        const RuntimeOptions& options);
// Once nothing is left of it; it need not be a member.
void ForgetMember(const std::string& pod, const std::string& id);

// Those that are noted; without what cannot be one's name, and without whose bundle is another
// pod's now. A member's bundle may be gone.
std::vector<std::string> Members(const std::string& pod);
// Where a member's options are, and the link to its bundle.
std::string MemberDirectory(const std::string& pod, const std::string& id);
std::string MemberBundle(const std::string& pod, const std::string& id);

}  // namespace feather
