#include "tests/support/shim_bundle.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "absl/strings/str_cat.h"

namespace feather::test {
namespace {

using nlohmann::json;

constexpr const char* kApplets[] = {
    "sh",     "cat", "echo", "sleep", "true",  "false",    "ls",     "head",   "tail", "tr",
    "dd",     "wc",  "stty", "env",   "mkdir", "kill",     "ps",     "printf", "test", "touch",
    "md5sum", "seq", "sort", "id",    "pwd",   "readlink", "setsid", "grep",   "stat", "cut"};

json Capabilities() {
  return json::array({"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD",
                      "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP",
                      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"});
}

json MountEntry(const char* target, const char* type, const char* source, json options) {
  return {{"destination", target}, {"type", type}, {"source", source}, {"options", options}};
}

json Mounts() {
  return json::array(
      {MountEntry("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}),
       MountEntry("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}),
       MountEntry("/dev/pts", "devpts", "devpts",
                  {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}),
       MountEntry("/dev/shm", "tmpfs", "shm",
                  {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}),
       MountEntry("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
       MountEntry("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}),
       MountEntry("/run", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"})});
}

json Process(const std::vector<std::string>& args, bool terminal,
             const std::vector<std::string>& env) {
  json environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  if (terminal) environment.push_back("TERM=xterm");
  for (const std::string& entry : env) environment.push_back(entry);
  json process = {{"user", {{"uid", 0}, {"gid", 0}}},
                  {"args", args},
                  {"env", environment},
                  {"cwd", "/"},
                  {"capabilities",
                   {{"bounding", Capabilities()},
                    {"effective", Capabilities()},
                    {"permitted", Capabilities()}}},
                  {"rlimits", {{{"type", "RLIMIT_NOFILE"}, {"hard", 1024}, {"soft", 1024}}}},
                  {"noNewPrivileges", true}};
  if (terminal) process["terminal"] = true;
  return process;
}

}  // namespace

TestDirectory::TestDirectory() {
  const char* parent = getenv("FEATHER_TEST_TMPDIR");
  path_ = absl::StrCat(parent == nullptr ? "/tmp" : parent, "/feather-XXXXXX");
  if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp " + path_);
  chmod(path_.c_str(), 0711);
}

TestDirectory::~TestDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void MakeRootfs(const std::string& path) {
  namespace fs = std::filesystem;
  for (const char* directory : {"bin", "dev", "etc", "proc", "run", "sys", "tmp"})
    fs::create_directories(path + "/" + directory);
  fs::copy_file("/bin/busybox", path + "/bin/busybox", fs::copy_options::overwrite_existing);
  for (const char* applet : kApplets) fs::create_symlink("busybox", path + "/bin/" + applet);
}

std::string MakeProcess(const std::vector<std::string>& args, bool terminal,
                        const std::vector<std::string>& env) {
  return Process(args, terminal, env).dump();
}

std::string MakeSpec(const SpecOptions& options) {
  json linux_section = {
      {"resources", {{"devices", {{{"allow", false}, {"access", "rwm"}}}}}},
      {"cgroupsPath", options.cgroups_path},
      {"namespaces",
       {{{"type", "pid"}}, {{"type", "ipc"}}, {{"type", "uts"}}, {{"type", "mount"}}}},
      {"maskedPaths", {"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list"}},
      {"readonlyPaths", {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"}}};
  json spec = {{"ociVersion", "1.0.2"},
               {"process", Process(options.args, options.terminal, options.env)},
               {"root", {{"path", options.root}}},
               {"hostname", "feather"},
               {"mounts", Mounts()},
               {"linux", linux_section}};
  if (!options.patch.empty()) spec.merge_patch(json::parse(options.patch));
  return spec.dump();
}

}  // namespace feather::test
