#include "shim/members.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <system_error>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/bundle.h"
#include "shim/options.h"

namespace feather {
namespace {

// Of ids.
constexpr size_t kMaxSandbox = 256;

std::string Directory(const std::string& pod) { return pod + "/members"; }

// `bundle`: a container's.
bool IsMember(const std::string& pod, const std::string& bundle) {
  absl::StatusOr<std::string> sandbox = ReadFile(bundle + "/sandbox", kMaxSandbox);
  return sandbox.ok() && *sandbox == pod.substr(pod.rfind('/') + 1);
}

bool IsGone(const std::string& bundle) {
  return access(bundle.c_str(), F_OK) < 0 && errno == ENOENT;
}

absl::Status MakeDirectory(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return absl::OkStatus();
  return ErrnoError(errno, absl::StrCat("mkdir ", path));
}

}  // namespace

std::string MemberDirectory(const std::string& pod, const std::string& id) {
  return absl::StrCat(Directory(pod), "/", id);
}

std::string MemberBundle(const std::string& pod, const std::string& id) {
  return MemberDirectory(pod, id) + "/bundle";
}

absl::Status NoteMember(const std::string& pod, const std::string& id, const std::string& bundle,
                        const RuntimeOptions& options) {
  if (pod.empty() || !IsMember(pod, bundle)) return absl::OkStatus();
  // Of one with its name that could not be forgotten.
  std::error_code ignored;
  std::filesystem::remove_all(MemberDirectory(pod, id), ignored);
  RETURN_IF_ERROR(MakeDirectory(Directory(pod)));
  RETURN_IF_ERROR(MakeDirectory(MemberDirectory(pod, id)));
  const std::string link = MemberBundle(pod, id);
  if (symlink(bundle.c_str(), link.c_str()) < 0)
    return ErrnoError(errno, absl::StrCat("symlink ", link));
  return WriteOptions(MemberDirectory(pod, id), options);
}

void ForgetMember(const std::string& pod, const std::string& id) {
  if (pod.empty()) return;
  std::error_code error;
  std::filesystem::remove_all(MemberDirectory(pod, id), error);
  if (error)
    LogWarning("cannot forget a member of the pod", {{"error", error.message()}, {"id", id}});
  // After the last one.
  rmdir(Directory(pod).c_str());
}

std::vector<std::string> Members(const std::string& pod) {
  if (pod.empty() || !CheckBundleDirectory(Directory(pod)).ok()) return {};
  absl::StatusOr<std::vector<std::string>> names = ListNames(Directory(pod), /*directories=*/true);
  std::vector<std::string> members;
  for (const std::string& id : names.ok() ? *names : std::vector<std::string>()) {
    // One that was not forgotten, and whose name another container has since, is left alone.
    const std::string bundle = MemberBundle(pod, id);
    if (ValidateId(id).ok() && (IsMember(pod, bundle) || IsGone(bundle))) members.push_back(id);
  }
  return members;
}

}  // namespace feather
