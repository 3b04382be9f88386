#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "google/protobuf/any.pb.h"
#include "runtime/base/unique_fd.h"
#include "tests/support/shim_bundle.h"
#include "tests/support/shim_process.h"

namespace feather::test {

// A bare bench for the shim's commands, without RPC: makes bundles, runs the executable exactly as
// each series of containerd does, and finds the servers that are left.
class CommandBench {
 public:
  // Who calls: what differs towards `start` in argument list, environment and standard input.
  enum class Caller { k1_6, k1_7, k2_1, k2_3 };

  struct StartOptions {
    Caller caller = Caller::k1_7;
    bool debug = false;
    std::optional<google::protobuf::Any> options;
    std::string socket_directory;  // k2_3 only
    std::string publish_binary = "/usr/bin/containerd";
    std::vector<std::string> env;
  };

  CommandBench();
  // Ends what is left.
  ~CommandBench();

  const std::string& directory() const { return directory_.path(); }
  std::string name() const { return directory_.name(); }
  std::string name_space() const { return directory_.name(); }
  std::string grpc_address() const { return directory() + "/ctrd.sock"; }
  std::string bundle(const std::string& id) const;
  // The path of the shim's executable; a link to it may be set instead.
  std::string shim;

  // A bundle with a log FIFO that somebody reads; no config.json if `config` is empty.
  void MakeBundle(const std::string& id, const std::string& config = "{}");
  HelperCommand StartCommand(const std::string& id, const StartOptions& options) const;
  HelperResult Start(const std::string& id, const StartOptions& options) const {
    return RunHelper(StartCommand(id, options));
  }
  HelperResult Start(const std::string& id) const { return Start(id, StartOptions()); }
  HelperResult Delete(const std::string& id) const;
  // The executable with these arguments, in the bench's directory.
  HelperResult Run(const std::vector<std::string>& arguments, const std::string& input = "",
                   const std::vector<std::string>& env = {}) const;

  // The socket of a group in the usual directory, by the rule.
  std::string Socket(const std::string& group) const;
  // Servers of this bench that run.
  std::vector<pid_t> Servers() const;
  // The exit code of a child once it has ended, waited for at most a minute; 128 + its signal.
  int WaitFor(pid_t pid);
  // SIGTERM to all servers; empty if each ended with exit code 0 and nothing is left of them.
  std::vector<std::string> EndServers();
  // What the servers have logged so far.
  std::string Log();

 private:
  TestDirectory directory_;
  std::map<pid_t, int> exits_;
  std::vector<UniqueFd> logs_;
  std::string log_;
};

// Whether somebody accepts connections at a unix socket's path.
bool Listens(const std::string& path);
// Whatever `done` waits for, polled for at most a minute.
bool Eventually(const std::function<bool()>& done);

}  // namespace feather::test
