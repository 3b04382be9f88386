#pragma once

#include <fcntl.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/cri.pb.h"
#include "proto/sandbox.pb.h"
#include "runtime/base/file.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/proc.h"
#include "tests/support/shim_test.h"

namespace feather::test {

namespace api = containerd::runtime::sandbox::v1;
inline constexpr char kId[] = "pod";

inline std::string Link(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::read_symlink(path, ignored);
}

inline std::string NamespaceOf(pid_t pid, const std::string& type) {
  return Link(absl::StrCat("/proc/", pid, "/ns/", type));
}

// A network namespace with a file, as containerd makes it; in a user namespace of its own with ids
// from 100000 on where that is asked for.
class NetworkNamespace {
 public:
  NetworkNamespace(std::string path, bool user) : path_(std::move(path)) {
    int ready[2], go[2];
    if (pipe(ready) < 0 || pipe(go) < 0) throw std::runtime_error("pipe");
    // Not fork(2) and unshare(2): ThreadSanitizer gives such a child a thread, and with that it
    // cannot enter a user namespace.
    const int flags = SIGCHLD | CLONE_NEWNET | (user ? CLONE_NEWUSER : 0);
    const pid_t pid = static_cast<pid_t>(syscall(SYS_clone, flags, nullptr, nullptr, nullptr, 0));
    if (pid == 0) {
      char byte = 0;
      if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1) _exit(1);
      _exit(0);
    }
    char byte = 0;
    close(ready[1]);
    bool made = read(ready[0], &byte, 1) == 1;
    for (const char* map : {"uid_map", "gid_map"})
      if (made && user)
        made = WriteFile(absl::StrCat("/proc/", pid, "/", map), "0 100000 65536", 0).ok();
    made = made && WriteFile(path_, "", 0444).ok() &&
           mount(absl::StrCat("/proc/", pid, "/ns/net").c_str(), path_.c_str(), nullptr, MS_BIND,
                 nullptr) == 0;
    if (write(go[1], &byte, 1) != 1) made = false;
    for (int fd : {ready[0], go[0], go[1]}) close(fd);
    if (pid > 0) waitpid(pid, nullptr, 0);
    if (!made) throw std::runtime_error("make a network namespace: " + path_);
    struct stat file;
    stat(path_.c_str(), &file);
    name_ = absl::StrCat("net:[", file.st_ino, "]");
  }
  ~NetworkNamespace() { Remove(); }

  const std::string& path() const { return path_; }
  // As the links in /proc/<pid>/ns have it.
  const std::string& name() const { return name_; }
  void Remove() {
    if (path_.empty()) return;
    umount2(path_.c_str(), MNT_DETACH);
    unlink(path_.c_str());
    path_.clear();
  }

 private:
  std::string path_;
  std::string name_;
};

// What of a process holds a network namespace: threads, descriptors of it, and sockets made in it.
inline std::vector<std::string> HoldersOf(pid_t pid, const std::string& name) {
  std::vector<std::string> found;
  for (const std::string& thread : ListDirectory(absl::StrCat("/proc/", pid, "/task")))
    if (NamespaceOf(std::stoi(thread), "net") == name) found.push_back("thread " + thread);
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  std::string directory = absl::StrCat("/proc/", pid, "/fd");
  for (const std::string& number : ListDirectory(directory)) {
    std::string target = Link(directory + "/" + number);
    if (target == name) found.push_back("descriptor " + number);
    if (target.rfind("socket:", 0) != 0) continue;
    UniqueFd socket(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), stoi(number), 0)));
    UniqueFd of(ioctl(socket.get(), SIOCGSKNS));
    if (Link(absl::StrCat("/proc/self/fd/", of.get())) == name) found.push_back("socket " + number);
  }
  return found;
}

class SandboxTest : public ShimTest {
 protected:
  void TearDown() override {
    network_.reset();
    ShimTest::TearDown();
  }

  // The shim of a pod, which has no config.json.
  Container& Shim() {
    if (shim_ != nullptr) return *shim_;
    shim_ = &ctrd().Prepare(kId);
    unlink((shim_->bundle() + "/config.json").c_str());
    EXPECT_THAT(shim_->StartShim(), IsOk());
    return *shim_;
  }
  NetworkNamespace& Network(bool user = false) {
    if (!network_)
      network_ = std::make_unique<NetworkNamespace>(ctrd().directory() + "/netns", user);
    return *network_;
  }

  // A pod with everything of its own but a pid namespace.
  static cri::v1::PodSandboxConfig Config() {
    cri::v1::PodSandboxConfig config;
    config.set_hostname("somepod");
    Options(config).set_pid(cri::v1::CONTAINER);
    config.mutable_dns_config()->add_servers("192.0.2.1");
    config.mutable_dns_config()->add_searches("example.org");
    return config;
  }
  static cri::v1::NamespaceOption& Options(cri::v1::PodSandboxConfig& config) {
    return *config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  }

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const std::string& method, Request request) {
    if (request.sandbox_id().empty()) request.set_sandbox_id(kId);
    return Pending<Response>(ctrd().loop(),
                             Shim().SendBytes("containerd.runtime.sandbox.v1.Sandbox", method,
                                              request.SerializeAsString()))
        .Get();
  }
  absl::Status Create(const cri::v1::PodSandboxConfig& config, const std::string& netns) {
    api::CreateSandboxRequest request;
    request.set_bundle_path(Shim().bundle());
    request.set_netns_path(netns);
    request.mutable_options()->set_type_url("type.googleapis.com/runtime.v1.PodSandboxConfig");
    request.mutable_options()->set_value(config.SerializeAsString());
    return Call<api::CreateSandboxResponse>("CreateSandbox", request).status();
  }
  absl::StatusOr<api::StartSandboxResponse> Start() {
    return Call<api::StartSandboxResponse>("StartSandbox", api::StartSandboxRequest());
  }
  absl::Status Stop() {
    return Call<api::StopSandboxResponse>("StopSandbox", api::StopSandboxRequest()).status();
  }
  absl::StatusOr<api::SandboxStatusResponse> Status() {
    return Call<api::SandboxStatusResponse>("SandboxStatus", api::SandboxStatusRequest());
  }
  Pending<api::WaitSandboxResponse> Wait() {
    api::WaitSandboxRequest request;
    request.set_sandbox_id(kId);
    return Pending<api::WaitSandboxResponse>(
        ctrd().loop(), Shim().SendBytes("containerd.runtime.sandbox.v1.Sandbox", "WaitSandbox",
                                        request.SerializeAsString()));
  }
  // ShutdownSandbox, and what containerd does next; the shim ends by itself.
  absl::Status Shutdown() {
    absl::Status status =
        Call<api::ShutdownSandboxResponse>("ShutdownSandbox", api::ShutdownSandboxRequest())
            .status();
    Shim().Disconnect();
    EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(Shim().shim_pid()).has_value(); }));
    if (status.ok()) status = Shim().RemoveBundle();
    return status;
  }
  // Created and started; its pid.
  pid_t RunPod(const cri::v1::PodSandboxConfig& config, const std::string& netns) {
    EXPECT_THAT(Create(config, netns), IsOk());
    auto started = Start();
    EXPECT_THAT(started, IsOk());
    return started.ok() ? static_cast<pid_t>(started->pid()) : 0;
  }

  // The spec of a container in the pod, as CRI writes it.
  static ContainerOptions InPod(pid_t pid, const std::string& script,
                                const std::string& pid_namespace = "") {
    ContainerOptions options = Shell(script);
    auto path = [&](const char* type) { return absl::StrCat("/proc/", pid, "/ns/", type); };
    nlohmann::json pids = {{"type", "pid"}};
    if (!pid_namespace.empty()) pids["path"] = pid_namespace;
    nlohmann::json patch = {{"hostname", nullptr},
                            {"annotations", {{"io.kubernetes.cri.sandbox-id", kId}}},
                            {"linux",
                             {{"namespaces",
                               {pids,
                                {{"type", "mount"}},
                                {{"type", "network"}, {"path", path("net")}},
                                {{"type", "ipc"}, {"path", path("ipc")}},
                                {{"type", "uts"}, {"path", path("uts")}}}}}}};
    options.spec.patch = patch.dump();
    return options;
  }
  // What such a container prints, and no error.
  std::string Output(Container& container) {
    absl::Status status = container.Run();
    if (!status.ok()) return status.ToString();
    auto exit = container.Wait();
    EXPECT_TRUE(exit.ok() && exit->exit_status() == 0);
    EXPECT_TRUE(WaitForEof(container.stdio()));
    EXPECT_EQ(container.stdio().err->data(), "");
    std::string text = container.stdio().out->data();
    EXPECT_THAT(container.Remove(), IsOk());
    return text;
  }

  Container* shim_ = nullptr;
  std::unique_ptr<NetworkNamespace> network_;
};

}  // namespace feather::test
