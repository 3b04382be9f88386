#include "tests/support/daemon.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"
#include "tests/support/proc.h"

namespace feather::test {
namespace {

constexpr char kImage[] = "docker.io/library/busybox:latest";
constexpr char kSharedDirectory[] = "/run/containerd";

std::string Getenv(const char* name, const std::string& otherwise) {
  const char* value = getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

std::string BinaryDirectory(const std::string& suite) {
  if (suite == "bookworm") return "/usr/bin";
  const std::string own = Getenv("FEATHER_CONTAINERD_2", "");
  if (suite == "sid" && !own.empty()) return own;
  const std::string fetched =
      Getenv("FEATHER_CONTAINERD_DIR", absl::StrCat(kSourceDirectory, "/build/containerd"));
  return absl::StrCat(fetched, "/", suite, "/usr/bin");
}

// Mounts made from here on are this process' and its children's only.
bool EnterMountNamespace() {
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return false;
  if (mkdir(kSharedDirectory, 0711) != 0 && errno != EEXIST) return false;
  if (mount("tmpfs", kSharedDirectory, "tmpfs", 0, "mode=0711") != 0) return false;
  return Getenv("FEATHER_TEST_CGROUP", "") != "2" ||
         mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, nullptr) == 0;
}

}  // namespace

std::vector<std::string> Daemon::Suites() { return {"bookworm", "trixie", "sid"}; }

std::string Daemon::Unavailable(const std::string& suite) {
  if (geteuid() != 0) return "containers need root";
  const std::string dir = BinaryDirectory(suite);
  for (const char* name : {"containerd", "ctr"}) {
    if (access(absl::StrCat(dir, "/", name).c_str(), X_OK) != 0)
      return absl::StrCat("no ", dir, "/", name,
                          suite == "bookworm" ? " (packaging/install-build-deps --tests)"
                                              : " (tests/containerd/fetch gets it)");
  }
  if (RunCommand({.argv = {"sh", "-c", "command -v runc busybox"}}).code != 0)
    return "no runc or busybox-static (packaging/install-build-deps --tests)";
  return "";
}

std::string Daemon::Runtime() { return Getenv("FEATHER_TEST_RUNTIME", "io.containerd.feather.v2"); }

bool Daemon::TestsFeather() { return absl::StrContains(Runtime(), ".feather"); }

bool Daemon::TestsGrpc() { return absl::StrContains(Runtime(), "-grpc."); }

Daemon::Daemon(std::string suite, std::string cri)
    : suite_(std::move(suite)), binaries_(BinaryDirectory(suite_)), cri_(std::move(cri)) {
  static const bool entered = EnterMountNamespace();
  if (!entered) ADD_FAILURE() << "no private mount namespace, errno " << errno;
  std::string dir = Getenv("FEATHER_TEST_TMPDIR", "/tmp") + "/feather-XXXXXX";
  if (mkdtemp(dir.data()) == nullptr || mount("tmpfs", dir.c_str(), "tmpfs", 0, nullptr) != 0)
    ADD_FAILURE() << dir << ": errno " << errno;
  directory_ = dir;
  namespace_ = absl::StrCat("feather-test-", getpid(), "-", dir.substr(dir.rfind('-') + 1));
  for (const char* sub : {"bin", "tmp", "fifo"})
    mkdir(absl::StrCat(directory_, "/", sub).c_str(), 0700);
  std::string filesystems = ReadFile("/proc/filesystems").value_or("");
  snapshotter_ = absl::StrContains(filesystems, "\toverlay\n") ? "overlayfs" : "native";

  ServeAs(Runtime());
}

void Daemon::Upgrade(const std::string& suite) {
  suite_ = suite;
  binaries_ = BinaryDirectory(suite);
}

void Daemon::ServeAs(const std::string& runtime, std::string shim) const {
  const std::vector<std::string> name = absl::StrSplit(runtime, '.');
  const std::string binary =
      absl::StrCat("containerd-shim-", name[name.size() - 2], "-", name.back());
  const std::string path = absl::StrCat(directory_, "/bin/", binary);
  if (shim.empty()) {
    const char* built = TestsGrpc() ? kBuiltGrpcShim : kBuiltShim;
    shim = Getenv("FEATHER_SHIM", TestsFeather() ? built : binaries_ + "/" + binary);
  }
  unlink(path.c_str());
  if (symlink(shim.c_str(), path.c_str()) != 0)
    ADD_FAILURE() << "symlink to " << shim << ": errno " << errno;
  // Pages of a new file that are not on disk yet would count as the shim's own memory.
  const UniqueFd file(open(shim.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.valid()) fsync(file.get());
}

Daemon::~Daemon() {
  events_.reset();
  process_.reset();
  Eventually(
      [this] {
        const std::vector<pid_t> pids = DaemonProcesses(namespace_);
        for (pid_t pid : pids) kill(pid, SIGKILL);
        return pids.empty();
      },
      Milliseconds(10'000));
  RemoveCgroups(namespace_);
  for (const std::string& mount : Mounts()) umount2(mount.c_str(), MNT_DETACH);
  umount2(directory_.c_str(), MNT_DETACH);
  rmdir(directory_.c_str());
}

std::string Daemon::version() const {
  const CommandResult result = RunCommand({.argv = {binaries_ + "/containerd", "--version"}});
  const std::vector<std::string> words = absl::StrSplit(result.out, ' ');
  return words.size() > 2 ? std::string(absl::StripTrailingAsciiWhitespace(words[2])) : "?";
}

bool Daemon::OlderThan(int major, int minor) const {
  const std::string own = version();
  std::pair<int, int> number;
  const std::vector<absl::string_view> parts =
      absl::StrSplit(absl::StripPrefix(own, "v"), absl::MaxSplits('.', 2));
  EXPECT_TRUE(parts.size() == 3 && absl::SimpleAtoi(parts[0], &number.first) &&
              absl::SimpleAtoi(parts[1], &number.second))
      << own;
  return number < std::pair(major, minor);
}

std::string Daemon::Log() const { return ReadFile(directory_ + "/log").value_or(""); }

std::string Daemon::Bundle(const std::string& id) const {
  return absl::StrCat(directory_, "/state/io.containerd.runtime.v2.task/", namespace_, "/", id);
}

std::vector<std::string> Daemon::Environment() const {
  std::vector<std::string> env;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!absl::StartsWith(*entry, "PATH=") && !absl::StartsWith(*entry, "TMPDIR="))
      env.emplace_back(*entry);
  }
  env.push_back(absl::StrCat("PATH=", directory_, "/bin:", binaries_, ":", Getenv("PATH", "/bin")));
  env.push_back(absl::StrCat("TMPDIR=", directory_, "/tmp"));
  // ctr of containerd 2.2 and later writes them before the container's own lines.
  env.push_back("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1");
  return env;
}

void Daemon::WriteConfiguration() const {
  // CRI with NRI, tracing and the snapshotters that nobody uses here only cost time at the start;
  // `opt` would make /opt/containerd.
  static constexpr absl::string_view kCri[] = {"grpc.v1.cri", "cri.v1.images", "cri.v1.runtime",
                                               "podsandbox.controller.v1.podsandbox", "nri.v1.nri"};
  static constexpr absl::string_view kDisabled[] = {
      "internal.v1.opt",          "snapshotter.v1.aufs",      "snapshotter.v1.btrfs",
      "snapshotter.v1.zfs",       "snapshotter.v1.erofs",     "differ.v1.erofs",
      "internal.v1.tracing",      "snapshotter.v1.devmapper", "snapshotter.v1.blockfile",
      "tracing.processor.v1.otlp"};
  std::string disabled;
  for (absl::string_view plugin : kDisabled)
    absl::StrAppend(&disabled, "\"io.containerd.", plugin, "\", ");
  if (cri_.empty())
    for (absl::string_view plugin : kCri)
      absl::StrAppend(&disabled, "\"io.containerd.", plugin, "\", ");
  const int format = OlderThan(2, 0) ? 2 : OlderThan(2, 3) ? 3 : 4;
  const std::string socket = directory_ + "/c.sock";
  // In version 4 the servers are plugins, and neither's address follows from the other's.
  const std::string servers =
      format < 4
          ? absl::StrCat("[grpc]\n  address = \"", socket, "\"\n")
          : absl::StrCat("[plugins.\"io.containerd.server.v1.grpc\"]\n  address = \"", socket,
                         "\"\n[plugins.\"io.containerd.server.v1.ttrpc\"]\n  address = \"", socket,
                         ".ttrpc\"\n");
  const std::string text =
      absl::StrCat("version = ", format, "\nroot = \"", directory_, "/root\"\nstate = \"",
                   directory_, "/state\"\ntemp = \"", directory_, "/tmp\"\ndisabled_plugins = [",
                   disabled, "]\n", servers, cri_);
  EXPECT_TRUE(WriteFile(directory_ + "/config.toml", text, 0644).ok());
}

bool Daemon::Start() {
  if (!imported_) WriteConfiguration();
  process_ = std::make_unique<Subprocess>(
      Subprocess::Options{.argv = {binaries_ + "/containerd", "-c", directory_ + "/config.toml"},
                          .env = Environment(),
                          .working_directory = directory_,
                          .output_file = directory_ + "/log"});
  const bool answers = Eventually([this] { return Ctr({"version"}).code == 0; });
  return answers && (imported_ || (imported_ = ImportImage()));
}

bool Daemon::ImportImage(const std::string& name, const std::string& command,
                         const std::string& containerd_namespace) {
  const std::string archive = directory_ + "/image.tar";
  CommandResult result =
      RunCommand({.argv = {absl::StrCat(kSourceDirectory, "/tests/support/busybox-image"), archive,
                           name, command},
                  .env = Environment()});
  // The last one given counts.
  std::vector<std::string> import = {
      "--namespace",   containerd_namespace.empty() ? namespace_ : containerd_namespace,
      "image",         "import",
      "--snapshotter", snapshotter_};
  // Since 2.0 the daemon imports, and for its default snapshotter only.
  if (!absl::StartsWith(version(), "1.")) import.push_back("--local");
  import.push_back(archive);
  if (result.code == 0) result = Ctr(import);
  unlink(archive.c_str());
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  return result.code == 0;
}

void Daemon::Kill() {
  StopFollowing();
  process_.reset();
}

bool Daemon::Restart() {
  Kill();
  return Start();
}

bool Daemon::Stop() {
  StopFollowing();
  if (process_ == nullptr) return true;
  process_->Signal(SIGTERM);
  const bool ended = process_->Wait().has_value();
  process_.reset();
  return ended;
}

std::unique_ptr<Subprocess> Daemon::StartCtr(const std::vector<std::string>& args,
                                             Subprocess::Options options) const {
  options.argv = {binaries_ + "/ctr", "--address", directory_ + "/c.sock", "--namespace",
                  namespace_};
  options.argv.insert(options.argv.end(), args.begin(), args.end());
  options.env = Environment();
  return std::make_unique<Subprocess>(options);
}

CommandResult Daemon::Ctr(const std::vector<std::string>& args, Milliseconds limit) const {
  const std::unique_ptr<Subprocess> ctr = StartCtr(args);
  const std::optional<int> code = ctr->Wait(limit);
  return {code.value_or(-1), ctr->out(), ctr->err()};
}

std::vector<std::string> Daemon::Run(const std::string& id, const std::vector<std::string>& flags,
                                     const std::vector<std::string>& command,
                                     const std::string& runtime) const {
  std::vector<std::string> args = {"run",        "--runtime",          runtime,
                                   "--fifo-dir", directory_ + "/fifo", "--snapshotter",
                                   snapshotter_};
  // ctr sets a CPU weight unless told not to; there is no controller that would take it.
  if (Getenv("FEATHER_TEST_CGROUP", "") == "2") args.insert(args.end(), {"--cpu-shares", "0"});
  args.insert(args.end(), flags.begin(), flags.end());
  args.insert(args.end(), {kImage, id});
  args.insert(args.end(), command.begin(), command.end());
  return args;
}

std::vector<std::string> Daemon::Exec(const std::string& id, const std::string& exec_id,
                                      const std::vector<std::string>& flags,
                                      const std::vector<std::string>& command) const {
  std::vector<std::string> args = {"task",      "exec", "--fifo-dir", directory_ + "/fifo",
                                   "--exec-id", exec_id};
  args.insert(args.end(), flags.begin(), flags.end());
  args.push_back(id);
  args.insert(args.end(), command.begin(), command.end());
  return args;
}

void Daemon::Remove(const std::string& id) const {
  if (TaskStatus(id) != "STOPPED") Ctr({"task", "kill", "--signal", "SIGKILL", id});
  EXPECT_TRUE(Eventually([&] { return TaskStatus(id) == "STOPPED"; }))
      << id << " is " << TaskStatus(id);
  // ctr passes on the container's exit status.
  Ctr({"task", "delete", id});
  const CommandResult result = Ctr({"container", "delete", id});
  EXPECT_EQ(result.code, 0) << result.err;
}

std::string Daemon::TaskStatus(const std::string& id) const {
  for (absl::string_view line : absl::StrSplit(Ctr({"task", "list"}).out, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() == 3 && words[0] == id) return words[2];
  }
  return "";
}

pid_t Daemon::InitPid(const std::string& id) const {
  int pid = 0;
  return absl::SimpleAtoi(ReadFile(Bundle(id) + "/init.pid").value_or(""), &pid) ? pid : 0;
}

pid_t Daemon::ShimPid(const std::string& id) const { return ParentOf(InitPid(id)); }

std::string Daemon::ShimSocket(const std::string& id) const {
  const std::string address = ReadFile(Bundle(id) + "/address").value_or("");
  if (!address.empty())
    return std::string(absl::StripPrefix(absl::StripTrailingAsciiWhitespace(address), "unix://"));
  const std::string bootstrap = ReadFile(Bundle(id) + "/bootstrap.json").value_or("");
  const size_t begin = bootstrap.find("unix://");
  if (begin == std::string::npos) return "";
  return bootstrap.substr(begin + 7, bootstrap.find('"', begin) - begin - 7);
}

}  // namespace feather::test
