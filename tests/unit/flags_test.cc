#include "shim/commands/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_split.h"

namespace feather {
namespace {

using testing::HasSubstr;

absl::Status Parse(const std::string& line, Flags& flags) {
  return ParseFlags(absl::StrSplit(line, ' ', absl::SkipEmpty()), flags);
}

Flags Parsed(const std::string& line) {
  Flags flags;
  absl::Status status = Parse(line, flags);
  EXPECT_TRUE(status.ok()) << status;
  return flags;
}

std::string Refused(const std::string& line) {
  Flags flags;
  absl::Status status = Parse(line, flags);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << line;
  return std::string(status.message());
}

// Contract L1 and L2: what each version of containerd writes, literally.
// Checklist: L2.
TEST(Flags, ReadsTheStartCommandOfEveryContainerd) {
  for (const char* tail :
       {"start", "-bundle /b start", "-debug start", "-bundle /b -debug start"}) {
    Flags flags = Parsed(
        std::string("-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary "
                    "/usr/bin/containerd -id abc ") +
        tail);
    EXPECT_EQ(flags.name_space, "k8s.io");
    EXPECT_EQ(flags.address, "/run/containerd/containerd.sock");
    EXPECT_EQ(flags.publish_binary, "/usr/bin/containerd");
    EXPECT_EQ(flags.id, "abc");
    EXPECT_EQ(flags.action, "start");
    EXPECT_EQ(flags.debug, std::string(tail).find("-debug") != std::string::npos);
    EXPECT_EQ(flags.bundle, std::string(tail).find("-bundle") != std::string::npos ? "/b" : "");
  }
}

TEST(Flags, ReadsTheDeleteCommandOfEveryContainerd) {
  for (const char* debug : {"", "-debug "}) {
    Flags flags = Parsed(std::string("-namespace default -address /a -publish-binary /p -id abc "
                                     "-bundle /state/default/abc ") +
                         debug + "delete");
    EXPECT_EQ(flags.bundle, "/state/default/abc");
    EXPECT_EQ(flags.action, "delete");
    EXPECT_EQ(flags.debug, *debug != '\0');
  }
}

TEST(Flags, ReadsTheServersCommand) {
  Flags flags = Parsed("-namespace ns -id x -address /a");
  EXPECT_EQ(flags.action, "");
  flags = Parsed("-namespace ns -socket /s --debug-socket /d");
  EXPECT_EQ(flags.socket, "/s");
  EXPECT_EQ(flags.debug_socket, "/d");
}

// Checklist: L1.
TEST(Flags, TakesOneDashOrTwoAndAnEqualsSign) {
  Flags flags = Parsed("--namespace=a=b --id= -debug=false -v=T --info=1 start -id x");
  EXPECT_EQ(flags.name_space, "a=b");
  EXPECT_EQ(flags.id, "");
  EXPECT_FALSE(flags.debug);
  EXPECT_TRUE(flags.version);
  EXPECT_TRUE(flags.info);
  EXPECT_EQ(flags.action, "start");
}

TEST(Flags, TheNextWordIsTheValueWhateverItLooksLike) {
  EXPECT_EQ(Parsed("-id -debug start").id, "-debug");
}

TEST(Flags, StopsAtTheFirstWordThatIsNoFlag) {
  EXPECT_EQ(Parsed("-id x start -unknown").action, "start");
  EXPECT_EQ(Parsed("- -unknown").action, "-");
  EXPECT_EQ(Parsed("-id x -- -unknown").action, "-unknown");
  EXPECT_EQ(Parsed("--").action, "");
}

TEST(Flags, KnowsBothNamesOfVersionAndHelp) {
  EXPECT_TRUE(Parsed("-version").version);
  EXPECT_TRUE(Parsed("--v").version);
  EXPECT_TRUE(Parsed("-h").help);
  EXPECT_TRUE(Parsed("--help").help);
}

TEST(Flags, RefusesWithTheTextsOfGo) {
  EXPECT_EQ(Refused("-foo start"), "flag provided but not defined: -foo");
  EXPECT_EQ(Refused("--foo=x"), "flag provided but not defined: -foo");
  EXPECT_EQ(Refused("-ID x"), "flag provided but not defined: -ID");
  EXPECT_EQ(Refused("-namespace"), "flag needs an argument: -namespace");
  EXPECT_EQ(Refused("-debug=zz"), "invalid boolean value \"zz\" for -debug: parse error");
  EXPECT_EQ(Refused("---id"), "bad flag syntax: ---id");
  EXPECT_EQ(Refused("-=x"), "bad flag syntax: -=x");
  EXPECT_EQ(Refused("--=x"), "bad flag syntax: --=x");
}

TEST(Flags, UsageNamesEveryFlag) {
  std::string usage = UsageText("/bin/shim");
  EXPECT_THAT(usage, HasSubstr("Usage of /bin/shim:\n"));
  for (const char* flag : {"address", "bundle", "debug", "debug-socket", "id", "info", "namespace",
                           "publish-binary", "socket", "v", "version"})
    EXPECT_THAT(usage, HasSubstr(std::string("  -") + flag));
  EXPECT_THAT(usage, HasSubstr("inspect"));
}

}  // namespace
}  // namespace feather
