// A pod without a pause container beside one with it, on the same containerd: a container finds the
// same in both.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/cri.h"
#include "tests/support/proc.h"

namespace feather::test {
namespace {

// What a container looks at, a kind a line.
constexpr char kLook[] = R"look(
for f in /proc/self/ns/*; do echo "ns ${f##*/} $(readlink $f)"; done
while read -r source target type options rest; do echo "mount $target $type $options"; done </proc/self/mounts
for f in net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range net/ipv4/ip_forward \
    kernel/msgmax kernel/hostname kernel/domainname kernel/shm_rmid_forced; do
  echo "sysctl $f $(cat /proc/sys/$f)"; done
for f in /etc/hostname /etc/hosts /etc/resolv.conf; do
  echo "file $f $(stat -c '%a %u %g' $f)"; cat $f; done
echo "shm $(stat -c '%a %u %g' /dev/shm) $(ls -A /dev/shm)"
echo "hostname $(hostname)"
echo "process 1 $(cat /proc/1/comm)"
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status
ip -4 address show | grep -c inet
echo "score $(cat /proc/self/oom_score_adj)"
env | sort
echo end)look";

class CriModes : public CriTest {
 protected:
  static std::string HostNamespace(const std::string& type) {
    return std::filesystem::read_symlink("/proc/self/ns/" + type);
  }
  // What differs from pod to pod anyway is taken out; namespaces are the host's or not.
  static std::vector<std::string> Normal(const std::string& text) {
    std::vector<std::string> lines;
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      std::vector<std::string> words = absl::StrSplit(line, ' ');
      if (words[0] == "ns" && words.size() == 3) {
        words[2] = words[2] == HostNamespace(words[1]) ? "the host's" : "its own";
      }
      // What else the host's processes keep there at that moment.
      if (words[0] == "shm" && absl::StrContains(text, "ns ipc " + HostNamespace("ipc")))
        words.resize(4);
      // The layers of its root.
      if (words[0] == "mount" && words.size() > 3 && words[1] == "/") words.resize(3);
      lines.push_back(absl::StrJoin(words, " "));
    }
    // In which order CRI and the shim add mounts is of no importance.
    std::sort(lines.begin(), lines.end());
    return lines;
  }

  std::vector<std::string> Look(const std::string& handler, cri::PodSandboxConfig config) {
    config.mutable_metadata()->set_uid(handler);
    auto pod = RunPod(config, handler);
    EXPECT_TRUE(pod.ok()) << pod.status();
    if (!pod.ok()) return {};
    auto id =
        RunContainer(*pod, config, ContainerConfig(config, "look-" + handler, "exec sleep 1000"));
    EXPECT_TRUE(id.ok()) << id.status();
    std::vector<std::string> found;
    if (id.ok()) {
      auto seen = ExecSync(*id, kLook);
      EXPECT_TRUE(seen.ok()) << seen.status();
      if (seen.ok()) found = Normal(seen->stdout() + seen->stderr());
    }
    EXPECT_TRUE(StopPod(*pod).ok());
    EXPECT_TRUE(RemovePod(*pod).ok());
    return found;
  }

  void ExpectTheSame(const cri::PodSandboxConfig& config) {
    std::vector<std::string> with = Look("feather", config);
    std::vector<std::string> without = Look("podless", config);
    EXPECT_GT(with.size(), 50u);
    EXPECT_THAT(without, ::testing::ElementsAreArray(with)) << absl::StrJoin(with, "\n");
  }
};
INSTANTIATE_TEST_SUITE_P(Containerd, CriModes, ::testing::Values("sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(CriModes, AContainerFindsTheSameInBoth) {
  cri::PodSandboxConfig config = PodConfig("same");
  (*config.mutable_linux()->mutable_sysctls())["kernel.msgmax"] = "4242";
  (*config.mutable_linux()->mutable_sysctls())["net.ipv4.ip_forward"] = "1";
  ExpectTheSame(config);
}

TEST_P(CriModes, AContainerOfTheHostsIpcFindsTheSameInBoth) {
  cri::PodSandboxConfig config = PodConfig("same");
  config.clear_dns_config();
  Options(config).set_ipc(cri::NODE);
  ExpectTheSame(config);
}

TEST_P(CriModes, OnlyTheNameOfProcess1DiffersInASharedPidNamespace) {
  cri::PodSandboxConfig config = PodConfig("same");
  Options(config).set_pid(cri::POD);
  auto other_than_name = [](std::vector<std::string> lines) {
    std::erase_if(lines, [](const std::string& line) { return line.starts_with("process 1 "); });
    return lines;
  };
  EXPECT_EQ(other_than_name(Look("podless", config)), other_than_name(Look("feather", config)));
}

// What pods cost in the two modes: one, and many at once, on the same daemon. docs/sandbox.md has
// a run's figures.
class CriFigures : public CriModes {
 protected:
  struct Cost {
    size_t processes = 0;
    int64_t kib = 0;
  };
  // Of what is there beyond `before`, once it has given back what it needed only at first.
  Cost CostSince(const std::set<pid_t>& before) {
    Cost cost;
    int64_t last = -1;
    EXPECT_TRUE(Eventually([&] {
      last = std::exchange(cost.kib, 0);
      cost.processes = 0;
      for (pid_t pid : DaemonProcesses(daemon_->containerd_namespace())) {
        if (before.contains(pid)) continue;
        ++cost.processes;
        cost.kib += OwnKib(pid);
      }
      usleep(2'000'000);
      return cost.kib == last;
    }));
    return cost;
  }
  // Without files: a container's pages of its image are another's too, by chance.
  static int64_t OwnKib(pid_t pid) {
    const std::string rollup =
        feather::ReadFile(absl::StrCat("/proc/", pid, "/smaps_rollup")).value_or("");
    int64_t kib = 0;
    for (absl::string_view line : absl::StrSplit(rollup, '\n'))
      if (absl::ConsumePrefix(&line, "Pss_Anon:")) {
        absl::ConsumeSuffix(&line, "kB");
        EXPECT_TRUE(absl::SimpleAtoi(line, &kib)) << line;
      }
    return kib;
  }
  static int64_t Median(std::vector<int64_t> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  }

  struct Pods {
    std::vector<int64_t> ready, running;  // ms after RunPodSandbox was called
    std::vector<Cost> costs;              // per round, of all pods
  };

  // `pods` of them, one after another; removed in the end.
  void Measure(const std::string& handler, int pods, Pods& figures) {
    const std::vector<pid_t> now = DaemonProcesses(daemon_->containerd_namespace());
    const std::set<pid_t> before(now.begin(), now.end());
    std::vector<std::string> ids;
    for (int i = 0; i < pods; ++i) {
      cri::PodSandboxConfig config = PodConfig(absl::StrCat("pod", i));
      const auto begin = std::chrono::steady_clock::now();
      const auto since = [&] {
        return std::chrono::duration_cast<std::chrono::milliseconds>(
                   std::chrono::steady_clock::now() - begin)
            .count();
      };
      auto pod = RunPod(config, handler);
      ASSERT_TRUE(pod.ok()) << pod.status();
      figures.ready.push_back(since());
      auto id = RunContainer(*pod, config, ContainerConfig(config, "a", "exec sleep 1000"));
      ASSERT_TRUE(id.ok()) << id.status();
      figures.running.push_back(since());
      ids.push_back(*pod);
    }
    figures.costs.push_back(CostSince(before));
    for (const std::string& id : ids) {
      const absl::Status stopped = StopPod(id);
      EXPECT_TRUE(stopped.ok()) << stopped;
      const absl::Status removed = RemovePod(id);
      EXPECT_TRUE(removed.ok()) << removed;
    }
    EXPECT_TRUE(Eventually(
        [&] { return DaemonProcesses(daemon_->containerd_namespace()).size() == before.size(); }));
  }

  // The two modes in turns.
  void Compare(int pods, int rounds) {
    std::map<std::string, Pods> figures;
    for (int i = 0; i < rounds; ++i)
      for (const char* handler : {"feather", "podless"})
        ASSERT_NO_FATAL_FAILURE(Measure(handler, pods, figures[handler]));
    for (const auto& [handler, of] : figures) {
      std::vector<int64_t> kib;
      for (const Cost& cost : of.costs) {
        kib.push_back(cost.kib / pods);
        EXPECT_EQ(cost.processes, static_cast<size_t>(handler == "podless" ? 2 * pods : 3 * pods));
      }
      printf(
          "%-8s %2d pods, %2d times: RunPodSandbox %lld ms, first container running %lld ms, "
          "a pod with a container has %lld KiB of anonymous memory (medians)\n",
          handler.c_str(), pods, rounds, static_cast<long long>(Median(of.ready)),
          static_cast<long long>(Median(of.running)), static_cast<long long>(Median(kib)));
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Containerd, CriFigures, ::testing::Values("sid_shim"),
                         [](const auto& suite) { return suite.param; });

TEST_P(CriFigures, APodWithoutAPauseContainerCostsAProcessLess) {
  // A daemon's first pod costs more.
  Pods first;
  ASSERT_NO_FATAL_FAILURE(Measure("feather", 1, first));
  const bool full = getenv("FEATHER_TEST_LONG") != nullptr;
  ASSERT_NO_FATAL_FAILURE(Compare(1, full ? 21 : 1));
  ASSERT_NO_FATAL_FAILURE(Compare(full ? 50 : 3, 1));
}

}  // namespace
}  // namespace feather::test
