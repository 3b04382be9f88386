#include "tests/bench/report.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace feather::bench {
namespace {

std::string Number(double value) {
  double size = std::fabs(value);
  if (size >= 100) return absl::StrFormat("%.0f", value);
  if (size >= 10) return absl::StrFormat("%.1f", value);
  if (size >= 0.1 || size == 0) return absl::StrFormat("%.2f", value);
  return absl::StrFormat("%.4f", value);
}

std::string Cell(const std::vector<double>& values) {
  if (values.empty()) return "";
  std::string text = Number(Median(values));
  if (values.size() == 1) return text;
  return absl::StrCat(text, " (", Number(Quantile(values, 0)), "–", Number(Quantile(values, 1)),
                      ")");
}

std::string Ratio(const Figure& figure) {
  double second = Median(figure.values[1]);
  if (figure.values[0].empty() || second == 0) return "";
  return absl::StrFormat("%.3g", Median(figure.values[0]) / second);
}

// What the first column's median is compared with.
enum class Against {
  kNumber,  // in the goal
  kSecond,  // the second column's
  kBare,    // the bare runtime's
  kIdle,    // its own of kIdleFigure, the greatest
  kFirst    // its own of the first figure that has this goal
};
constexpr char kIdleFigure[] = "private dirty memory, one idle container";

struct Compared {
  double own = 0;
  double than = 0;
  bool more_is_better = false;
  std::vector<double> n = {};  // the goal's numbers

  bool NoWorse() const { return more_is_better ? own >= than : own <= than; }
};

// All goals that there are; # stands for a number.
struct Goal {
  absl::string_view words;
  Against against;
  bool (*met)(const Compared& c);
};
constexpr Goal kGoals[] = {
    {"#", Against::kNumber, [](const Compared& c) { return c.own == c.n[0]; }},
    {"under #", Against::kNumber, [](const Compared& c) { return c.own < c.n[0]; }},
    {"at most #", Against::kNumber, [](const Compared& c) { return c.own <= c.n[0]; }},
    {"at most 1/#", Against::kSecond, [](const Compared& c) { return c.own * c.n[0] <= c.than; }},
    {"at most #, and 1/#", Against::kSecond,
     [](const Compared& c) { return c.own <= c.n[0] && c.own * c.n[1] <= c.than; }},
    {"at least #", Against::kSecond, [](const Compared& c) { return c.own >= c.n[0] * c.than; }},
    {"at least # times", Against::kSecond,
     [](const Compared& c) { return c.own >= c.n[0] * c.than; }},
    {"at least Go's", Against::kSecond, [](const Compared& c) { return c.own >= c.than; }},
    {"at most Go's", Against::kSecond, [](const Compared& c) { return c.own <= c.than; }},
    {"no worse", Against::kSecond, [](const Compared& c) { return c.NoWorse(); }},
    {"no slower", Against::kSecond, [](const Compared& c) { return c.NoWorse(); }},
    {"faster", Against::kSecond, [](const Compared& c) { return c.NoWorse() && c.own != c.than; }},
    {"less", Against::kSecond, [](const Compared& c) { return c.own < c.than; }},
    {"bare + #", Against::kBare, [](const Compared& c) { return c.own <= c.than + c.n[0]; }},
    {"bare + # %", Against::kBare,
     [](const Compared& c) { return c.own <= c.than * (1 + c.n[0] / 100); }},
    // A page more is as good as none; a few more or less are no trend.
    {"no growth", Against::kIdle, [](const Compared& c) { return c.own <= c.than + 4; }},
    {"constant", Against::kFirst,
     [](const Compared& c) { return std::fabs(c.own - c.than) <= c.than / 10; }},
};

// Whether this is the text of such a goal; with what stands for each #.
bool Matches(const char* text, absl::string_view words, std::vector<double>& numbers) {
  numbers.clear();
  for (char c : words) {
    if (c != '#') {
      if (*text++ != c) return false;
      continue;
    }
    char* end = nullptr;
    numbers.push_back(strtod(text, &end));
    if (end == text) return false;
    text = end;
  }
  return *text == '\0';
}

const Goal* FindGoal(const std::string& text, std::vector<double>& numbers) {
  for (const Goal& goal : kGoals)
    if (Matches(text.c_str(), goal.words, numbers)) return &goal;
  return nullptr;
}

}  // namespace

double Quantile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  double at = part * static_cast<double>(values.size() - 1);
  size_t low = static_cast<size_t>(at);
  size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

std::vector<std::string> ColumnNames(const std::vector<std::string>& shims) {
  std::vector<std::vector<std::string>> paths;
  std::vector<std::string> names;
  for (const std::string& shim : shims) {
    std::vector<std::string>& path = paths.emplace_back(absl::StrSplit(shim, '/'));
    std::reverse(path.begin(), path.end());
    names.emplace_back(absl::StripPrefix(path[0], "containerd-shim-"));
  }
  if (names.size() < 2 || names[0] != names[1]) return names;
  // Of one path there may be more than of the other; both begin with an empty part.
  for (size_t i = 1; i < std::min(paths[0].size(), paths[1].size()); ++i) {
    if (paths[0][i] == paths[1][i]) continue;
    for (size_t j : {0, 1}) absl::StrAppend(&names[j], " (", paths[j][i], ")");
    return names;
  }
  names[1] += " again";
  return names;
}

Figure& Report::Get(const std::string& name, const std::string& unit, const std::string& goal,
                    bool more_is_better) {
  for (Figure& figure : figures_)
    if (figure.name == name) return figure;
  std::vector<double> numbers;
  if (!goal.empty() && FindGoal(goal, numbers) == nullptr)
    throw std::invalid_argument(absl::StrCat(name, ": not a goal: ", goal));
  figures_.push_back({.name = name, .unit = unit, .goal = goal, .more_is_better = more_is_better});
  return figures_.back();
}

void Report::AddPoint(const std::string& plot, const std::string& x_axis, const std::string& y_axis,
                      Column column, double x, double y, Scale scale) {
  for (Curve& curve : curves_)
    if (curve.plot == plot && curve.column == column) {
      curve.points.emplace_back(x, y);
      return;
    }
  curves_.push_back({plot, x_axis, y_axis, column, scale, {{x, y}}});
}

void Report::AddMissing(const std::string& what) {
  if (std::find(missing_.begin(), missing_.end(), what) == missing_.end()) missing_.push_back(what);
}

std::vector<std::string> Report::Lines(std::vector<std::string> machine) const {
  for (const std::string& what : missing_) machine.push_back("missing: " + what);
  return machine;
}

std::string Report::Verdict(const Figure& figure) const {
  Compared c{.own = Median(figure.values[0]), .more_is_better = figure.more_is_better};
  const Goal* goal = FindGoal(figure.goal, c.n);
  if (goal == nullptr || figure.values[0].empty()) return "";
  if (goal->against == Against::kSecond || goal->against == Against::kBare) {
    const Column column = goal->against == Against::kBare ? Column::kBare : Column::kSecond;
    const std::vector<double>& values = figure.values[static_cast<int>(column)];
    if (values.empty()) return "";
    c.than = Median(values);
  } else if (goal->against != Against::kNumber) {
    const bool idle = goal->against == Against::kIdle;
    auto other = std::find_if(figures_.begin(), figures_.end(), [&](const Figure& each) {
      return idle ? each.name == kIdleFigure : each.goal == figure.goal;
    });
    if (other == figures_.end() || other->name == figure.name) return "";
    c.than = Quantile(other->values[0], idle ? 1 : 0.5);
  }
  return goal->met(c) ? "met" : "missed";
}

std::vector<std::vector<std::string>> Report::Rows(const std::vector<std::string>& names) const {
  std::vector<std::vector<std::string>> rows = {
      {"figure", "unit", names[0], names[1], "ratio", names[2], "goal", ""}};
  for (const Figure& f : figures_)
    rows.push_back({f.name, f.unit, Cell(f.values[0]), Cell(f.values[1]), Ratio(f),
                    Cell(f.values[2]), f.goal, Verdict(f)});
  return rows;
}

std::string Report::Table(const std::vector<std::string>& machine,
                          const std::vector<std::string>& names) const {
  std::string out;
  for (const std::string& line : Lines(machine)) absl::StrAppend(&out, "- ", line, "\n");
  absl::StrAppend(&out, "\n");
  const std::vector<std::vector<std::string>> rows = Rows(names);
  for (const std::vector<std::string>& row : rows) {
    absl::StrAppend(&out, "| ", absl::StrJoin(row, " | "), " |\n");
    if (&row == &rows.front())
      absl::StrAppend(&out, "|", absl::StrJoin(std::vector<std::string>(row.size(), " --- "), "|"),
                      "|\n");
  }
  return out;
}

namespace {

constexpr const char* kColors[kColumns] = {"#1b7f5c", "#c2571a", "#6b7280"};
constexpr int kWidth = 560;
constexpr int kHeight = 260;
constexpr int kLeft = 60;
constexpr int kBottom = 36;

std::string Escape(absl::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

// From 1, 2 or 5 times a power of ten that is no more than `least` to one that is no less than
// `most`, with all between them.
std::vector<double> RoundNumbers(double least, double most) {
  std::vector<double> numbers;
  for (double power = std::pow(10, std::floor(std::log10(least)));; power *= 10)
    for (double number : {power, 2 * power, 5 * power}) {
      if (number <= least) numbers.clear();
      numbers.push_back(number);
      if (number >= most && numbers.size() > 1) return numbers;
    }
}

std::string LinePlot(const std::vector<const Curve*>& curves) {
  // There is no logarithm of 0.
  constexpr double kLeast = 1e-6;
  // Few points are told, so that what is at the axes is what was measured.
  const bool few = curves[0]->scale == Scale::kLogOfFew;
  std::set<double> xs, ys;
  for (const Curve* curve : curves)
    for (auto [x, y] : curve->points) {
      xs.insert(std::max(x, kLeast));
      ys.insert(std::max(y, kLeast));
    }
  std::vector<double> x_ticks(xs.begin(), xs.end()), y_ticks;
  if (few) {
    y_ticks = RoundNumbers(*ys.begin(), *ys.rbegin());
  } else {
    const double first = *xs.begin(), ratio = *xs.rbegin() / first;
    x_ticks.clear();
    for (int i = 0; i <= 4; ++i) {
      x_ticks.push_back(first * std::pow(ratio, i / 4.0));
      y_ticks.push_back(*ys.rbegin() * i / 4);
    }
  }
  // How far a value is along its axis, from 0 to 1.
  auto logarithmic = [](double value, double from, double to) {
    return from < to ? std::log(std::max(value, from) / from) / std::log(to / from) : 0;
  };
  auto px = [&](double x) {
    return kLeft + (kWidth - kLeft - 20) * logarithmic(x, x_ticks.front(), x_ticks.back());
  };
  auto py = [&](double y) {
    const double part = few ? logarithmic(y, y_ticks.front(), y_ticks.back()) : y / y_ticks.back();
    return kHeight - kBottom - (kHeight - kBottom - 16) * part;
  };
  std::string svg = absl::StrFormat("<svg viewBox='0 0 %d %d'>", kWidth, kHeight);
  for (double y : y_ticks)
    absl::StrAppendFormat(&svg,
                          "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' class='grid'/>"
                          "<text x='%d' y='%.1f' text-anchor='end'>%s</text>",
                          kLeft, kWidth - 20, py(y), py(y), kLeft - 6, py(y) + 4,
                          few ? absl::StrFormat("%g", y) : Number(y));
  for (double x : x_ticks)
    absl::StrAppendFormat(&svg, "<text x='%.1f' y='%d' text-anchor='middle'>%s</text>", px(x),
                          kHeight - kBottom + 16, few ? absl::StrFormat("%g", x) : Number(x));
  absl::StrAppendFormat(&svg, "<text x='%d' y='%d' text-anchor='middle'>%s</text>",
                        (kLeft + kWidth) / 2, kHeight - 4, Escape(curves[0]->x_axis));
  absl::StrAppendFormat(&svg, "<text x='4' y='11'>%s</text>", Escape(curves[0]->y_axis));
  for (const Curve* curve : curves) {
    const char* color = kColors[static_cast<int>(curve->column)];
    std::string points;
    for (auto [x, y] : curve->points) {
      absl::StrAppendFormat(&points, "%.1f,%.1f ", px(x), py(y));
      if (few)
        absl::StrAppendFormat(&svg, "<circle cx='%.1f' cy='%.1f' r='4' fill='%s'/>", px(x), py(y),
                              color);
    }
    absl::StrAppendFormat(
        &svg, "<polyline points='%s' fill='none' stroke='%s' stroke-width='2.5'/>", points, color);
  }
  return svg + "</svg>";
}

// A bar for each column that has values, with a line from the least to the greatest; from zero, to
// the left where they are negative: a difference may be.
std::string Bars(const Figure& figure, const std::vector<std::string>& names) {
  double least = 0, most = 0;
  for (const auto& values : figure.values) {
    least = std::min(least, Quantile(values, 0));
    most = std::max(most, Quantile(values, 1));
  }
  if (least == most) return "";
  int left = 92;
  for (const std::string& name : names) left = std::max(left, 6 * static_cast<int>(name.size()));
  auto px = [&](double value) { return left + (422 - left) * (value - least) / (most - least); };
  std::string svg;
  int y = 0;
  for (int i = 0; i < kColumns; ++i) {
    const std::vector<double>& values = figure.values[i];
    if (values.empty()) continue;
    const double median = Median(values);
    absl::StrAppendFormat(
        &svg,
        "<text x='%d' y='%d' text-anchor='end'>%s</text>"
        "<rect x='%.1f' y='%d' width='%.1f' height='14' fill='%s'/>"
        "<line x1='%.1f' x2='%.1f' y1='%d' y2='%d' stroke='#111'/>"
        "<text x='%.1f' y='%d'>%s</text>",
        left - 6, y + 12, Escape(names[static_cast<size_t>(i)]), px(std::min(median, 0.0)), y + 1,
        std::fabs(px(median) - px(0)), kColors[i], px(Quantile(values, 0)), px(Quantile(values, 1)),
        y + 8, y + 8, px(std::max(Quantile(values, 1), 0.0)) + 6, y + 12, Number(median));
    y += 19;
  }
  if (least < 0)
    absl::StrAppendFormat(&svg, "<line x1='%.1f' x2='%.1f' y1='0' y2='%d' class='zero'/>", px(0),
                          px(0), y);
  return absl::StrFormat("<svg viewBox='0 0 520 %d'>%s</svg>", y + 2, svg);
}

constexpr char kStyle[] =
    "body{font:15px/1.45 system-ui,sans-serif;color:#1f2430;max-width:1180px;margin:2em auto;"
    "padding:0 1em}h1{font-weight:600}h2{font-size:17px;margin:0 0 4px}"
    ".grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(480px,1fr));gap:18px}"
    ".card{border:1px solid #e2e5ea;border-radius:8px;padding:12px 16px}"
    ".card p{margin:2px 0 8px;color:#5b6270;font-size:13px}svg{width:100%}"
    "svg text{font:11px system-ui,sans-serif;fill:#374151}"
    "svg .grid{stroke:#e5e7eb}svg .zero{stroke:#6b7280}li{color:#444}.key span{padding:2px "
    "10px;color:#fff;"
    "border-radius:4px;margin-right:8px}"
    "table{border-collapse:collapse;font-size:13px;margin:24px 0}"
    "th,td{border-bottom:1px solid #e2e5ea;padding:3px 8px;text-align:left}";

}  // namespace

std::string Report::Html(const std::vector<std::string>& machine,
                         const std::vector<std::string>& names) const {
  std::string out =
      absl::StrCat("<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>", Escape(names[0]),
                   " beside ", Escape(names[1]), "</title><style>", kStyle, "</style><h1>",
                   Escape(names[0]), " beside ", Escape(names[1]), "</h1><p class='key'>");
  for (size_t i = 0; i < kColumns; ++i)
    absl::StrAppend(&out, "<span style='background:", kColors[i], "'>", Escape(names[i]),
                    "</span>");
  absl::StrAppend(&out, "</p><ul>");
  for (const std::string& line : Lines(machine))
    absl::StrAppend(&out, "<li>", Escape(line), "</li>");
  absl::StrAppend(&out, "</ul><div class='grid'>");
  std::vector<std::string> done;
  for (const Curve& first : curves_) {
    if (std::find(done.begin(), done.end(), first.plot) != done.end()) continue;
    done.push_back(first.plot);
    std::vector<const Curve*> same;
    for (const Curve& curve : curves_)
      if (curve.plot == first.plot) same.push_back(&curve);
    absl::StrAppend(&out, "<div class='card'><h2>", Escape(first.plot), "</h2>", LinePlot(same),
                    "</div>");
  }
  for (const Figure& figure : figures_) {
    std::string bars = Bars(figure, names);
    if (bars.empty()) continue;
    absl::StrAppend(&out, "<div class='card'><h2>", Escape(figure.name), "</h2><p>",
                    Escape(figure.unit), figure.more_is_better ? ", more is better" : "",
                    figure.goal.empty() ? "" : absl::StrCat("; goal: ", Escape(figure.goal)));
    if (const std::string verdict = Verdict(figure); !verdict.empty())
      absl::StrAppend(&out, ", <b>", verdict, "</b>");
    absl::StrAppend(&out, "</p>", bars, "</div>");
  }
  absl::StrAppend(&out, "</div><table>");
  const std::vector<std::vector<std::string>> rows = Rows(names);
  for (const std::vector<std::string>& row : rows) {
    const char* cell = &row == &rows.front() ? "th" : "td";
    absl::StrAppend(&out, "<tr>");
    for (const std::string& text : row)
      absl::StrAppend(&out, "<", cell, ">", Escape(text), "</", cell, ">");
    absl::StrAppend(&out, "</tr>\n");
  }
  return out + "</table></html>\n";
}

}  // namespace feather::bench
