#include "shim/commands/bootstrap.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>

#include "proto/bootstrap.pb.h"
#include "tests/support/shim.h"

namespace feather {
namespace {

namespace api = containerd::runtime::bootstrap::v1;
using Encoding = AnswerFormat::Encoding;

Flags SomeFlags() {
  Flags flags;
  flags.name_space = "ns";
  flags.id = "task";
  flags.address = "/flag.sock";
  return flags;
}

google::protobuf::Any SomeOptions() {
  google::protobuf::Any any;
  any.set_type_url("containerd.runc.v1.Options");
  any.set_value("\x1a\x01x", 3);
  return any;
}

api::BootstrapParams SomeParams() {
  api::BootstrapParams params;
  params.set_instance_id("task");
  params.set_namespace_("ns");
  params.set_containerd_ttrpc_address("/params.ttrpc");
  params.set_containerd_grpc_address("/params.sock");
  *params.add_extensions()->mutable_value() = SomeOptions();
  return params;
}

StartInput Parsed(const std::string& bytes, const Flags& flags = SomeFlags()) {
  auto input = ParseStartInput(bytes, flags);
  EXPECT_TRUE(input.ok()) << input.status();
  return input.ok() ? *input : StartInput();
}

// Contract L5.
TEST(StartInput, NothingMeansNoOptions) {
  StartInput input = Parsed("");
  EXPECT_FALSE(input.bootstrap);
  EXPECT_EQ(input.options.type_url(), "");
  EXPECT_EQ(input.grpc_address, "/flag.sock");
  EXPECT_EQ(input.socket_directory, "");
  EXPECT_EQ(input.ttrpc_address, "");
}

// Checklist: L5.
TEST(StartInput, AnAnyIsTheOptions) {
  StartInput input = Parsed(SomeOptions().SerializeAsString());
  EXPECT_FALSE(input.bootstrap);
  EXPECT_EQ(input.options.type_url(), "containerd.runc.v1.Options");
  EXPECT_EQ(input.options.value(), "\x1a\x01x");
}

TEST(StartInput, TheDebugFlagCountsInBothModes) {
  Flags flags = SomeFlags();
  flags.debug = true;
  EXPECT_TRUE(Parsed("", flags).debug);
  EXPECT_TRUE(Parsed(SomeParams().SerializeAsString(), flags).debug);
}

// Contract L6.
// Checklist: L6.
TEST(StartInput, BootstrapParamsBringTheRest) {
  api::BootstrapParams params = SomeParams();
  params.set_socket_dir("/dir");
  StartInput input = Parsed(params.SerializeAsString());
  EXPECT_TRUE(input.bootstrap);
  EXPECT_EQ(input.options.value(), "\x1a\x01x");
  EXPECT_EQ(input.grpc_address, "/params.sock");
  EXPECT_EQ(input.ttrpc_address, "/params.ttrpc");
  EXPECT_EQ(input.socket_directory, "/dir");
  EXPECT_FALSE(input.debug);
}

TEST(StartInput, OnlyAnExtensionThatIsOptionsIsTaken) {
  api::BootstrapParams params = SomeParams();
  params.clear_extensions();
  params.add_extensions()->mutable_value()->set_type_url("something.else");
  params.add_extensions();
  EXPECT_EQ(Parsed(params.SerializeAsString()).options.type_url(), "");
  google::protobuf::Any options = SomeOptions();
  options.set_type_url("type.googleapis.com/runtimeoptions.v1.Options");
  *params.add_extensions()->mutable_value() = options;
  EXPECT_EQ(Parsed(params.SerializeAsString()).options.type_url(), options.type_url());
}

TEST(StartInput, LogLevelsUpToDebugSetDebug) {
  for (auto [level, debug] : {std::pair(api::TRACE, true),
                              {api::DEBUG, true},
                              {api::INFO, false},
                              {api::WARN, false},
                              {api::PANIC, false}}) {
    api::BootstrapParams params = SomeParams();
    params.set_log_level(level);
    EXPECT_EQ(Parsed(params.SerializeAsString()).debug, debug) << level;
  }
}

// Checklist: L6.
TEST(StartInput, ParamsForSomethingElseAreTakenForAnAny) {
  api::BootstrapParams params = SomeParams();
  params.set_instance_id("other");
  EXPECT_FALSE(Parsed(params.SerializeAsString()).bootstrap);
  params = SomeParams();
  params.set_namespace_("other");
  EXPECT_FALSE(Parsed(params.SerializeAsString()).bootstrap);
}

TEST(StartInput, RefusesWhatIsNeither) {
  for (const char* bytes : {"\xff", "{}", "\x0a\x7f"}) {
    auto input = ParseStartInput(bytes, SomeFlags());
    EXPECT_EQ(input.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(StartInput, RefusesASocketDirectoryThatIsNotAbsolute) {
  api::BootstrapParams params = SomeParams();
  params.set_socket_dir("dir");
  EXPECT_FALSE(ParseStartInput(params.SerializeAsString(), SomeFlags()).ok());
}

// Contract L7.
TEST(Answer, IsPlainFor1_6WhateverTheOperatorWants) {
  for (const char* wanted : {static_cast<const char*>(nullptr), "2", "3"}) {
    AnswerFormat format = ChooseAnswer(false, wanted, nullptr, "/none");
    EXPECT_EQ(format.encoding, Encoding::kPlain);
    EXPECT_EQ(format.version, 2);
  }
}

TEST(Answer, IsPlainFor1_7AndWhenInDoubt) {
  for (const char* binary : {"", "/nonexistent", "/etc/passwd", "/dev/null", "/", "/bin/sh"}) {
    AnswerFormat format = ChooseAnswer(false, nullptr, "2", binary);
    EXPECT_EQ(format.encoding, Encoding::kPlain) << binary;
    EXPECT_EQ(format.version, 2) << binary;
  }
}

TEST(Answer, IsAProtobufFor2_3) {
  EXPECT_EQ(ChooseAnswer(true, nullptr, "2", "/none").encoding, Encoding::kProtobuf);
  EXPECT_EQ(ChooseAnswer(true, nullptr, nullptr, "/none").version, 3);
}

TEST(Answer, TheOperatorOverridesWhatIsDetected) {
  AnswerFormat format = ChooseAnswer(false, "3", "2", "/none");
  EXPECT_EQ(format.encoding, Encoding::kJson);
  EXPECT_EQ(format.version, 3);
  EXPECT_EQ(ChooseAnswer(false, "2", "2", "/none").encoding, Encoding::kPlain);
  format = ChooseAnswer(true, "2", "2", "/none");
  EXPECT_EQ(format.encoding, Encoding::kProtobuf);
  EXPECT_EQ(format.version, 2);
  EXPECT_EQ(ChooseAnswer(false, "rubbish", "2", "/none").version, 2);
}

TEST(Answer, FollowsTheBuildOfRealDaemons) {
  for (auto [suite, version] : {std::pair("bookworm", 2), {"trixie", 2}, {"sid", 3}}) {
    std::string binary = test::DebianBinary(suite, "containerd");
    if (binary.empty()) continue;
    AnswerFormat format = ChooseAnswer(false, nullptr, "2", binary);
    EXPECT_EQ(format.version, version) << binary;
    EXPECT_EQ(format.encoding, version == 3 ? Encoding::kJson : Encoding::kPlain) << binary;
  }
}

// Checklist: L7.
TEST(Answer, HasTheBytesThatEachDaemonParses) {
  EXPECT_EQ(FormatAnswer({Encoding::kPlain, 2}, "/s/x"), "unix:///s/x");
  std::string json = FormatAnswer({Encoding::kJson, 3}, "/s/x");
  EXPECT_EQ(nlohmann::json::parse(json),
            nlohmann::json({{"version", 3}, {"address", "unix:///s/x"}, {"protocol", "ttrpc"}}));
  api::BootstrapResult result;
  ASSERT_TRUE(result.ParseFromString(FormatAnswer({Encoding::kProtobuf, 3}, "/s/x")));
  EXPECT_EQ(result.version(), 3);
  EXPECT_EQ(result.address(), "unix:///s/x");
  EXPECT_EQ(result.protocol(), "ttrpc");
}

}  // namespace
}  // namespace feather
