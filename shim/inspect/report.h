#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/inspect.pb.h"

namespace feather::inspect {

// What a look at a node's shims has found.
struct Node {
  struct Shim {
    std::string socket;
    v1::ShimResponse report;
  };
  std::vector<Shim> shims;          // by namespace and id
  std::vector<std::string> silent;  // sockets of shims that did not answer
  size_t others = 0;                // shims of other kinds
  size_t dead = 0;                  // sockets that nobody listens at
  std::chrono::system_clock::time_point at = std::chrono::system_clock::now();
};

std::chrono::system_clock::time_point TimeOf(const google::protobuf::Timestamp& timestamp);

// A line for each shim, then one for each that has logged a problem, at most kTableWidth columns
// wide: longer ids have kOmitted in their middle.
inline constexpr size_t kTableWidth = 100;
inline constexpr absl::string_view kOmitted = "..";
std::string TableText(const Node& node);

// Everything that one shim told.
std::string DetailText(const Node::Shim& shim, std::chrono::system_clock::time_point now);

// Everything, as one object; names as in proto/inspect.proto, times in RFC 3339.
std::string JsonText(const Node& node);

// Prometheus' text exposition format 0.0.4, fit for node_exporter's textfile collector.
std::string PrometheusText(const Node& node);

}  // namespace feather::inspect
