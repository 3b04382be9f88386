#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "tests/support/shim_test.h"
#include "tests/support/transcript.h"

namespace feather::test {

// Scripts that are played against the stock shim of a Debian containerd package, which is the
// oracle, and against feather. What a client sees must be equal but for what differs from run to
// run, and for the differences that are meant (oracle.cc); docs/compatibility.md gives the reason
// of each.
struct Suite {
  const char* name;
  Series daemon;

  friend void PrintTo(const Suite& suite, std::ostream* out) { *out << suite.name; }
};

inline const auto kSuites = ::testing::Values(
    Suite{"bookworm", Series::k1_6}, Suite{"trixie", Series::k1_7}, Suite{"sid", Series::k2_1});
inline std::string SuiteName(const ::testing::TestParamInfo<Suite>& info) {
  return info.param.name;
}

// The headings in docs/compatibility.md that the differences refer to.
std::vector<std::string> AllowedReasons();

class Oracle : public ::testing::TestWithParam<Suite> {
 public:
  using Script = void (*)(FakeContainerd&, Transcript&);

 protected:
  void SetUp() override;

  // `runtime`: an executable in the place of runc.
  void ExpectEqual(Script script, const std::string& runtime = "");
  // Of the stock shim, or of the one under test.
  Settings SettingsFor(const std::string& shim, const std::string& runtime = "") const;
  const std::string& stock() const { return stock_; }

 private:
  std::string stock_;
};

}  // namespace feather::test
