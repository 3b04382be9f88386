// The documents against the tree: what they say exists, and what exists they say.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/base/file.h"
#include "shim/inspect/report.h"
#include "tests/support/build.h"

namespace feather {
namespace {

namespace fs = std::filesystem;

std::string Source(const std::string& path) {
  return absl::StrCat(test::kSourceDirectory, "/", path);
}

std::string Read(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  EXPECT_TRUE(text.ok()) << path << ": " << text.status();
  return text.value_or("");
}

// The string literal that `text` begins with, after blanks; adjacent ones are one. Empty: none.
std::string Literal(absl::string_view text) {
  std::string literal;
  while (true) {
    text = absl::StripLeadingAsciiWhitespace(text);
    if (!absl::ConsumePrefix(&text, "\"")) return literal;
    const size_t end = text.find('"');
    if (end == text.npos) return literal;
    absl::StrAppend(&literal, text.substr(0, end));
    text.remove_prefix(end + 1);
  }
}

// The messages of all calls of `function` in a file, each behind its level.
void CollectMessages(const std::string& file, const std::string& text, const std::string& function,
                     const std::string& level, std::set<std::string>& messages) {
  for (size_t at = text.find(function); at != text.npos; at = text.find(function, at + 1)) {
    const std::string message = Literal(absl::string_view(text).substr(at + function.size()));
    EXPECT_NE(message, "") << file << ": a message of " << function
                           << " is no literal: how is anybody to look it up?";
    messages.insert(absl::StrCat(level, ": ", message));
  }
}

std::set<std::string> LoggedMessages() {
  std::set<std::string> messages;
  for (const char* folder : {"shim", "runtime", "oom"}) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(Source(folder))) {
      const std::string path = entry.path().string();
      const bool source = entry.path().extension() == ".cc" || entry.path().extension() == ".h";
      if (!source || absl::EndsWith(path, "runtime/base/log.h")) continue;
      const std::string text = Read(path);
      const std::pair<const char*, const char*> kFunctions[] = {
          {"LogDebug(", "debug"},
          {"LogInfo(", "info"},
          {"LogWarning(", "warning"},
          {"LogError(", "error"},
          {"Line(LogLevel::kWarning,", "warning"}};
      for (const auto& [function, level] : kFunctions)
        CollectMessages(path, text, function, level, messages);
    }
  }
  return messages;
}

// The first `quoted` cell of each row in the tables of operating.md's section on the log, behind
// the level that the table is of.
std::set<std::string> ExplainedMessages() {
  const std::string text = Read(Source("docs/operating.md"));
  const size_t begin = text.find("\n## Log lines");
  EXPECT_NE(begin, text.npos);
  const size_t end = text.find("\n## ", begin + 1);
  std::set<std::string> messages;
  std::string level;
  for (absl::string_view line : absl::StrSplit(text.substr(begin, end - begin), '\n')) {
    if (absl::ConsumePrefix(&line, "### ")) level = std::string(line.substr(0, line.find(':')));
    if (!absl::ConsumePrefix(&line, "| `")) continue;
    messages.insert(absl::StrCat(level, ": ", line.substr(0, line.find('`'))));
  }
  return messages;
}

std::vector<std::string> Without(const std::set<std::string>& all,
                                 const std::set<std::string>& those) {
  std::vector<std::string> rest;
  std::set_difference(all.begin(), all.end(), those.begin(), those.end(), std::back_inserter(rest));
  return rest;
}

TEST(Documents, OperatingExplainsEveryMessageOfTheLog) {
  const std::set<std::string> logged = LoggedMessages();
  ASSERT_GT(logged.size(), 10u);
  EXPECT_EQ(Without(logged, ExplainedMessages()), std::vector<std::string>())
      << "docs/operating.md lacks these";
}

TEST(Documents, OperatingExplainsNoMessageThatDoesNotExist) {
  EXPECT_EQ(Without(ExplainedMessages(), LoggedMessages()), std::vector<std::string>());
}

// The names of all tests, as "Suite.Name".
std::set<std::string> TestNames() {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(Source("tests"))) {
    const bool source = entry.path().extension() == ".cc" || entry.path().extension() == ".h";
    if (!source) continue;
    for (absl::string_view line : absl::StrSplit(Read(entry.path().string()), '\n')) {
      if (!absl::StartsWith(line, "TEST")) continue;
      line.remove_prefix(std::min(line.size(), line.find('(') + 1));
      const std::vector<std::string> words =
          absl::StrSplit(line, absl::ByAnyChar(" ,)"), absl::SkipEmpty());
      if (words.size() > 1) names.insert(absl::StrCat(words[0], ".", words[1]));
    }
  }
  return names;
}

TEST(Documents, EveryTestThatADocumentPointsToExists) {
  const std::set<std::string> tests = TestNames();
  for (const char* document : {"docs/security.md", "docs/reliability.md"}) {
    std::set<std::string> named;
    const std::vector<std::string> parts = absl::StrSplit(Read(Source(document)), '`');
    for (size_t i = 1; i < parts.size(); i += 2) {
      const size_t dot = parts[i].find('.');
      if (dot == std::string::npos || dot + 1 == parts[i].size()) continue;
      if (isupper(parts[i][0]) != 0 && isupper(parts[i][dot + 1]) != 0) named.insert(parts[i]);
    }
    EXPECT_GT(named.size(), 20u) << document;
    EXPECT_EQ(Without(named, tests), std::vector<std::string>()) << document;
  }
}

// JSON has no comments, so that nothing but a parser tells a mistake.
TEST(Documents, TheExampleForDockerNamesTheRuntime) {
  const auto json =
      nlohmann::json::parse(Read(Source("packaging/docker/daemon.json")), nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json["runtimes"]["feather"]["runtimeType"], "io.containerd.feather.v2");
}

TEST(Documents, TheDashboardAsksForMetricsThatExist) {
  inspect::Node node;
  node.shims.emplace_back().report.add_containers();
  const std::string metrics = inspect::PrometheusText(node);
  const auto json = nlohmann::json::parse(
      Read(Source("packaging/monitoring/grafana-dashboard.json")), nullptr, false);
  ASSERT_TRUE(json.is_object());
  std::vector<std::string> queries;
  for (const auto& panel : json["panels"])
    for (const auto& target : panel["targets"]) queries.push_back(target["expr"]);
  for (const auto& variable : json["templating"]["list"])
    if (variable["type"] == "query") queries.push_back(variable["query"]);
  size_t names = 0;
  for (const std::string& query : queries) {
    for (absl::string_view word : absl::StrSplit(query, absl::ByAnyChar(" (){}[],"))) {
      if (!absl::StartsWith(word, "feather_")) continue;
      EXPECT_TRUE(absl::StrContains(metrics, absl::StrCat("# TYPE ", word, " "))) << query;
      ++names;
    }
  }
  EXPECT_GE(names, queries.size());
  EXPECT_GE(queries.size(), 12u);
}

TEST(Documents, TheRuntimeClassNamesAHandlerOfTheExamplesForContainerd) {
  EXPECT_TRUE(absl::StrContains(Read(Source("packaging/kubernetes/runtimeclass.yaml")),
                                "\nhandler: feather\n"));
  for (const char* version : {"2", "3"}) {
    const std::string path =
        absl::StrCat("packaging/containerd/additional-runtime-v", version, ".toml");
    EXPECT_TRUE(absl::StrContains(Read(Source(path)), "containerd.runtimes.feather]\n")) << path;
  }
}

// Ids of the checklist ("R12") in `text`, from each `begin` to the end of its line.
std::set<std::string> ChecklistIds(const std::string& text, absl::string_view begin) {
  std::set<std::string> ids;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripLeadingAsciiWhitespace(line);
    if (!absl::ConsumePrefix(&line, begin)) continue;
    line = line.substr(0, line.find(" |"));
    for (absl::string_view word : absl::StrSplit(line, absl::ByAnyChar(" ,.`"), absl::SkipEmpty()))
      ids.emplace(word);
  }
  return ids;
}

TEST(Documents, EveryRowOfTheCompatibilityTableHasATestOrAReason) {
  std::set<std::string> tested;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(Source("tests")))
    if (entry.path().extension() == ".cc" || entry.path().extension() == ".h")
      tested.merge(ChecklistIds(Read(entry.path()), "// Checklist: "));
  const std::string page = Read(Source("docs/compatibility.md"));
  const size_t table = page.find("\n## Feature by feature\n");
  const size_t untested = page.find("\n### Without a test of its own\n");
  ASSERT_NE(table, page.npos);
  ASSERT_NE(untested, page.npos);
  std::set<std::string> excused = ChecklistIds(page.substr(untested), "| `");
  std::set<std::string> rows = ChecklistIds(page.substr(table), "| `");
  EXPECT_GT(rows.size(), 100u);
  for (const std::string& id : rows)
    EXPECT_NE(tested.contains(id), excused.contains(id))
        << id << ": either a test says \"// Checklist: " << id
        << "\", or there is a reason why not";
  for (const std::string& id : tested)
    EXPECT_TRUE(rows.contains(id)) << id << " is named by a test and has no row";
}

}  // namespace
}  // namespace feather
