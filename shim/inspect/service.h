#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>

#include "proto/inspect.pb.h"
#include "shim/publisher.h"
#include "shim/rpc/method_table.h"
#include "shim/sandbox_service.h"
#include "shim/task_service.h"

namespace feather::inspect {

// feather.inspect.v1.Inspect (proto/inspect.proto): what this shim knows of itself. Every answer
// comes from memory and /proc/self, without waiting.
class Service {
 public:
  // All of it must outlive the service. `bundle`: where the shim was started.
  Service(std::string id, std::string name_space, std::string bundle, const TaskService& tasks,
          const SandboxService& sandbox, const Publisher& publisher,
          std::function<size_t()> connections);

  // The service must outlive the calls.
  void Register(rpc::MethodTable& methods);

  feather::inspect::v1::ShimResponse Report() const;
  // The same into the log, a line for the shim and one for each container.
  void Log() const;

 private:
  const std::string id_;
  const std::string name_space_;
  const std::string bundle_;
  const std::chrono::system_clock::time_point started_ = std::chrono::system_clock::now();
  const TaskService& tasks_;
  const SandboxService& sandbox_;
  const Publisher& publisher_;
  const std::function<size_t()> connections_;
};

}  // namespace feather::inspect
