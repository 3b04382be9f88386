// What a peer must not be able to do: every request here is refused with the error that clients
// expect, leaves nothing behind, and the server goes on serving.

#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/strip.h"
#include "runtime/base/file.h"
#include "tests/support/shim_test.h"

namespace feather::test {
namespace {

using google::protobuf::Empty;

class BadInput : public ShimTest {
 protected:
  // The shim works as if nothing had been.
  void ExpectStillServing(Container& c) {
    ASSERT_THAT(c.Run(), IsOk());
    EXPECT_THAT(c.KillAndRemove(), IsOk());
  }
  UniqueFd RawConnection(const Container& c) {
    std::string path(absl::StripPrefix(c.answer().address, "unix://"));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path.c_str(), path.size() + 1);
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
};

// Checklist: S2.
TEST_F(BadInput, UnknownIdsAreNotFoundEverywhereButInConnectAndShutdown) {
  Container& c = New("a");
  EXPECT_THAT(c.State(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Start(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Delete(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Wait(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Pids(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Kill(SIGTERM), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.Exec("x", {"true"}), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.ResizePty(1, 1), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.CloseIO(), IsError(kNotFound, "container not created"));
  EXPECT_THAT(c.ConnectTask(), IsOk());
  ExpectStillServing(c);
}

TEST_F(BadInput, UnknownExecsAreNotFound) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  EXPECT_THAT(c.State("no"), IsError(kNotFound, "process does not exist no"));
  EXPECT_THAT(c.Start("no"), IsError(kNotFound, "process does not exist no"));
  EXPECT_THAT(c.Delete("no"), IsError(kNotFound, "process does not exist no"));
  EXPECT_THAT(c.Wait("no"), IsError(kNotFound, "process does not exist no"));
  EXPECT_THAT(c.Kill(SIGTERM, "no"), IsError(kNotFound, "process does not exist no"));
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(BadInput, IdsThatAreNoIdentifiersAreInvalid) {
  Container& c = New("a");
  for (const char* id :
       {"", "..", "../../etc", "a/b", "-a", "a b", "a\n", ".", "a..b", "\xff\xfe"}) {
    auto request = c.CreateRequest();
    request.set_id(id);
    auto created = c.Create(request);
    EXPECT_FALSE(created.ok()) << id;
  }
  auto request = c.CreateRequest();
  request.set_id(std::string(77, 'a'));
  EXPECT_THAT(c.Create(request), IsError(kInvalidArgument, ""));
  request.set_id("a/b");
  EXPECT_THAT(c.Create(request), IsError(kInvalidArgument, ""));
  ExpectStillServing(c);
}

TEST_F(BadInput, ExecIdsThatAreNoIdentifiersAreInvalid) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  for (const char* id : {"..", "../x", "a/b", "-a", "a b"}) {
    auto request = c.ExecRequest("x", {"true"});
    request.set_exec_id(id);
    EXPECT_THAT(c.Exec(request), IsError(kInvalidArgument, "")) << id;
  }
  auto request = c.ExecRequest("x", {"true"});
  request.set_exec_id("");
  EXPECT_FALSE(c.Exec(request).ok());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

TEST_F(BadInput, AMissingBundleIsAnError) {
  Container& c = New("a");
  for (const char* bundle : {"/no/such/bundle", "", "relative", "/dev/null"}) {
    auto request = c.CreateRequest();
    request.set_bundle(bundle);
    EXPECT_FALSE(c.Create(request).ok()) << bundle;
  }
  ExpectStillServing(c);
}

TEST_F(BadInput, ABrokenConfigIsTheRuntimesErrorAndLeavesNothing) {
  for (const char* config : {"", "{", "[]", "{\"process\": 5}", "null"}) {
    ContainerOptions options;
    options.config = config;
    Container& c = ctrd().Prepare("a", options);
    ASSERT_THAT(c.StartShim(), IsOk()) << config;
    EXPECT_FALSE(c.Create().ok()) << config;
    EXPECT_THAT(c.State(), IsError(kNotFound, ""));
    EXPECT_THAT(c.Shutdown(), IsOk());
    c.Disconnect();
    EXPECT_THAT(c.RemoveBundle(), IsOk());
    EXPECT_TRUE(RunUntil([&] { return ctrd().ExitOf(c.shim_pid()).has_value(); }));
  }
}

// Checklist: C7.
TEST_F(BadInput, AMissingRuntimeBinaryIsNamedInQuotes) {
  settings_.runtime = "no-runc";
  Container& c = New("a");
  EXPECT_THAT(c.Create(), IsError(kUnknown, "\"no-runc\""));
  EXPECT_THAT(c.Shutdown(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
}

TEST_F(BadInput, WhatIsMissingForAProcessIsNotTakenForAMissingContainer) {
  Container& c = New("a");
  task::CreateTaskRequest request = c.CreateRequest();
  request.set_stdout("binary:///no/such/logger");
  EXPECT_THAT(c.Create(request), IsError(kUnknown, "no such file or directory"));
  ExpectStillServing(c);
}

// Checklist: C1.
TEST_F(BadInput, OptionsOfAWrongTypeAreInvalid) {
  Container& c = New("a");
  auto request = c.CreateRequest();
  request.mutable_options()->set_type_url("containerd.events.TaskExit");
  request.mutable_options()->set_value("\x0a\x01x");
  EXPECT_THAT(c.Create(request), IsError(kInvalidArgument, ""));
  request.mutable_options()->set_type_url("containerd.runc.v1.Options");
  request.mutable_options()->set_value("\xff\xff\xff");
  EXPECT_FALSE(c.Create(request).ok());
  request.mutable_options()->set_type_url("");
  EXPECT_FALSE(c.Create(request).ok());
  ExpectStillServing(c);
}

TEST_F(BadInput, BothFormsOfATypeUrlAreTaken) {
  Container& c = New("a");
  auto request = c.CreateRequest();
  request.mutable_options()->set_type_url("type.googleapis.com/containerd.runc.v1.Options");
  ASSERT_THAT(c.Create(request), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: E5.
TEST_F(BadInput, AnExecWithoutAProcessIsInvalid) {
  Container& c = New("a");
  ASSERT_THAT(c.Run(), IsOk());
  auto request = c.ExecRequest("x", {"true"});
  request.clear_spec();
  EXPECT_THAT(c.Exec(request), IsError(kInvalidArgument, ""));
  for (const char* spec : {"{", "[]", "5", "\"x\""}) {
    request.mutable_spec()->set_value(spec);
    EXPECT_FALSE(c.Exec(request).ok()) << spec;
  }
  EXPECT_THAT(c.Exec("x", {"true"}), IsOk()) << "the id is free again";
  EXPECT_THAT(c.Delete("x"), IsOk());
  EXPECT_THAT(c.KillAndRemove(), IsOk());
}

// Checklist: T6.
TEST_F(BadInput, UnknownServicesAndMethodsAreUnimplemented) {
  Container& c = New("a");
  EXPECT_THAT(c.CallBytes("no.such.Service", "State", ""),
              IsError(absl::StatusCode::kUnimplemented, "service no.such.Service"));
  EXPECT_THAT(c.CallBytes(c.service(), "NoSuchMethod", ""),
              IsError(absl::StatusCode::kUnimplemented, "method NoSuchMethod"));
  ExpectStillServing(c);
}

// Checklist: S1.
TEST_F(BadInput, BothVersionsOfTheTaskServiceAreThere) {
  Container& c = New("a");
  for (const char* version : {"v2", "v3"}) {
    std::string service = std::string("containerd.task.") + version + ".Task";
    EXPECT_THAT(c.CallBytes(service, "Connect", ""), IsOk()) << version;
  }
  ExpectStillServing(c);
}

TEST_F(BadInput, AMessageThatCannotBeParsedIsAnError) {
  Container& c = New("a");
  for (const char* method : {"State", "Create", "Start", "Delete", "Pids", "Kill", "Exec",
                             "ResizePty", "CloseIO", "Wait", "Connect", "Shutdown"}) {
    EXPECT_THAT(c.CallBytes(c.service(), method, std::string("\x0a\xff\x01", 3)),
                IsError(absl::StatusCode::kInternal, "error unmarshalling payload"))
        << method;
  }
  ExpectStillServing(c);
}

// Checklist: T3.
TEST_F(BadInput, AMessageOverTheLimitIsRefusedAndTheConnectionGoesOn) {
  Container& c = New("a");
  UniqueFd raw = RawConnection(c);
  std::string frame("\x00\x50\x00\x00\x00\x00\x00\x01\x01\x00", 10);  // 5 MiB, stream 1, request
  ASSERT_TRUE(WriteAll(raw.get(), frame + std::string(5 << 20, 'x')).ok());
  std::string answer(10, '\0');
  ASSERT_EQ(recv(raw.get(), answer.data(), answer.size(), MSG_WAITALL), 10);
  EXPECT_EQ(answer[8], 2) << "a response";
  std::string payload(static_cast<size_t>(static_cast<unsigned char>(answer[3])), '\0');
  ASSERT_GT(recv(raw.get(), payload.data(), payload.size(), MSG_WAITALL), 0);
  EXPECT_NE(payload.find("exceed maximum message size of 4194304"), std::string::npos) << payload;
  raw.Reset();
  ExpectStillServing(c);
}

TEST_F(BadInput, TruncatedFramesAndGarbageEndTheirConnectionAlone) {
  Container& c = New("a");
  for (const std::string& bytes :
       {std::string("\x00\x00", 2), std::string("\x00\x00\x01\x00\x00\x00\x00\x01\x01\x00half", 14),
        std::string(100, '\xff'), std::string("GET / HTTP/1.1\r\n\r\n")}) {
    UniqueFd raw = RawConnection(c);
    ASSERT_TRUE(WriteAll(raw.get(), bytes).ok());
    shutdown(raw.get(), SHUT_WR);
    EXPECT_THAT(c.ConnectTask(), IsOk());
  }
  ExpectStillServing(c);
}

// Checklist: C3.
TEST_F(BadInput, MountsThatCannotBeDoneAreUndone) {
  Container& c = New("a");
  auto request = c.CreateRequest();
  auto* second = request.add_rootfs();
  second->set_type("bind");
  second->set_source("/no/such/source");
  second->add_options("bind");
  EXPECT_THAT(c.Create(request), IsError(kUnknown, "failed to mount rootfs component"));
  EXPECT_THAT(c.Shutdown(), IsOk());
  c.Disconnect();
  EXPECT_THAT(c.RemoveBundle(), IsOk());
}

}  // namespace
}  // namespace feather::test
