#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace feather::bench {

// What is measured, of whom, and what came out. Values of one figure are gathered over the rounds
// of a run; what is told is their median, and the least and the greatest of them.

// The columns: the two shims, and the OCI runtime by itself where it can do the same.
enum class Column { kFirst, kSecond, kBare };
inline constexpr int kColumns = 3;

struct Figure {
  std::string name;
  std::string unit;
  std::string goal;  // in the words that report.cc knows; empty: none
  bool more_is_better = false;
  std::vector<double> values[kColumns] = {};
};

// Points of a line in a plot, over a logarithmic x axis.
enum class Scale {
  kLinear,   // of y, from 0; the points are many
  kLogOfFew  // of y; each point is marked, and each x told
};
struct Curve {
  std::string plot;
  std::string x_axis;
  std::string y_axis;
  Column column;
  Scale scale;
  std::vector<std::pair<double, double>> points;
};

// Of a copy; 0 of nothing. `part` from 0 to 1.
double Quantile(std::vector<double> values, double part);
inline double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

// What the columns of these two programs are called: by their file's names, and where those are the
// same, also by the nearest directory that differs.
std::vector<std::string> ColumnNames(const std::vector<std::string>& shims);

class Report {
 public:
  // The figure of that name, made when it is first asked for; they are told in that order. Throws
  // std::invalid_argument where nobody could tell whether the goal is met.
  Figure& Get(const std::string& name, const std::string& unit, const std::string& goal = "",
              bool more_is_better = false);
  void AddPoint(const std::string& plot, const std::string& x_axis, const std::string& y_axis,
                Column column, double x, double y, Scale scale = Scale::kLinear);
  // What is not in the table, or not in full, and why; told once.
  void AddMissing(const std::string& what);

  // `machine`: lines that say where and of what this is; what is missing follows them. `names`: of
  // the columns.
  std::string Table(const std::vector<std::string>& machine,
                    const std::vector<std::string>& names) const;
  // One page with everything in it.
  std::string Html(const std::vector<std::string>& machine,
                   const std::vector<std::string>& names) const;

 private:
  // By the medians: "met" or "missed"; empty where there is no goal, or nothing to compare with.
  std::string Verdict(const Figure& figure) const;
  // `machine`, and what is missing.
  std::vector<std::string> Lines(std::vector<std::string> machine) const;
  // Of the table, the first with the titles.
  std::vector<std::vector<std::string>> Rows(const std::vector<std::string>& names) const;

  std::vector<Figure> figures_;
  std::vector<Curve> curves_;
  std::vector<std::string> missing_;
};

}  // namespace feather::bench
