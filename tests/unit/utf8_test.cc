#include "runtime/base/utf8.h"

#include <gtest/gtest.h>

namespace feather {
namespace {

TEST(ValidUtf8, ReplacesEachByteThatIsNoPartOfACharacter) {
  EXPECT_EQ(ValidUtf8("plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"),
            "plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(ValidUtf8("\xff\x80x"), "??x");
  EXPECT_EQ(ValidUtf8("\xc3"), "?");
  EXPECT_EQ(ValidUtf8("\xc0\xaf"), "??");
  EXPECT_EQ(ValidUtf8("\xed\xa0\x80"), "???");
  EXPECT_EQ(ValidUtf8("\xf4\x90\x80\x80"), "????");
}

}  // namespace
}  // namespace feather
