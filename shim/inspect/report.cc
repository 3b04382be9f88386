#include "shim/inspect/report.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "runtime/base/log.h"

namespace feather::inspect {
namespace {

using SystemTime = std::chrono::system_clock::time_point;
using Json = nlohmann::ordered_json;
using Row = std::vector<std::string>;

// An id that is cut has at least so much left.
constexpr size_t kLeastId = 7;

// What a terminal could take for orders, and what would break a table, is shown as '?': texts come
// from other processes. Of UTF-8 that is C1, which begins with the byte 0xc2.
std::string Printable(absl::string_view text) {
  std::string printable(text);
  unsigned char before = 0;
  for (char& c : printable) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f || (before == 0xc2 && byte < 0xa0)) c = '?';
    before = byte;
  }
  return printable;
}

std::string Cut(absl::string_view text, size_t width) {
  if (text.size() <= width) return std::string(text);
  const size_t tail = (width - kOmitted.size()) / 3;
  return absl::StrCat(text.substr(0, width - kOmitted.size() - tail), kOmitted,
                      text.substr(text.size() - tail));
}

// What fits on a line.
std::string Beginning(const std::string& line) {
  if (line.size() <= kTableWidth) return line;
  return absl::StrCat(line.substr(0, kTableWidth - kOmitted.size()), kOmitted);
}

// Up to `digits` of them: "123", "9999+".
std::string CountText(uint64_t count, int digits = 4) {
  uint64_t limit = 1;
  while (digits-- > 0) limit *= 10;
  return count < limit ? absl::StrCat(count) : absl::StrCat(limit - 1, "+");
}

// The two largest units: "3d4h", "12m5s"; of many days no hours.
std::string DurationText(std::chrono::system_clock::duration duration) {
  int64_t seconds =
      std::max<int64_t>(0, std::chrono::floor<std::chrono::seconds>(duration).count());
  constexpr std::array<std::pair<int64_t, char>, 4> kUnits = {
      {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}}};
  std::string text;
  int parts = 0;
  for (const auto& [unit, name] : kUnits) {
    const int64_t count = seconds / unit;
    seconds %= unit;
    if (count == 0 && parts == 0 && unit > 1) continue;
    text += absl::StrCat(count, std::string(1, name));
    if (++parts == 2 || count >= 100) break;
  }
  return text;
}

std::string MemoryText(uint64_t bytes) {
  if (bytes < 10 << 20) return absl::StrCat(bytes >> 10, " KiB");
  return absl::StrCat(CountText(bytes >> 20), " MiB");
}

constexpr size_t kGap = 2;
std::vector<size_t> Widths(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  return widths;
}

// Columns of equal width, kGap blanks apart.
std::string Columns(const std::vector<Row>& rows) {
  const std::vector<size_t> widths = Widths(rows);
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i)
      absl::StrAppend(&line, Printable(row[i]),
                      std::string(i + 1 < row.size() ? widths[i] + kGap - row[i].size() : 0, ' '));
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

uint64_t ExecsOf(const v1::ShimResponse& report) {
  uint64_t execs = 0;
  for (const v1::Container& container : report.containers())
    execs += static_cast<uint64_t>(container.execs_size());
  return execs;
}

std::string ContainersText(const v1::ShimResponse& report) {
  if (report.containers_size() == 1) return report.containers(0).state();
  if (report.containers_size() == 0 && report.has_sandbox())
    return absl::StrCat("pod ", report.sandbox().state());
  const auto running = std::count_if(report.containers().begin(), report.containers().end(),
                                     [](const v1::Container& c) { return c.state() == "running"; });
  return absl::StrCat(running, "/", report.containers_size(), " running");
}

std::string AgoText(const google::protobuf::Timestamp& at, SystemTime now) {
  return absl::StrCat(DurationText(now - TimeOf(at)), " ago");
}

// Of each shim that has logged one, its last problem.
std::string Problems(const Node& node) {
  std::string text;
  for (const Node::Shim& shim : node.shims) {
    const v1::ShimResponse& report = shim.report;
    if (report.last_problems_size() == 0) continue;
    const v1::Problem& last = *report.last_problems().rbegin();
    const std::string line =
        absl::StrCat(Cut(report.id(), 16), ": ", CountText(report.problems()),
                     report.problems() == 1 ? " problem, " : " problems, the last ",
                     AgoText(last.at(), node.at), ": ", last.level(), " ", last.text());
    absl::StrAppend(&text, Printable(Beginning(line)), "\n");
  }
  return text;
}

std::string Remarks(const Node& node) {
  std::string text;
  for (const std::string& socket : node.silent)
    absl::StrAppend(&text, "does not answer: ", Printable(socket), "\n");
  if (node.others > 0) absl::StrAppend(&text, node.others, " shims of other kinds\n");
  if (node.dead > 0) absl::StrAppend(&text, node.dead, " sockets without a shim\n");
  return text;
}

Json ShimJson(const Node::Shim& shim) {
  const v1::ShimResponse& report = shim.report;
  Json json = {{"id", report.id()},
               {"namespace", report.namespace_()},
               {"version", report.version()},
               {"revision", report.revision()},
               {"pid", report.pid()},
               {"started_at", UtcText(TimeOf(report.started_at()))},
               {"socket", shim.socket},
               {"bundle", report.bundle()},
               {"private_memory_bytes", report.private_memory_bytes()},
               {"descriptors", report.descriptors()},
               {"connections", report.connections()},
               {"oom_kills", report.oom_kills()},
               {"pending_events", report.pending_events()},
               {"dropped_log_lines", report.dropped_log_lines()},
               {"problems", report.problems()},
               {"last_problems", Json::array()},
               {"containers", Json::array()}};
  if (report.has_sandbox())
    json["sandbox"] = {{"state", report.sandbox().state()}, {"pid", report.sandbox().pid()}};
  for (const v1::Problem& problem : report.last_problems())
    json["last_problems"].push_back({{"at", UtcText(TimeOf(problem.at()))},
                                     {"level", problem.level()},
                                     {"text", problem.text()}});
  for (const v1::Container& container : report.containers()) {
    Json part = {{"id", container.id()},         {"state", container.state()},
                 {"pid", container.pid()},       {"bundle", container.bundle()},
                 {"cgroup", container.cgroup()}, {"oom_kills", container.oom_kills()}};
    if (container.has_exited_at()) {
      part["exit_status"] = container.exit_status();
      part["exited_at"] = UtcText(TimeOf(container.exited_at()));
    }
    part["execs"] = Json::array();
    for (const v1::Exec& exec : container.execs())
      part["execs"].push_back({{"id", exec.id()},
                               {"state", exec.state()},
                               {"pid", exec.pid()},
                               {"exit_status", exec.exit_status()}});
    json["containers"].push_back(std::move(part));
  }
  return json;
}

// One metric family: "# HELP", "# TYPE", then its samples.
class Family {
 public:
  Family(absl::string_view name, absl::string_view type, absl::string_view help)
      : name_(name),
        text_(absl::StrCat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n")) {}

  using Labels = std::vector<std::pair<absl::string_view, absl::string_view>>;
  void Add(const Labels& labels, const std::string& value) {
    text_ += name_;
    const char* separator = "{";
    for (const auto& [key, label] : labels) {
      absl::StrAppend(&text_, separator, key, "=\"");
      for (char c : label) {
        if (c == '\n') {
          text_ += "\\n";
        } else {
          if (c == '\\' || c == '"') text_ += '\\';
          text_ += c;
        }
      }
      text_ += '"';
      separator = ",";
    }
    absl::StrAppend(&text_, labels.empty() ? " " : "} ", value, "\n");
  }
  const std::string& text() const { return text_; }

 private:
  std::string name_;
  std::string text_;
};

Family::Labels LabelsOf(const v1::ShimResponse& report) {
  return {{"namespace", report.namespace_()}, {"shim", report.id()}};
}

// Two containerds of one node may have a container of the same name, and Prometheus takes nothing
// of a page on which a series is twice: the shim that was started last.
std::vector<const v1::ShimResponse*> OneOfEach(const Node& node) {
  std::map<std::pair<std::string, std::string>, const v1::ShimResponse*> found;
  for (const Node::Shim& shim : node.shims) {
    const v1::ShimResponse*& one = found[{shim.report.namespace_(), shim.report.id()}];
    if (one == nullptr || TimeOf(one->started_at()) < TimeOf(shim.report.started_at()))
      one = &shim.report;
  }
  std::vector<const v1::ShimResponse*> reports;
  for (const auto& [key, report] : found) reports.push_back(report);
  return reports;
}

// A family with a figure of each shim.
struct ShimFigure {
  const char* name;
  const char* type;
  const char* help;
  uint64_t (*value)(const v1::ShimResponse&);
};

constexpr std::array<ShimFigure, 9> kShimFigures = {{
    {"feather_shim_start_time_seconds", "gauge", "When the shim started, in seconds since 1970.",
     [](const v1::ShimResponse& r) { return static_cast<uint64_t>(r.started_at().seconds()); }},
    {"feather_shim_private_memory_bytes", "gauge", "Private dirty memory of the shim.",
     [](const v1::ShimResponse& r) { return uint64_t{r.private_memory_bytes()}; }},
    {"feather_shim_open_fds", "gauge", "Open descriptors of the shim.",
     [](const v1::ShimResponse& r) { return uint64_t{r.descriptors()}; }},
    {"feather_shim_connections", "gauge", "Connections to the shim's socket.",
     [](const v1::ShimResponse& r) { return uint64_t{r.connections()}; }},
    {"feather_shim_pending_events", "gauge", "Events that containerd has not taken yet.",
     [](const v1::ShimResponse& r) { return uint64_t{r.pending_events()}; }},
    {"feather_shim_dropped_log_lines_total", "counter", "Log lines that nobody read.",
     [](const v1::ShimResponse& r) { return uint64_t{r.dropped_log_lines()}; }},
    {"feather_shim_problems_total", "counter", "Warnings and errors that the shim has logged.",
     [](const v1::ShimResponse& r) { return uint64_t{r.problems()}; }},
    {"feather_shim_oom_kills_total", "counter",
     "Processes that the kernel's OOM killer took, also in containers that have been deleted.",
     [](const v1::ShimResponse& r) { return uint64_t{r.oom_kills()}; }},
    {"feather_shim_containers", "gauge", "Containers of the shim.",
     [](const v1::ShimResponse& r) { return static_cast<uint64_t>(r.containers_size()); }},
}};

}  // namespace

SystemTime TimeOf(const google::protobuf::Timestamp& timestamp) {
  auto since =
      std::chrono::seconds(timestamp.seconds()) + std::chrono::nanoseconds(timestamp.nanos());
  return SystemTime(std::chrono::duration_cast<SystemTime::duration>(since));
}

std::string TableText(const Node& node) {
  std::vector<Row> rows = {{"NAMESPACE", "ID", "VERSION", "PID", "UP", "MEMORY", "FDS",
                            "CONTAINERS", "EXECS", "OOM", "EVENTS"}};
  for (const Node::Shim& shim : node.shims) {
    const v1::ShimResponse& report = shim.report;
    rows.push_back({Cut(report.namespace_(), 9), report.id(), Cut(report.version(), 7),
                    CountText(report.pid(), 7), DurationText(node.at - TimeOf(report.started_at())),
                    MemoryText(report.private_memory_bytes()), CountText(report.descriptors()),
                    Cut(ContainersText(report), 13), CountText(ExecsOf(report)),
                    CountText(report.oom_kills()), CountText(report.pending_events())});
  }
  // The id has what the others leave: at least kLeastId, since each of them has its limit.
  size_t others = 0;
  const std::vector<size_t> widths = Widths(rows);
  for (size_t width : widths) others += width + kGap;
  others -= widths[1] + kGap;
  for (Row& row : rows) row[1] = Cut(row[1], std::max(kTableWidth, others + kLeastId) - others);
  return absl::StrCat(Columns(rows), Problems(node), Remarks(node));
}

std::string DetailText(const Node::Shim& shim, SystemTime now) {
  const v1::ShimResponse& report = shim.report;
  const SystemTime started = TimeOf(report.started_at());
  std::string text = Columns({
      {"shim", report.id()},
      {"namespace", report.namespace_()},
      {"version", absl::StrCat(report.version(), " (", report.revision(), ")")},
      {"pid", absl::StrCat(report.pid())},
      {"up", absl::StrCat(DurationText(now - started), ", since ", UtcText(started, false))},
      {"memory", absl::StrCat(MemoryText(report.private_memory_bytes()), " private")},
      {"descriptors", absl::StrCat(report.descriptors())},
      {"connections", absl::StrCat(report.connections())},
      {"OOM kills", absl::StrCat(report.oom_kills())},
      {"events", absl::StrCat(report.pending_events(), " waiting for containerd")},
      {"log", absl::StrCat(report.problems(), " problems, ", report.dropped_log_lines(),
                           " lines dropped")},
      {"socket", shim.socket},
      {"bundle", report.bundle()},
  });
  if (report.has_sandbox())
    absl::StrAppend(&text, "\n",
                    Columns({{"sandbox", report.sandbox().state()},
                             {"  pid", absl::StrCat(report.sandbox().pid())}}));
  for (const v1::Container& container : report.containers()) {
    std::string state = container.state();
    if (container.has_exited_at())
      absl::StrAppend(&state, ", exit status ", container.exit_status(), " at ",
                      UtcText(TimeOf(container.exited_at()), false));
    absl::StrAppend(&text, "\n",
                    Columns({{"container", container.id()},
                             {"  state", state},
                             {"  pid", absl::StrCat(container.pid())},
                             {"  OOM kills", absl::StrCat(container.oom_kills())},
                             {"  cgroup", container.cgroup()},
                             {"  bundle", container.bundle()}}));
    std::vector<Row> execs;
    for (const v1::Exec& exec : container.execs())
      execs.push_back({"  exec", exec.id(), exec.state(),
                       exec.state() == "stopped" ? absl::StrCat("exit status ", exec.exit_status())
                                                 : absl::StrCat("pid ", exec.pid())});
    text += Columns(execs);
  }
  if (report.last_problems_size() > 0) text += "\nlast problems\n";
  for (const v1::Problem& problem : report.last_problems())
    absl::StrAppend(&text, "  ", UtcText(TimeOf(problem.at()), false), " ",
                    Printable(absl::StrCat(problem.level(), " ", problem.text())), "\n");
  return text;
}

std::string JsonText(const Node& node) {
  Json json = {{"shims", Json::array()},
               {"silent", node.silent},
               {"other_shims", node.others},
               {"dead_sockets", node.dead}};
  for (const Node::Shim& shim : node.shims) json["shims"].push_back(ShimJson(shim));
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string PrometheusText(const Node& node) {
  std::string text;
  Family shims("feather_shims", "gauge", "Shims on this node that answered.");
  shims.Add({}, absl::StrCat(node.shims.size()));
  Family silent("feather_shims_silent", "gauge", "Shims on this node that did not answer.");
  silent.Add({}, absl::StrCat(node.silent.size()));
  Family info("feather_shim_info", "gauge", "Always 1; the labels tell what runs.");
  Family states("feather_container_state", "gauge", "Always 1; the label tells the state.");
  Family execs("feather_container_execs", "gauge", "Execs that have not been deleted.");
  Family ooms("feather_container_oom_kills_total", "counter",
              "Processes of the container that the kernel's OOM killer took.");
  const std::vector<const v1::ShimResponse*> reports = OneOfEach(node);
  for (const v1::ShimResponse* one : reports) {
    const v1::ShimResponse& report = *one;
    Family::Labels labels = LabelsOf(report);
    labels.insert(labels.end(), {{"version", report.version()}, {"revision", report.revision()}});
    info.Add(labels, "1");
    for (const v1::Container& container : report.containers()) {
      labels = LabelsOf(report);
      labels.emplace_back("container", container.id());
      execs.Add(labels, absl::StrCat(container.execs_size()));
      ooms.Add(labels, absl::StrCat(container.oom_kills()));
      labels.emplace_back("state", container.state());
      states.Add(labels, "1");
    }
  }
  absl::StrAppend(&text, shims.text(), silent.text(), info.text());
  for (const ShimFigure& figure : kShimFigures) {
    Family family(figure.name, figure.type, figure.help);
    for (const v1::ShimResponse* report : reports)
      family.Add(LabelsOf(*report), absl::StrCat(figure.value(*report)));
    text += family.text();
  }
  return absl::StrCat(text, states.text(), execs.text(), ooms.text());
}

}  // namespace feather::inspect
