// Standard streams over FIFOs.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using ::testing::HasSubstr;

class Stdio : public ShimTest {
 protected:
  static ContainerOptions WithStdin(ContainerOptions options) {
    options.in = true;
    return options;
  }
};

// Not periodic in any power of two, so that a lost or doubled block shows.
std::string Pattern(size_t size) {
  std::string data(size, '\0');
  uint32_t x = 12345;
  for (char& c : data) {
    x = x * 1664525 + 1013904223;
    c = static_cast<char>(x >> 24);
  }
  return data;
}

TEST_F(Stdio, PassesStdinThroughUnchangedAndEndsItOnCloseIO) {
  Container& c = New("a", WithStdin(Shell("cat")));
  ASSERT_THAT(c.Run(), IsOk());
  std::string data = Pattern(size_t{32} << 20);
  c.stdio().in->Write(data);
  c.stdio().in->Close();
  ASSERT_TRUE(RunUntil([&] { return c.stdio().out->size() == data.size(); }))
      << c.stdio().out->size();
  EXPECT_EQ(c.State()->status(), containerd::v1::types::RUNNING)
      << "the client's disconnect must not end stdin";
  EXPECT_THAT(c.CloseIO(), IsOk());
  EXPECT_THAT(c.CloseIO(), IsOk()) << "again";
  EXPECT_EQ(c.Wait()->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_TRUE(c.stdio().out->data() == data);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: R9.
TEST_F(Stdio, WhatWasWrittenBeforeCloseIOIsDelivered) {
  Container& c = New("a", WithStdin(Shell("sleep 0.5; wc -c")));
  ASSERT_THAT(c.Run(), IsOk());
  c.stdio().in->Write(std::string(50000, 'x'));
  c.stdio().in->Close();
  ASSERT_TRUE(RunUntil([&] { return c.stdio().in->closed(); }));
  EXPECT_THAT(c.CloseIO(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_EQ(c.stdio().out->data(), "50000\n");
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: I4.
TEST_F(Stdio, CarriesLargeOutputAndALastLineWithoutNewline) {
  Container& c = New("a", Shell("seq 1 200000; printf end; seq 1 50000 >&2; printf END >&2"));
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  std::string out;
  std::string err;
  for (int i = 1; i <= 200000; ++i) absl::StrAppend(&out, i, "\n");
  for (int i = 1; i <= 50000; ++i) absl::StrAppend(&err, i, "\n");
  EXPECT_TRUE(c.stdio().out->data() == out + "end");
  EXPECT_TRUE(c.stdio().err->data() == err + "END");
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: I2.
TEST_F(Stdio, NothingIsLostWhenTheClientDiesAndAnotherComes) {
  Container& c = New("a", Shell("seq 1 100000; echo done"));
  ASSERT_THAT(c.Create(), IsOk());
  c.stdio().out->Close();
  ASSERT_THAT(c.Start(), IsOk());
  ctrd().loop().RunFor(std::chrono::milliseconds(300));
  c.stdio().out->Open();
  EXPECT_EQ(c.Wait()->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  std::string expected;
  for (int i = 1; i <= 100000; ++i) absl::StrAppend(&expected, i, "\n");
  EXPECT_TRUE(c.stdio().out->data() == expected + "done\n");
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Stdio, WhatWasWrittenWhileNobodyReadIsReadByTheNextEvenAfterTheExit) {
  Container& c = New("a", Shell("echo written while away"));
  ASSERT_THAT(c.Create(), IsOk());
  c.stdio().out->Close();
  c.stdio().err->Close();
  ASSERT_THAT(c.Start(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 0u);
  c.stdio().out->Open();
  c.stdio().err->Open();
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_EQ(c.stdio().out->data(), "written while away\n");
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Stdio, ASlowClientHoldsTheContainerBackAndLosesNothing) {
  Container& c = New("a", Shell("seq 1 100000"));
  ASSERT_THAT(c.Create(), IsOk());
  c.stdio().out->Pause();
  ASSERT_THAT(c.Start(), IsOk());
  auto wait = c.WaitAsync();
  ctrd().loop().RunFor(std::chrono::seconds(1));
  EXPECT_FALSE(wait.done()) << "600 KB cannot fit into FIFO and pipe";
  EXPECT_THAT(c.State(), IsOk());
  c.stdio().out->Resume();
  EXPECT_EQ(wait.Get()->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_THAT(c.stdio().out->data(), HasSubstr("\n99999\n100000\n"));
  EXPECT_EQ(c.stdio().out->size(), 588895u);
  EXPECT_THAT(c.Remove(), IsOk());
}

// Checklist: I5.
TEST_F(Stdio, WorksWithoutAnyStream) {
  ContainerOptions options = Shell("cat; exit 4");
  options.out = options.err = false;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 4u);
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Stdio, WorksWithStdoutAlone) {
  ContainerOptions options = Shell("echo out; echo err >&2; exit 4");
  options.err = false;
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 4u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_EQ(c.stdio().out->data(), "out\n");
  EXPECT_THAT(c.Remove(), IsOk());
}

// As nginx and others do with their logs; the pipe has to be that user's by then. Checklist: C17.
TEST_F(Stdio, AUserThatIsNotRootOpensItsStreamsAgain) {
  ContainerOptions options =
      Shell("echo out > /dev/stdout; echo err > /dev/stderr; id -u; exec sleep 1000");
  options.spec.patch = R"({"process": {"user": {"uid": 1000, "gid": 1000}}})";
  Container& c = New("a", options);
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_TRUE(RunUntil([&] { return c.stdio().out->data() == "out\n1000\n"; }));
  EXPECT_TRUE(RunUntil([&] { return c.stdio().err->data() == "err\n"; }));
  auto exec = c.ExecRequest("x", {"sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"});
  auto process = nlohmann::json::parse(exec.spec().value());
  process["user"] = {{"uid", 1001}, {"gid", 1001}};
  exec.mutable_spec()->set_value(process.dump());
  ASSERT_THAT(c.Exec(exec), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.exec_stdio("x")));
  EXPECT_EQ(c.exec_stdio("x").out->data(), "out\n");
  EXPECT_EQ(c.exec_stdio("x").err->data(), "err\n");
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(Stdio, WorksWhenTheFifosAreRemovedOnceTheyAreOpen) {
  Container& c = New("a", Shell("echo out"));
  ASSERT_THAT(c.Create(), IsOk());
  unlink(c.stdio().out->path().c_str());
  ASSERT_THAT(c.Start(), IsOk());
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_EQ(c.stdio().out->data(), "out\n");
  EXPECT_THAT(c.Wait(), IsOk());
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_F(Stdio, ARefusedSchemeIsAnError) {
  Container& c = New("a");
  auto request = c.CreateRequest();
  request.set_stdout("gopher:///x");
  EXPECT_THAT(c.Create(request),
              IsError(kUnknown, "failed to create init process I/O: unknown STDIO scheme gopher"));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

// 30 seconds, in which everything else is answered.
TEST_F(Stdio, AClientThatNeverOpensItsFifoFailsTheCreation) {
  Container& c = New("a");
  auto request = c.CreateRequest();
  c.stdio().out->Close();
  auto create = c.Send<task::CreateTaskResponse>("Create", request);
  EXPECT_THAT(c.ConnectTask(), IsOk());
  EXPECT_THAT(create.Get(), IsError(kDeadlineExceeded, "context deadline exceeded"));
  EXPECT_THAT(c.State(), IsError(kNotFound, ""));
  EXPECT_THAT(c.Shutdown(), IsOk());
}

class Terminal : public RuntimeTest {
 protected:
  static ContainerOptions OnATerminal(const std::string& script) {
    ContainerOptions options = Shell(script);
    options.spec.terminal = true;
    options.in = true;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Runtimes, Terminal, kRuntimes, RuntimeName);

TEST_P(Terminal, CarriesInputOutputAndSize) {
  Container& c = New("a", OnATerminal("read line; echo got $line; stty size; exit 5"));
  ASSERT_THAT(c.Create(), IsOk());
  EXPECT_TRUE(c.State()->terminal());
  ASSERT_THAT(c.ResizePty(132, 43), IsOk());
  ASSERT_THAT(c.Start(), IsOk());
  c.stdio().in->Write("hello\n");
  EXPECT_EQ(c.Wait()->exit_status(), 5u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  EXPECT_THAT(c.stdio().out->data(), HasSubstr("got hello\r\n43 132\r\n"));
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_P(Terminal, LosesNothingOfALargeOutput) {
  Container& c = New("a", OnATerminal("seq 1 20000"));
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_EQ(c.Wait()->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.stdio()));
  std::string expected;
  for (int i = 1; i <= 20000; ++i) absl::StrAppend(&expected, i, "\r\n");
  EXPECT_TRUE(c.stdio().out->data() == expected) << c.stdio().out->size();
  EXPECT_THAT(c.Remove(), IsOk());
}

TEST_P(Terminal, OfAnExecIsItsOwn) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  ContainerOptions streams;
  streams.spec.terminal = true;
  streams.in = true;
  ASSERT_THAT(c.Exec("x", {"sh", "-c", "read line; echo got $line; stty size"}, streams), IsOk());
  ASSERT_THAT(c.Start("x"), IsOk());
  EXPECT_THAT(c.ResizePty(99, 11, "x"), IsOk());
  c.exec_stdio("x").in->Write("hi\n");
  EXPECT_EQ(c.Wait("x")->exit_status(), 0u);
  ASSERT_TRUE(WaitForEof(c.exec_stdio("x")));
  EXPECT_THAT(c.exec_stdio("x").out->data(), HasSubstr("got hi\r\n11 99\r\n"));
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

}  // namespace
}  // namespace feather::test
