// The same scripts of requests against the stock shim of each Debian containerd package, which is
// the oracle, and against feather: what init and exec are, do and leave.
#include "tests/support/oracle.h"

#include <signal.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "tests/support/build.h"

namespace feather::test {
namespace {

INSTANTIATE_TEST_SUITE_P(Debian, Oracle, kSuites, SuiteName);

bool WaitForEof(FakeContainerd& ctrd, const ClientStdio& stdio) {
  return ctrd.loop().RunUntil(
      [&] { return (!stdio.out || stdio.out->eof()) && (!stdio.err || stdio.err->eof()); });
}

// Every operation on an init or an exec, but not those that change it.
void Probe(Transcript& t, const std::string& state, Container& c, const std::string& exec) {
  std::string label = absl::StrCat(exec.empty() ? "init " : "exec ", state, ": ");
  t.AddState(label + "State", c.State(exec));
  t.Add(label + "ResizePty", c.ResizePty(80, 24, exec));
  t.Add(label + "CloseIO", c.CloseIO(exec));
}

void ExecScript(FakeContainerd& ctrd, Transcript& t, Container& c) {
  t.Add("Exec", c.Exec("x", {"sleep", "1000"}));
  Probe(t, "created", c, "x");
  t.Add("exec created: Exec", c.Exec("x", {"true"}));
  t.Add("exec created: Kill", c.Kill(SIGTERM, "x"));
  auto pid = c.Start("x");
  t.Add("exec created: Start", pid);
  t.NamePid(pid.value_or(0), "EXEC");
  Probe(t, "running", c, "x");
  t.AddBundle("exec running: bundle", c);
  // No second Start: the stock shims of 1.7 and 2.1 count it as the end of a running exec, and
  // panic when the init ends.
  t.Add("exec running: Delete", c.Delete("x"));
  t.Add("exec running: Exec", c.Exec("x", {"true"}));
  t.Add("exec running: Kill", c.Kill(SIGTERM, "x"));
  t.AddExit("exec running: Wait", c.Wait("x"));
  ctrd.WaitForExit("a", "x");
  Probe(t, "stopped", c, "x");
  t.Add("exec stopped: Kill", c.Kill(SIGTERM, "x"));
  t.AddExit("exec stopped: Wait", c.Wait("x"));
  t.AddDelete("exec stopped: Delete", c.Delete("x"));
  Probe(t, "deleted", c, "x");
  t.Add("exec deleted: Start", c.Start("x"));
  t.Add("exec deleted: Kill", c.Kill(SIGTERM, "x"));
  t.AddExit("exec deleted: Wait", c.Wait("x"));
  t.AddDelete("exec deleted: Delete", c.Delete("x"));
}

// Checklist: K11, E8, R11.
TEST_P(Oracle, AnswersInEveryStateEventsAndFiles) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    Container& c = ctrd.New("a");
    t.Add("answer", absl::StrCat(c.answer().version, " ", c.answer().protocol));
    t.AddBundle("started: bundle", c);
    Probe(t, "unknown", c, "");
    t.Add("init unknown: Start", c.Start());
    t.Add("init unknown: Delete", c.Delete());
    t.Add("init unknown: Kill", c.Kill(SIGTERM));
    t.AddExit("init unknown: Wait", c.Wait());
    t.Add("init unknown: Exec", c.Exec("x", {"true"}));
    auto pid = c.Create();
    t.Add("init unknown: Create", pid);
    t.NamePid(pid.value_or(0), "INIT");
    t.AddBundle("created: bundle", c);
    Probe(t, "created", c, "");
    t.Add("init created: Exec", c.Exec("early", {"true"}));
    t.AddDelete("exec created: Delete", c.Delete("early"));
    t.Add("init created: Start", c.Start());
    Probe(t, "running", c, "");
    t.Add("init running: Start", c.Start());
    t.Add("init running: Delete", c.Delete());
    auto pids = c.Pids();
    t.Add("init running: Pids", pids.ok() ? absl::StrCat(pids->processes_size()) : "error");
    ExecScript(ctrd, t, c);
    t.Add("Exec late", c.Exec("late", {"true"}));
    t.Add("init running: Kill", c.Kill(SIGKILL));
    t.AddExit("init running: Wait", c.Wait());
    ctrd.WaitForExit("a", "a");
    Probe(t, "stopped", c, "");
    t.Add("init stopped: Start", c.Start());
    t.Add("init stopped: Kill", c.Kill(SIGKILL));
    t.Add("init stopped: Exec", c.Exec("y", {"true"}));
    t.Add("init stopped: Start of an exec", c.Start("late"));
    t.AddExit("init stopped: Wait", c.Wait());
    t.AddBundle("stopped: bundle", c);
    t.AddDelete("init stopped: Delete", c.Delete());
    t.AddDelete("init deleted: Delete", c.Delete());
    ctrd.WaitForDelete("a");
    t.AddBundle("deleted: bundle", c);
    t.Add("Shutdown", c.Shutdown());
    c.Disconnect();
    t.Add("bundle's removal", c.RemoveBundle());
    t.AddEvents();
  });
}

// What init and exec see of themselves.
void ViewScript(FakeContainerd& ctrd, Transcript& t, ContainerOptions streams) {
  ContainerOptions options = streams;
  options.spec.args = {"sh", "-c", std::string(kViewScript) + "; read end"};
  options.spec.env = {"GREETING=hello"};
  options.in = true;
  Container& c = ctrd.New("a", options);
  t.Add("Create", c.Create());
  t.Add("ResizePty", c.ResizePty(80, 24));
  t.Add("Start", c.Start());
  auto complete = [](const ClientStdio& stdio) {
    return [&stdio] { return absl::StrContains(stdio.out->data(), "=== end"); };
  };
  EXPECT_TRUE(ctrd.loop().RunUntil(complete(c.stdio())));
  t.Add("Exec", c.Exec("x", {"sh", "-c", kViewScript}, streams));
  t.Add("Start exec", c.Start("x"));
  t.AddExit("Wait exec", c.Wait("x"));
  EXPECT_TRUE(WaitForEof(ctrd, c.exec_stdio("x")));
  t.AddView("init", c.stdio().out->data());
  t.AddView("exec", c.exec_stdio("x").out->data());
  t.Add("end", c.KillAndRemove());
}

TEST_P(Oracle, WhatAContainerSeesOfItselfOnPipes) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) { ViewScript(ctrd, t, {}); });
}

TEST_P(Oracle, WhatAContainerSeesOfItselfWithoutStderr) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    ContainerOptions options;
    options.spec.patch = R"({"process": {"user": {"umask": 23}}})";
    ViewScript(ctrd, t, options);
  });
}

TEST_P(Oracle, WhatAContainerSeesOfItselfOnATerminal) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    ContainerOptions options;
    options.spec.terminal = true;
    ViewScript(ctrd, t, options);
  });
}

TEST_P(Oracle, WhatAContainerSeesOfItselfWithoutStreams) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    ContainerOptions options;
    options.spec.args = {"sh", "-c", std::string("(") + kViewScript + ") > /report"};
    options.in = options.out = options.err = false;
    Container& c = ctrd.New("a", options);
    t.Add("Run", c.Run());
    t.AddExit("Wait", c.Wait());
    auto report = ReadFile(ctrd.rootfs() + "/report");
    ASSERT_TRUE(report.ok()) << report.status();
    t.AddView("init", *report);
    t.Add("end", c.Remove());
  });
}

// A failing request, and what containerd does then.
void Fail(Transcript& t, FakeContainerd& ctrd, const std::string& id, ContainerOptions options,
          const std::function<void(task::CreateTaskRequest&)>& change) {
  Container& c = ctrd.New(id, std::move(options));
  auto request = c.CreateRequest();
  if (change) change(request);
  t.Add(id + ": Create", c.Create(request));
  t.Add(id + ": State", c.State());
  t.Add(id + ": Delete", c.Delete());
  t.AddBundle(id + ": bundle", c);
  t.Add(id + ": Shutdown", c.Shutdown());
  c.Disconnect();
  t.Add(id + ": removal", c.RemoveBundle());
}

TEST_P(Oracle, FailuresOfACreation) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    ContainerOptions missing_program;
    missing_program.spec.args = {"/no/such/program"};
    Fail(t, ctrd, "missing-program", missing_program, nullptr);
    ContainerOptions bad_spec;
    bad_spec.spec.patch = R"({"linux": {"namespaces": "none"}})";
    Fail(t, ctrd, "bad-spec", bad_spec, nullptr);
    Fail(t, ctrd, "missing-mount", {},
         [](auto& request) { request.mutable_rootfs(0)->set_source("/no/such/source"); });
    Fail(t, ctrd, "bad-mount-type", {}, [](auto& request) {
      request.mutable_rootfs(0)->set_type("nonesuch");
      request.mutable_rootfs(0)->clear_options();
    });
    Fail(t, ctrd, "bad-scheme", {}, [](auto& request) { request.set_stdout("gopher:///x"); });
    Fail(t, ctrd, "missing-runtime", {}, [&](auto& request) {
      auto options = ctrd.RuncOptions();
      options.set_binary_name("no-runc");
      request.mutable_options()->set_value(options.SerializeAsString());
    });
    Fail(t, ctrd, "missing-runtime-path", {}, [&](auto& request) {
      auto options = ctrd.RuncOptions();
      options.set_binary_name("/no/such/runc");
      request.mutable_options()->set_value(options.SerializeAsString());
    });
    // Earlier ones count the errors, over several lines.
    if (ctrd.settings().daemon >= Series::k2_1)
      Fail(t, ctrd, "missing-logger", {}, [](auto& request) {
        request.set_stdout("binary:///no/such/logger");
        request.set_stderr("");
      });
    Fail(t, ctrd, "missing-bundle", {},
         [](auto& request) { request.set_bundle("/no/such/bundle"); });
    t.AddEvents();
  });
}

TEST_P(Oracle, FailuresOfAnExec) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    Container& c = ctrd.New("a");
    t.Add("Run", c.Run());
    t.Add("Exec of a missing program", c.Exec("x", {"/no/such/program"}));
    t.Add("its Start", c.Start("x"));
    t.AddExit("its Wait", c.Wait("x"));
    t.AddState("its State", c.State("x"));
    t.AddDelete("its Delete", c.Delete("x"));
    for (const char* spec : {"{", "[]", "5"}) {
      auto request = c.ExecRequest("y", {"true"});
      request.mutable_spec()->set_value(spec);
      t.Add(absl::StrCat("Exec of ", spec), c.Exec(request));
    }
    t.Add("Kill", c.Kill(SIGKILL));
    t.AddExit("Wait", c.Wait());
    t.AddDelete("Delete", c.Delete());
    // The stock shim may lose its last event in Shutdown.
    ctrd.WaitForDelete("a");
    t.Add("Shutdown", c.Shutdown());
    t.AddEvents();
  });
}

TEST_P(Oracle, AGroupSharesAShimAndItsFiles) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    ContainerOptions options;
    options.spec.patch = R"({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}})";
    Container& a = ctrd.New("a", options);
    Container& b = ctrd.New("b", options);
    t.Add("same address", absl::StrCat(a.answer().address == b.answer().address));
    t.Add("second process", absl::StrCat(b.shim_pid() != 0));
    t.AddBundle("bundle of a", a);
    t.AddBundle("bundle of b", b);
    t.Add("Run a", a.Run());
    t.Add("Run b", b.Run());
    t.Add("end of a", a.KillAndRemove());
    t.AddState("State of b", b.State());
    t.Add("end of b", b.KillAndRemove());
  });
}

TEST_P(Oracle, DeleteCommandAfterAShimWasKilled) {
  ExpectEqual([](FakeContainerd& ctrd, Transcript& t) {
    Container& c = ctrd.New("a");
    auto pid = c.Create();
    t.NamePid(pid.value_or(0), "INIT");
    t.Add("Start", c.Start());
    c.KillShim();
    auto result = c.RunDelete();
    t.Add("exit code", absl::StrCat(result.helper.exit_code));
    t.Add("stderr", result.helper.err);
    t.AddDelete("answer", result.response);
    t.AddBundle("bundle", c);
    auto again = c.RunDelete();
    t.Add("again: exit code", absl::StrCat(again.helper.exit_code));
    t.AddDelete("again: answer", again.response);
    t.Add("removal", c.RemoveBundle());
  });
}

TEST(OracleDifferences, AreAllExplainedInTheDocumentation) {
  auto page = ReadFile(absl::StrCat(kSourceDirectory, "/docs/compatibility.md"));
  ASSERT_TRUE(page.ok()) << page.status();
  for (const std::string& reason : AllowedReasons())
    EXPECT_TRUE(absl::StrContains(*page, absl::StrCat("\n### ", reason, "\n"))) << reason;
}

}  // namespace
}  // namespace feather::test
