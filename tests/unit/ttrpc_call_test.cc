#include <gtest/gtest.h>

#include "shim/ttrpc/client.h"
#include "tests/support/ttrpc.h"

namespace feather {
namespace {

using test::TtrpcFixture;

class TtrpcCall : public TtrpcFixture {};

TEST_F(TtrpcCall, AnswersAUnaryCall) {
  AddEcho();
  Serve();
  Run([](TtrpcFixture* t) -> Async<> {
    auto client = co_await t->Connect();
    auto answer = co_await client->Call("test.Echo", "Say", "hello");
    EXPECT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer.value_or(""), "hello");
  }(this));
}

}  // namespace
}  // namespace feather
