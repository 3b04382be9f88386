#include "runtime/sandbox/pod_files.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/base/capabilities.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/bundle.h"
#include "runtime/mount/mount.h"
#include "runtime/mount/mounter.h"

namespace feather {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxFile = size_t{1} << 20;
constexpr std::array<const char*, 3> kFiles = {"hostname", "hosts", "resolv.conf"};

// The host's file, or none if it has none.
absl::Status CopyOfHost(const std::string& from, const std::string& to) {
  absl::StatusOr<std::string> text = ReadFile(from, kMaxFile);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  return WriteFile(to, *text, 0644);
}

absl::Status WriteFiles(const PodFiles& files) {
  for (const std::string& directory : {files.bundle + "/pod", files.Path("shm")})
    if (mkdir(directory.c_str(), 0711) < 0 && errno != EEXIST)
      return ErrnoError(errno, absl::StrCat("mkdir ", directory));
  std::string hostname = files.hostname;
  if (hostname.empty()) {
    std::array<char, 256> host = {};
    if (gethostname(host.data(), host.size() - 1) < 0) return ErrnoError(errno, "gethostname");
    hostname = host.data();
  }
  RETURN_IF_ERROR(WriteFile(files.Path("hostname"), hostname + "\n", 0644));
  RETURN_IF_ERROR(CopyOfHost("/etc/hosts", files.Path("hosts")));
  if (files.resolv_conf) return WriteFile(files.Path("resolv.conf"), *files.resolv_conf, 0644);
  return CopyOfHost("/etc/resolv.conf", files.Path("resolv.conf"));
}

// The members that containerd writes, in its spelling; everything else is kept as it is.
class Config {
 public:
  explicit Config(Json json) : json_(std::move(json)) {}

  Json* Namespace(const std::string& type) {
    if (!json_.contains("linux") || !json_["linux"].is_object()) return nullptr;
    Json& section = json_["linux"];
    if (!section.contains("namespaces") || !section["namespaces"].is_array()) return nullptr;
    for (Json& entry : section["namespaces"])
      if (entry.is_object() && Text(entry, "type") == type) return &entry;
    return nullptr;
  }
  bool IsIn(const std::string& type, const std::string& path) {
    Json* entry = Namespace(type);
    return entry != nullptr && Text(*entry, "path") == path;
  }

  Json* MountAt(const std::string& target) {
    if (!json_.contains("mounts") || !json_["mounts"].is_array()) return nullptr;
    for (Json& entry : json_["mounts"])
      if (entry.is_object() && Text(entry, "destination") == target) return &entry;
    return nullptr;
  }
  void AddMount(Json entry) {
    if (!json_.contains("mounts") || !json_["mounts"].is_array()) json_["mounts"] = Json::array();
    json_["mounts"].push_back(std::move(entry));
  }
  // What SELinux is to call the container's files; empty where it is not in use.
  std::string mount_label() const {
    auto section = json_.find("linux");
    return section == json_.end() ? "" : Text(*section, "mountLabel");
  }
  bool read_only() const {
    const Json* root = json_.contains("root") ? &json_["root"] : nullptr;
    return root != nullptr && root->is_object() && root->contains("readonly") &&
           (*root)["readonly"] == true;
  }
  std::string Dump() const { return json_.dump(); }

  static std::string Text(const Json& object, const char* key) {
    if (!object.is_object()) return "";
    auto it = object.find(key);
    return it != object.end() && it->is_string() ? it->get<std::string>() : "";
  }

 private:
  Json json_;
};

// As CRI writes the mounts of its own files.
Json BindMount(const std::string& source, const std::string& target, bool read_only) {
  return {{"destination", target},
          {"type", "bind"},
          {"source", source},
          {"options", {"rbind", "rprivate", read_only ? "ro" : "rw"}}};
}

constexpr char kLabel[] = "security.selinux";

std::string LabelOf(const std::string& path) {
  std::array<char, 4096> label = {};
  return lgetxattr(path.c_str(), kLabel, label.data(), label.size() - 1) < 0 ? "" : label.data();
}

// "s0:c1.c3,c7", one end of a range of levels.
struct Level {
  std::string sensitivity;
  std::set<int> categories;
  bool operator==(const Level&) const = default;
};

std::optional<Level> ParseLevel(absl::string_view text) {
  constexpr int kCategories = 1024;
  const std::vector<absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  Level level{.sensitivity = std::string(parts[0]), .categories = {}};
  if (parts.size() == 1) return level;
  for (absl::string_view range : absl::StrSplit(parts[1], ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '.');
    int first = 0, last = 0;
    if (ends.size() > 2 || !absl::StartsWith(ends.front(), "c") ||
        !absl::StartsWith(ends.back(), "c") || !absl::SimpleAtoi(ends.front().substr(1), &first) ||
        !absl::SimpleAtoi(ends.back().substr(1), &last) || first < 0 || last >= kCategories)
      return std::nullopt;
    for (int i = first; i <= last; ++i) level.categories.insert(i);
  }
  return level;
}

bool SameLevel(absl::string_view one, absl::string_view other) {
  const std::optional<Level> level = ParseLevel(one);
  return level && level == ParseLevel(other);
}

// The kernel tells categories in their order and runs of them as one, however they were given.
bool SameRange(absl::string_view one, absl::string_view other) {
  const std::vector<absl::string_view> ends = absl::StrSplit(one, '-');
  const std::vector<absl::string_view> others = absl::StrSplit(other, '-');
  return one == other ||
         (SameLevel(ends.front(), others.front()) && SameLevel(ends.back(), others.back()));
}

// "user:role:type:level". What has a label of that type already has it from another container of
// the pod's: if its categories are others, both may only have what has none.
std::string CommonLabel(const std::string& current, const std::string& label) {
  size_t level = 0;
  for (int i = 0; i < 3; ++i) {
    level = label.find(':', level) + 1;
    if (level == 0) return label;
  }
  if (current.compare(0, level, label, 0, level) != 0 ||
      SameRange(absl::string_view(current).substr(level), absl::string_view(label).substr(level)))
    return label;
  return label.substr(0, label.find_first_of(":-", level));
}

// For its containers; a tmpfs' root hands its type on to what they make in it.
void Label(const std::string& path, const std::string& own) {
  if (own.empty()) return;
  const std::string label = CommonLabel(LabelOf(path), own);
  RaisedCapabilities raised({CAP_SYS_ADMIN});
  if (lsetxattr(path.c_str(), kLabel, label.c_str(), label.size() + 1, 0) != 0)
    LogWarning("cannot label what a pod's containers share",
               {{"error", std::string(ErrnoError(errno, path).message())}});
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

bool JoinFiles(Config& config, const PodFiles& files) {
  bool changed = false;
  for (const char* name : kFiles) {
    std::string target = absl::StrCat("/etc/", name);
    if (config.MountAt(target) != nullptr || !Exists(files.Path(name))) continue;
    Label(files.Path(name), config.mount_label());
    config.AddMount(BindMount(files.Path(name), target, config.read_only()));
    changed = true;
  }
  return changed;
}

bool JoinShm(Config& config, const PodFiles& files) {
  Json* mount = config.MountAt("/dev/shm");
  if (!files.shm || (mount != nullptr && Config::Text(*mount, "type") != "tmpfs")) return false;
  Label(files.Path("shm"), config.mount_label());
  Json shared = BindMount(files.Path("shm"), "/dev/shm", /*read_only=*/false);
  if (mount != nullptr) {
    *mount = std::move(shared);
  } else {
    config.AddMount(std::move(shared));
  }
  return true;
}

}  // namespace

Async<absl::Status> MakePodFiles(Reaper& reaper, PodFiles files) {
  absl::Status status = WriteFiles(files);
  if (status.ok() && files.shm) {
    // As large as CRI makes it.
    Mount shm{.type = "tmpfs",
              .source = "shm",
              .target = "",
              .options = {"nosuid", "nodev", "noexec", "mode=1777", "size=67108864"}};
    std::vector<Mount> mounts = {std::move(shm)};
    status = co_await MountAll(reaper, std::move(mounts), files.Path("shm"));
  }
  if (!status.ok()) {
    if (absl::Status removed = RemovePodFiles(files.bundle); !removed.ok())
      LogWarning("cannot remove a pod's files", {{"error", std::string(removed.message())}});
  }
  co_return status;
}

// Takes neither a process nor a descriptor, for want of which it may be called; nor does detaching
// a tmpfs wait for anything.
absl::Status RemovePodFiles(const std::string& bundle) {
  const std::string directory = bundle + "/pod";
  const std::string shm = directory + "/shm";
  // A start that was tried again may have mounted another one.
  while (rmdir(shm.c_str()) < 0 && errno != ENOENT && errno != ENOTDIR) {
    RaisedCapabilities raised({CAP_SYS_ADMIN});
    int error = UnmountAt(shm, MNT_DETACH);
    if (error == EINVAL) break;  // nothing is mounted
    if (error != 0) return ErrnoError(error, absl::StrCat("unmount ", shm));
  }
  for (const char* name : kFiles) unlink(absl::StrCat(directory, "/", name).c_str());
  if (rmdir(directory.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  std::error_code error;
  std::filesystem::remove_all(directory, error);
  if (error) return absl::UnknownError(absl::StrCat("remove ", directory, ": ", error.message()));
  return absl::OkStatus();
}

absl::Status JoinPod(const std::string& path, const PodFiles& files, pid_t pid,
                     const NamespacePaths& namespaces, bool host_pid) {
  absl::StatusOr<std::string> text = ReadFile(path);
  // The OCI runtime says best what is wrong. ParseSpec also limits the depth.
  if (!text.ok() || !ParseSpec(*text).ok()) return absl::OkStatus();
  Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::OkStatus();
  text->clear();
  text->shrink_to_fit();
  Config config(std::move(json));
  std::string own = absl::StrCat("/proc/", pid, "/ns/");
  bool own_pid = std::any_of(namespaces.begin(), namespaces.end(),
                             [](const auto& entry) { return entry.first == "pid"; });
  if (!own_pid && !host_pid && config.IsIn("pid", own + "pid"))
    return absl::InvalidArgumentError("the containers of this pod share no pid namespace");
  bool changed = false;
  if (config.IsIn("network", own + "net")) changed |= JoinFiles(config, files);
  if (config.IsIn("ipc", own + "ipc")) changed |= JoinShm(config, files);
  for (const auto& [type, other] : namespaces) {
    if (!config.IsIn(type, own + (type == "network" ? "net" : type))) continue;
    (*config.Namespace(type))["path"] = other;
    changed = true;
  }
  return changed ? WriteFileAtomically(path, config.Dump(), 0644) : absl::OkStatus();
}

std::string ResolvConf(const std::vector<std::string>& servers,
                       const std::vector<std::string>& searches,
                       const std::vector<std::string>& options) {
  std::string text;
  if (!searches.empty()) absl::StrAppend(&text, "search ", absl::StrJoin(searches, " "), "\n");
  for (const std::string& server : servers) absl::StrAppend(&text, "nameserver ", server, "\n");
  if (!options.empty()) absl::StrAppend(&text, "options ", absl::StrJoin(options, " "), "\n");
  return text;
}

}  // namespace feather
