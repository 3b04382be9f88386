#include "runtime/base/capabilities.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <cerrno>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "runtime/child.h"
#include "runtime/reaper.h"
#include "runtime/spawn.h"

namespace feather {
namespace {

constexpr char kNone[] = "0000000000000000";

// A line of a process' status, "CapEff" say.
std::string StatusLine(absl::string_view status, absl::string_view name) {
  for (absl::string_view line : absl::StrSplit(status, '\n'))
    if (absl::ConsumePrefix(&line, absl::StrCat(name, ":\t"))) return std::string(line);
  return "no such line";
}

std::string Own(absl::string_view name) { return StatusLine(*ReadFile("/proc/self/status"), name); }

// In a process of its own, since what is dropped stays so. What `test` returns is what is wrong.
std::string InAnotherProcess(const std::function<std::string()>& test) {
  int ends[2];
  if (pipe(ends) < 0) return "pipe";
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  pid_t pid = fork();
  if (pid == 0) {
    (void)WriteAll(writer.get(), test()).ok();
    _exit(0);
  }
  writer.Reset();
  std::string wrong = ReadToEof(reader.get(), 1 << 20).value_or("unreadable");
  int status = 0;
  waitpid(pid, &status, 0);
  return status == 0 ? wrong : absl::StrCat("status ", status, " ", wrong);
}

Async<> RunAndStop(asio::io_context& io, Reaper& reaper, std::function<absl::Status()> work,
                   std::string* message) {
  absl::Status status = co_await RunInChild(reaper, std::move(work));
  *message = std::string(status.message());
  io.stop();
}

#define RETURN_UNLESS_EQUAL(a, b) \
  if ((a) != (b)) return absl::StrCat(__LINE__, ": ", a, " is not ", b)

TEST(Capabilities, ADropEmptiesTheEffectiveSetAndLeavesEverythingElse) {
  EXPECT_EQ(
      InAnotherProcess([]() -> std::string {
        std::string before = *ReadFile("/proc/self/status");
        if (!DropCapabilities().ok()) return "not dropped";
        std::string after = *ReadFile("/proc/self/status");
        RETURN_UNLESS_EQUAL(StatusLine(after, "CapEff"), kNone);
        for (const char* kept : {"CapInh", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"})
          RETURN_UNLESS_EQUAL(StatusLine(after, kept), StatusLine(before, kept));
        return "";
      }),
      "");
}

TEST(Capabilities, OnlyWhatIsNamedIsRaisedAndOnlyForAsLongAsItIsNeeded) {
  EXPECT_EQ(InAnotherProcess([]() -> std::string {
              if (!DropCapabilities().ok()) return "not dropped";
              {
                RaisedCapabilities kill({CAP_KILL});
                RETURN_UNLESS_EQUAL(Own("CapEff"), "0000000000000020");
                {
                  RaisedCapabilities both({CAP_KILL, CAP_CHOWN});
                  RETURN_UNLESS_EQUAL(Own("CapEff"), "0000000000000021");
                }
                RETURN_UNLESS_EQUAL(Own("CapEff"), "0000000000000020");
                errno = ENOTTY;
              }
              RETURN_UNLESS_EQUAL(errno, ENOTTY);
              RETURN_UNLESS_EQUAL(Own("CapEff"), kNone);
              return "";
            }),
            "");
}

TEST(Capabilities, AProcessThatHasDroppedNothingKeepsWhatItHas) {
  std::string before = Own("CapEff");
  {
    RaisedCapabilities kill({CAP_KILL});
    EXPECT_EQ(Own("CapEff"), before);
  }
  EXPECT_EQ(Own("CapEff"), before);
}

TEST(Capabilities, WhatIsNotPermittedIsNotRaised) {
  EXPECT_EQ(InAnotherProcess([]() -> std::string {
              cap_t state = cap_get_proc();
              cap_value_t kill = CAP_KILL;
              cap_set_flag(state, CAP_PERMITTED, 1, &kill, CAP_CLEAR);
              cap_set_flag(state, CAP_EFFECTIVE, 1, &kill, CAP_CLEAR);
              if (cap_set_proc(state) < 0) return "cannot give CAP_KILL up";
              if (!DropCapabilities().ok()) return "not dropped";
              RaisedCapabilities raised({CAP_KILL, CAP_CHOWN});
              RETURN_UNLESS_EQUAL(Own("CapEff"), "0000000000000001");
              return "";
            }),
            "");
}

TEST(Capabilities, ASpawnedChildHasThemAllAndItsDeathSignal) {
  EXPECT_EQ(InAnotherProcess([]() -> std::string {
              std::string before = Own("CapPrm");
              if (!DropCapabilities().ok()) return "not dropped";
              int ends[2];
              if (pipe(ends) < 0) return "pipe";
              Command command;
              command.argv = {
                  "/usr/bin/perl", "-e",
                  absl::StrCat("print `cat /proc/$$/status`; $b = pack('i', 0); syscall(",
                               SYS_prctl, ", ", PR_GET_PDEATHSIG,
                               ", $b, 0, 0, 0); print 'PDEATHSIG:\t', unpack('i', $b);")};
              command.env = {"PATH=/usr/bin:/bin"};
              command.fds.emplace_back(ends[1], 1);
              auto pid = SpawnProcess(command);
              if (!pid.ok()) return std::string(pid.status().message());
              close(ends[1]);
              std::string status = *ReadToEof(ends[0], 1 << 20);
              waitpid(*pid, nullptr, 0);
              RETURN_UNLESS_EQUAL(StatusLine(status, "CapEff"), before);
              RETURN_UNLESS_EQUAL(StatusLine(status, "CapPrm"), before);
              RETURN_UNLESS_EQUAL(StatusLine(status, "PDEATHSIG"), absl::StrCat(SIGKILL));
              RETURN_UNLESS_EQUAL(Own("CapEff"), kNone);
              return "";
            }),
            "");
}

TEST(Capabilities, AMountingChildHasThemAll) {
  EXPECT_EQ(InAnotherProcess([]() -> std::string {
              std::string before = Own("CapPrm");
              asio::io_context io(1);
              Reaper reaper(io);
              if (!DropCapabilities().ok()) return "not dropped";
              std::string seen;
              auto work = [before] {
                return absl::NotFoundError(Own("CapEff") == before ? "all" : Own("CapEff"));
              };
              Spawn(io, RunAndStop(io, reaper, work, &seen));
              io.run();
              RETURN_UNLESS_EQUAL(seen, "all");
              RETURN_UNLESS_EQUAL(Own("CapEff"), kNone);
              return "";
            }),
            "");
}

}  // namespace
}  // namespace feather
