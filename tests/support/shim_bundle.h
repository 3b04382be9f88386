#pragma once

#include <string>
#include <vector>

namespace feather::test {

// A directory in $FEATHER_TEST_TMPDIR, or /tmp, that lives as long as the object, short enough for
// socket paths: everything a test makes lies in it. Its last component is unique on this machine
// and marks what belongs to the test elsewhere (cgroups).
class TestDirectory {
 public:
  TestDirectory();
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;
  ~TestDirectory();

  const std::string& path() const { return path_; }
  std::string name() const { return path_.substr(path_.rfind('/') + 1); }

 private:
  std::string path_;
};

// A root file system with busybox and an applet link for each of its commands, at `path`.
void MakeRootfs(const std::string& path);

// What a container's config.json says; the rest is what containerd's default Linux spec has, but
// without a network namespace (this machine has no use for one) and with the host's cgroup
// namespace.
struct SpecOptions {
  std::vector<std::string> args = {"sleep", "1000"};
  std::vector<std::string> env;  // beyond PATH
  bool terminal = false;
  // root.path: "rootfs" when the request mounts it, else an absolute path.
  std::string root = "rootfs";
  std::string cgroups_path;
  // An RFC 7386 merge patch in JSON, applied last; empty: none.
  std::string patch;
};

// JSON.
std::string MakeSpec(const SpecOptions& options);
// The `process` object of an exec.
std::string MakeProcess(const std::vector<std::string>& args, bool terminal = false,
                        const std::vector<std::string>& env = {});

}  // namespace feather::test
