#include "shim/flat_toml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>

namespace feather {
namespace {

using testing::HasSubstr;

// The value of a text with one entry.
template <typename Value>
void ExpectValue(const std::string& text, const Value& value) {
  auto entries = ParseFlatToml(text);
  ASSERT_TRUE(entries.ok()) << text << "\n" << entries.status();
  ASSERT_EQ(entries->size(), 1u) << text;
  const Value* read = std::get_if<Value>(&(*entries)[0].value);
  ASSERT_NE(read, nullptr) << text;
  EXPECT_EQ(*read, value) << text;
}

void ExpectString(const std::string& value, const std::string& text) {
  ExpectValue<std::string>("x = " + value, text);
}

void ExpectInteger(const std::string& value, int64_t number) {
  ExpectValue<int64_t>("x = " + value, number);
}

void ExpectRefused(const std::string& text, const std::string& why) {
  auto entries = ParseFlatToml(text);
  ASSERT_FALSE(entries.ok()) << text;
  EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(entries.status().message()), HasSubstr(why)) << text;
}

TEST(FlatToml, ReadsEntriesInTheirOrderWithCommentsAndEitherLineBreak) {
  auto entries = ParseFlatToml(
      "\xef\xbb\xbf# \xc3\xa4\r\n\r\n \t b = true# x\r\n-a_1=0 # = [\n\n'c d'\t=\t'#'\n"
      "\"\\u00e4\\\"\" = false\n\"\" = \"\"\n#");
  ASSERT_TRUE(entries.ok()) << entries.status();
  std::string keys;
  for (const TomlEntry& entry : *entries) keys += entry.key + "|";
  EXPECT_EQ(keys, "b|-a_1|c d|\xc3\xa4\"||");
  EXPECT_EQ(std::get<std::string>((*entries)[2].value), "#");
}

TEST(FlatToml, ReadsNothingFromNothing) {
  for (const char* text : {"", "\n", "\r\n", " \t ", "# x", "\xef\xbb\xbf"}) {
    auto entries = ParseFlatToml(text);
    ASSERT_TRUE(entries.ok()) << entries.status();
    EXPECT_TRUE(entries->empty());
  }
}

TEST(FlatToml, ReadsBooleans) {
  ExpectValue<bool>("x = true", true);
  ExpectValue<bool>("x=false", false);
}

TEST(FlatToml, ReadsIntegersOfEveryBase) {
  ExpectInteger("0", 0);
  ExpectInteger("-0", 0);
  ExpectInteger("+99", 99);
  ExpectInteger("-17", -17);
  ExpectInteger("5_349_2_21", 5349221);
  ExpectInteger("0xDEADbeef", 0xdeadbeef);
  ExpectInteger("0x00_f", 15);
  ExpectInteger("0o0755", 0755);
  ExpectInteger("0b1101_0110", 0xd6);
  ExpectInteger("9223372036854775807", std::numeric_limits<int64_t>::max());
  ExpectInteger("-9223372036854775808", std::numeric_limits<int64_t>::min());
}

TEST(FlatToml, RefusesWhatIsNoIntegerOrAboveItsRange) {
  for (const char* value :
       {"1_",  "_1",  "1__0", "+_1", "01", "-01", "00", "0x", "0x_1", "0x1_", "+0x1", "-0b1",
        "0X1", "0o8", "0b2",  "0xg", "a",  "1a",  "+",  "-",  "--1",  "+-1",  "1-1"})
    ExpectRefused(std::string("x = ") + value, "line 1: \"x\" is neither");
  ExpectRefused("x = 9223372036854775808", "line 1: \"x\" is out of range");
  ExpectRefused("x = -9223372036854775809", "line 1: \"x\" is out of range");
  ExpectRefused("x = 0x8000000000000000", "line 1: \"x\" is out of range");
}

TEST(FlatToml, ReadsStringsOfOneLine) {
  ExpectString("\"\"", "");
  ExpectString("\"# 'a' \t\xc3\xa4%\"", "# 'a' \t\xc3\xa4%");
  ExpectString("\"\\b\\t\\n\\f\\r\\\"\\\\\"", "\b\t\n\f\r\"\\");
  ExpectString("\"\\u0041\\u00E4\\u20ac\\U0001f600\\u0000x\"",
               std::string("A\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\0x", 12));
  ExpectString("\"\\U0010ffff\\ud7ff\\ue000\"", "\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80");
  ExpectString("''", "");
  ExpectString("'C:\\n \"a\" \\'", "C:\\n \"a\" \\");
}

TEST(FlatToml, ReadsStringsOfManyLines) {
  ExpectString("\"\"\"\"\"\"", "");
  ExpectString("\"\"\"\na\nb\"\"\"", "a\nb");
  ExpectString("\"\"\"\r\na\r\n\"\"\"", "a\r\n");
  ExpectString("\"\"\"a\"b\"\"c\\\"\"\"\"\"", "a\"b\"\"c\"\"");
  ExpectString("\"\"\"\"\"a\"\"\"\"\"", "\"\"a\"\"");
  ExpectString("\"\"\"a \\ \t\r\n\n \tb\\\n\"\"\"", "a b");
  ExpectString("\"\"\"\n\n\\u0041\"\"\"", "\nA");
  ExpectString("''''''", "");
  ExpectString("'''\n\\a''\n'b'''", "\\a''\n'b");
  ExpectString("'''''a'''''", "''a''");
}

TEST(FlatToml, RefusesBrokenStringsAndNamesTheLine) {
  for (const char* value : {"\"", "'", "\"a'", "'a\"", "\"a\nb\"", "'a\r\nb'", "\"a\\\"", "\"\"\"",
                            "'''a''", "\"\"\"a\"\"", "\"\"\"a\\\"\"\""})
    ExpectRefused(std::string("a = 1\nx = ") + value, "line 2: a string without end");
  for (const char* value :
       {"\"\\", "\"\\a\"", "\"\\x41\"", "\"a\\\nb\"", "\"\"\"\n\\ a\"\"\"", "\"\\ \"", "\"\"\"a\\"})
    ExpectRefused(std::string("x = ") + value, "a \\ that escapes nothing");
  for (const char* value :
       {"\"\\u\"", "\"\\u123\"", "\"\\u123", "\"\\u123g\"", "\"\\u+123\"", "\"\\u-123\"",
        "\"\\ud800\"", "\"\\udfff\"", "\"\\U00110000\"", "\"\\U1234567\"", "\"\\U"})
    ExpectRefused(std::string("x = ") + value, "line 1: no character has this number");
  ExpectRefused("x = \"\"\"a\n\n\\q\"\"\"", "line 3");
  ExpectRefused("x = \"\"\"\"\"\"\"\"\"\"\"", "line 1: something follows the value of \"x\"");
}

TEST(FlatToml, RefusesWhatIsNotFlatAndNamesItsKeyOrLine) {
  ExpectRefused("\n[a]", "line 2: a table is no option");
  ExpectRefused("\n [[a]]", "line 2: a table is no option");
  ExpectRefused("a.b = 1", "line 1: \"a\" would be a table");
  ExpectRefused("a . \"b\" = 1", "line 1: \"a\" would be a table");
  for (const char* value :
       {"[]", "[1, 2]", "{}", "{ a = 1 }", "1.5", "1e3", "6.02E-23", "nan", "+inf", "1979-05-27",
        "1979-05-27T07:32:00Z", "1979-05-27 07:32:00", "07:32:00",
        "[0, {a = 1979-05-27T:3207:00Z}t", "True", "truex", "\xc3\xa4"})
    ExpectRefused(std::string("\r\n\"x\" = ") + value,
                  "line 2: \"x\" is neither a string nor an integer nor a boolean");
}

TEST(FlatToml, RefusesWhatIsNoEntry) {
  ExpectRefused("x", "line 1: no = after \"x\"");
  ExpectRefused("x y = 1", "line 1: no = after \"x\"");
  ExpectRefused("x\n= 1", "line 1: no = after \"x\"");
  ExpectRefused("\"\"\"x\"\"\" = 1", "line 1: no = after \"\"");
  ExpectRefused("\"x\n\" = 1", "line 1: a string without end");
  ExpectRefused("= 1", "line 1: no key");
  ExpectRefused("\n\xc3\xa4 = 1", "line 2: no key");
  ExpectRefused("x =", "line 1: \"x\" has no value");
  ExpectRefused("x = # 1", "line 1: \"x\" has no value");
  ExpectRefused("x = 1 y = 2", "line 1: something follows the value of \"x\"");
  ExpectRefused("x = 'a' 'b'", "line 1: something follows the value of \"x\"");
  ExpectRefused("x = 1\n\ny = 1\nx = 2", "line 4: \"x\" is there twice");
  ExpectRefused("x = 1\n\"\\u0078\" = 2", "line 2: \"x\" is there twice");
}

TEST(FlatToml, RefusesCharactersThatNoTomlHas) {
  for (const std::string& text :
       {std::string("\n\0", 2), std::string("\nx = '\0'", 8), std::string("\n# \x01"),
        std::string("\nx = \"\x7f\""), std::string("\nx = '\x1f'"), std::string("\n\r"),
        std::string("\nx = 1\r"), std::string("\nx = '''\r'''")})
    ExpectRefused(text, "line 2: a control character");
  for (const char* text : {"\n\xff = 1", "\nx = '\xc3'", "\n# \xe2\x82", "\nx = \"\xed\xa0\x80\"",
                           "\nx = \"\xc0\xaf\"", "\n\xef\xbb"})
    ExpectRefused(text, "line 2: not UTF-8");
}

}  // namespace
}  // namespace feather
