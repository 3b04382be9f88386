// The commands of the documents: each is run by a test, as it stands there where that can be.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"

namespace feather {
namespace {

namespace fs = std::filesystem;

std::string Source(const std::string& path) {
  return absl::StrCat(test::kSourceDirectory, "/", path);
}

std::string Read(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(Source(path));
  EXPECT_TRUE(text.ok()) << path << ": " << text.status();
  return text.value_or("");
}

// A fenced block of a document: what kind, the heading above it, and which one of its kind below
// that it is, from 1.
struct Block {
  std::string document;
  std::string kind;
  std::string heading;
  int number = 0;
  std::string text;
};

struct Document {
  std::vector<Block> blocks;
  std::string prose;
};

Document Parse(const std::string& path) {
  Document document;
  std::string heading;
  bool fenced = false;
  std::string before;
  for (absl::string_view line : absl::StrSplit(Read(path), '\n')) {
    if (absl::StartsWith(line, "```")) {
      fenced = !fenced;
      if (!fenced) continue;
      const std::string kind(line.substr(3));
      const auto number =
          std::count_if(document.blocks.begin(), document.blocks.end(),
                        [&](const Block& b) { return b.kind == kind && b.heading == heading; });
      document.blocks.push_back({path, kind, heading, static_cast<int>(number) + 1, ""});
    } else if (fenced) {
      absl::StrAppend(&document.blocks.back().text, line, "\n");
    } else {
      EXPECT_FALSE(before.empty() && absl::StartsWith(line, "    "))
          << path << ": a block without a fence: is that a command? " << line;
      if (absl::StartsWith(line, "#"))
        heading = std::string(line.substr(std::min(line.size(), line.find(' ') + 1)));
      absl::StrAppend(&document.prose, line, "\n");
    }
    before = std::string(line);
  }
  return document;
}

// The commands of a block, split at pipes and `&&`.
std::vector<std::string> Commands(const Block& block) {
  std::vector<std::string> commands;
  for (absl::string_view line : absl::StrSplit(block.text, '\n')) {
    const absl::string_view code = line.substr(0, line.find('#'));
    for (absl::string_view part : absl::StrSplit(code, absl::ByString("&&"))) {
      for (absl::string_view command : absl::StrSplit(part, '|')) {
        command = absl::StripAsciiWhitespace(command);
        if (!command.empty()) commands.emplace_back(command);
      }
    }
  }
  return commands;
}

// Those in the text: `a program with arguments`, or a program of this tree. What the OCI runtime
// and CRI's tools are told by feather and by others ("`runc create` that hangs") is none.
std::vector<std::string> CommandsInProse(const std::string& prose) {
  static const std::set<std::string> kPrograms = {"apt-get", "build/release/bin/<x>_test",
                                                  "cmake",   "containerd-shim-feather-v2",
                                                  "cp",      "crictl",
                                                  "docker",  "git",
                                                  "install", "journalctl",
                                                  "kill",    "kubectl",
                                                  "ln",      "mkdir",
                                                  "mount",   "nerdctl",
                                                  "nsenter", "podman",
                                                  "rm",      "strace",
                                                  "sudo",    "systemctl",
                                                  "umount"};
  std::vector<std::string> commands;
  const std::vector<std::string> parts = absl::StrSplit(prose, '`');
  for (size_t i = 1; i < parts.size(); i += 2) {
    const std::string command =
        absl::StrJoin(absl::StrSplit(parts[i], absl::ByAnyChar(" \n"), absl::SkipEmpty()), " ");
    const std::string program = command.substr(0, command.find(' '));
    const bool ours =
        (absl::StartsWith(program, "tests/") || absl::StartsWith(program, "packaging/")) &&
        fs::is_regular_file(Source(program)) && access(Source(program).c_str(), X_OK) == 0;
    const bool theirs = kPrograms.contains(program) && program != command;
    const bool runtimes = absl::StartsWith(command, "runc --root");
    if (ours || theirs || runtimes) commands.push_back(command);
  }
  return commands;
}

std::vector<std::string> Documents() {
  std::vector<std::string> documents;
  fs::recursive_directory_iterator entries(Source("."));
  for (const fs::directory_entry& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && (name == "build" || name[0] == '.'))
      entries.disable_recursion_pending();
    if (entry.path().extension() == ".md")
      documents.push_back(entry.path().lexically_relative(Source(".")).string());
  }
  return documents;
}

// Blocks that a test runs as they stand, by tests/packages/documented, and how it names them.
struct Verbatim {
  const char* document;
  const char* heading;
  int number;
  const char* test;
  const char* words;
};
constexpr Verbatim kVerbatim[] = {
    {"README.md", "With your containerd", 2, "tests/packages/install",
     "documented README.md \"With your containerd\" 2"},
    {"README.md", "With your containerd", 3, "tests/packages/install",
     "documented README.md \"With your containerd\" 3"},
    {"README.md", "With your containerd", 4, "tests/packages/install",
     "README.md:With your containerd:4"},
    {"docs/operating.md", "Where the log is", 1, "tests/packages/install",
     "documented docs/operating.md \"Where the log is\""},
    {"docs/operating.md", "Looking into a shim", 1, "tests/packages/install",
     "docs/operating.md:Looking into a shim:1"},
    {"docs/operating.md", "Looking into a shim", 2, "tests/packages/systemd",
     "documented docs/operating.md \"Looking into a shim\" 2"},
    {"docs/operating.md", "Rootless containerd", 1, "tests/packages/rootless", "documented 1"},
    {"docs/operating.md", "Rootless containerd", 2, "tests/packages/rootless", "documented 2"},
    {"docs/performance.md", "To repeat it", 1, "tests/bench/documented",
     "documented\" docs/performance.md \"To repeat it\""},
    {"packaging/docker/README.md", "feather with Docker Engine", 1, "tests/packages/systemd",
     "documented packaging/docker/README.md \"feather with Docker Engine\""},
    {"packaging/docker/README.md", "feather with Docker Engine", 2, "tests/packages/systemd",
     "documented packaging/docker/README.md \"feather with Docker Engine\" 2"},
    {"packaging/docker/README.md", "feather with Docker Engine", 3, "tests/packages/systemd",
     "documented packaging/docker/README.md \"feather with Docker Engine\" 3"},
};

// Other commands: which test runs it, or the same with other arguments, and by which words.
struct RunBy {
  const char* command;
  const char* test;
  const char* words;
};
constexpr RunBy kRunBy[] = {
    {"packaging/quickstart", "tests/CMakeLists.txt", "/packaging/quickstart)"},
    // What runs all of this, with any arguments.
    {"tests/run", ".ci/run", "tests/run"},
    {"packaging/install-build-deps", "tests/run", "packaging/install-build-deps "},
    {"packaging/install-build-deps --tests", "tests/run", "tools=(--tests)"},
    {"packaging/install-build-deps --arm64", "tests/run", "${long:+--arm64}"},
    {"cmake --preset release", "tests/run", "cmake --preset \"$preset\""},
    {"cmake --build --preset release", "tests/run", "cmake --build --preset \"$preset\""},
    {"build/release/bin/<x>_test --gtest_filter=…", "tests/CMakeLists.txt",
     "gtest_discover_tests("},
    {"packaging/build-deb", "tests/packages/run", "packaging/build-deb\""},
    {"packaging/build-deb --arch arm64", "tests/packages/arm64", "build-deb\" --arch arm64"},
    {"packaging/arm64/sysroot", "tests/packages/arm64", "packaging/arm64/sysroot\""},
    {"tests/packages/arm64", "tests/CMakeLists.txt", "packages/arm64 ${name}"},
    {"apt-get install ./build/packages/containerd-shim-feather_*.deb", "tests/packages/install",
     "apt-get install -q -y \"/packages/"},
    {"apt-get remove containerd-shim-feather", "tests/packages/install",
     "apt-get remove -q -y $name"},
    {"containerd-shim-feather-v2 -v", "tests/packages/install", "\"$program\" -v"},
    {"containerd-shim-feather-v2 inspect", "tests/packages/install", "\"$program\" inspect"},
    {"kill -USR1 PID", "tests/packages/install", "kill -USR1 "},
    {"systemctl restart containerd", "tests/packages/systemd",
     "restarted systemctl restart containerd"},
    {"systemctl restart docker", "tests/packages/systemd", "\nsystemctl restart docker\n"},
    // Skipped where there is no nerdctl: no Debian release carries it.
    {"nerdctl run --runtime io.containerd.feather.v2 …", "tests/packages/nerdctl",
     "nerdctl run --runtime io.containerd.feather.v2 "},
    {"docker run --runtime feather …", "tests/packages/docker", "flags=(--runtime feather)"},
    // What it does there is what RunPodSandbox with that handler does.
    {"crictl runp --runtime feather", "tests/packages/run", "runtime_handler: 'feather'"},
    {"runc --root /run/containerd/runc/NAMESPACE delete --force ID", "tests/packages/install",
     "runc --root \"/run/containerd/runc/$FEATHER_NAMESPACE\" delete --force "},
    {"tests/bench/run", "tests/bench/documented", "${command[0]}"},
    {"strace -f -e execve", "tests/integration/failing_syscall_test.cc", "strace"},
    {"umount -R", "tests/integration/failing_syscall_test.cc", "\"umount -R \""},
    {"nsenter -t", "tests/integration/sandbox_faults_test.cc", "\"nsenter\", \"-t\""},
};

bool IsExecutable(const std::string& program) {
  // Installed by a command above it.
  if (program == "containerd-shim-feather-v2") return access(test::kBuiltShim, X_OK) == 0;
  if (absl::StrContains(program, '/')) return access(Source(program).c_str(), X_OK) == 0;
  const char* path = getenv("PATH");
  for (absl::string_view directory : absl::StrSplit(path == nullptr ? "" : path, ':'))
    if (access(absl::StrCat(directory, "/", program).c_str(), X_OK) == 0) return true;
  return false;
}

std::set<std::string> Presets() {
  std::set<std::string> names;
  const auto json = nlohmann::json::parse(Read("CMakePresets.json"));
  for (const auto& preset : json["configurePresets"])
    names.insert(preset["name"].get<std::string>());
  return names;
}

TEST(DocumentCommands, TheirProgramsAndPresetsExist) {
  const std::set<std::string> presets = Presets();
  for (const char* document : {"README.md", "CONTRIBUTING.md", "docs/performance.md"}) {
    for (const Block& block : Parse(document).blocks) {
      if (block.kind != "sh") continue;
      for (const std::string& command : Commands(block)) {
        const std::vector<std::string> words = absl::StrSplit(command, ' ', absl::SkipEmpty());
        EXPECT_TRUE(IsExecutable(words[0])) << document << ": " << command;
        auto preset = std::find(words.begin(), words.end(), "--preset");
        if (preset == words.end()) continue;
        ASSERT_NE(++preset, words.end()) << command;
        EXPECT_EQ(presets.count(*preset), 1u) << command;
      }
    }
  }
}

// A script among the tests is run if CMake's list has it.
void ExpectIsRun(const std::string& test) {
  for (const char* folder : {"packages", "bench"}) {
    absl::string_view name = test;
    if (!absl::ConsumePrefix(&name, absl::StrCat("tests/", folder, "/")) || name == "run") continue;
    const std::string list = Read("tests/CMakeLists.txt");
    bool is_run = absl::StrContains(list, absl::StrCat(" ", name, " ${suite}"));
    for (const char* end : {" ", ")", "\n"})
      is_run |= absl::StrContains(list, absl::StrCat(folder, "/", name, end));
    EXPECT_TRUE(is_run) << "nothing runs " << test;
  }
}

TEST(DocumentCommands, EachIsRunByATest) {
  std::set<std::string> commands;
  size_t verbatim = 0;
  auto check = [&](const std::string& document, std::string command) {
    if (absl::StartsWith(command, "tests/run ")) command = "tests/run";
    commands.insert(command);
    auto by = std::find_if(std::begin(kRunBy), std::end(kRunBy),
                           [&](const RunBy& r) { return r.command == command; });
    if (by == std::end(kRunBy)) {
      ADD_FAILURE() << document << ": which test runs \"" << command << "\"? Name it in kRunBy";
      return;
    }
    EXPECT_TRUE(absl::StrContains(Read(by->test), by->words))
        << by->test << " does not run \"" << command << "\" any more";
    ExpectIsRun(by->test);
  };
  for (const std::string& path : Documents()) {
    const Document document = Parse(path);
    for (const Block& block : document.blocks) {
      if (block.kind != "sh") continue;
      auto run = std::find_if(std::begin(kVerbatim), std::end(kVerbatim), [&](const Verbatim& v) {
        return v.document == path && v.heading == block.heading && v.number == block.number;
      });
      if (run == std::end(kVerbatim)) {
        for (const std::string& command : Commands(block)) check(path, command);
        continue;
      }
      ++verbatim;
      EXPECT_TRUE(absl::StrContains(Read(run->test), run->words))
          << run->test << ": " << run->words;
      ExpectIsRun(run->test);
    }
    for (const std::string& command : CommandsInProse(document.prose)) check(path, command);
  }
  EXPECT_EQ(verbatim, std::size(kVerbatim)) << "a block is gone";
  for (const RunBy& run : kRunBy)
    EXPECT_TRUE(commands.contains(run.command)) << run.command << " is in no document any more";
}

// What a document shows of a configuration is what the example has, which containerd has read.
TEST(DocumentCommands, TheConfigurationThatTheyShowIsThatOfTheExamples) {
  auto settings = [](absl::string_view text) {
    std::vector<std::string> lines;
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
      if (!line.empty()) lines.emplace_back(line);
    }
    return lines;
  };
  const std::vector<std::pair<Block, std::string>> shown = [] {
    std::vector<std::pair<Block, std::string>> found;
    const std::vector<std::string> examples = {"additional-runtime-v2", "additional-runtime-v3",
                                               "without-pause-v3"};
    for (const char* document : {"README.md", "docs/sandbox.md"})
      for (const Block& block : Parse(document).blocks)
        if (block.kind == "toml" && found.size() < examples.size())
          found.emplace_back(block, examples[found.size()]);
    return found;
  }();
  ASSERT_EQ(shown.size(), 3u);
  for (const auto& [block, example] : shown)
    EXPECT_EQ(settings(block.text),
              settings(Read(absl::StrCat("packaging/containerd/", example, ".toml"))))
        << block.document << ", " << example;
}

}  // namespace
}  // namespace feather
