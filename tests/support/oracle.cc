#include "tests/support/oracle.h"

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace feather::test {
namespace {

// A difference that is meant. `label`: the beginning of the transcript's label; `ours`, `theirs`:
// part of the value there, empty: no such line. `reason`: its heading in docs/compatibility.md.
struct Allowed {
  const char* label;
  const char* ours;
  const char* theirs;
  const char* reason;
};
constexpr Allowed kAllowed[] = {
    {"exec deleted: CloseIO", "code 5", "code 2", "CloseIO of an unknown exec is NotFound"},
    {"init stopped: Start of an exec", "code 9: container a init process is not running",
     "code 2: OCI runtime exec failed", "An exec is not started after the init's end"},
    {"stopped: bundle log.json", "file 644", "cannot exec in a stopped container",
     "An exec is not started after the init's end"},
    {"deleted: bundle log.json", "file 644", "cannot exec in a stopped container",
     "An exec is not started after the init's end"},
    {"started: bundle address", "file 644", "", "The file `address` is always written"},
    {"created: bundle address", "file 644", "", "The file `address` is always written"},
    {"exec running: bundle address", "file 644", "", "The file `address` is always written"},
    {"stopped: bundle address", "file 644", "", "The file `address` is always written"},
    {"deleted: bundle address", "file 644", "", "The file `address` is always written"},
    {"missing-program: bundle address", "file 644", "", "The file `address` is always written"},
    {"bad-spec: bundle address", "file 644", "", "The file `address` is always written"},
    {"missing-mount: bundle address", "file 644", "", "The file `address` is always written"},
    {"bad-mount-type: bundle address", "file 644", "", "The file `address` is always written"},
    {"bad-scheme: bundle address", "file 644", "", "The file `address` is always written"},
    {"missing-runtime: bundle address", "file 644", "", "The file `address` is always written"},
    {"missing-runtime-path: bundle address", "file 644", "",
     "The file `address` is always written"},
    {"missing-logger: bundle address", "file 644", "", "The file `address` is always written"},
    {"missing-bundle: bundle address", "file 644", "", "The file `address` is always written"},
    {"bundle of a address", "file 644", "", "The file `address` is always written"},
    {"bundle of b address", "file 644", "", "The file `address` is always written"},
    {"bundle address", "file 644", "", "The file `address` is always written"},
    {"stopped: bundle exit.json", "file 600", "", "An exit is noted in the bundle"},
    {"deleted: bundle exit.json", "file 600", "", "An exit is noted in the bundle"},
    {"missing-mount: Create", "failed to mount rootfs component: mount source: ",
     "failed to mount rootfs component", "A failed mount is told in the words of containerd 2"},
    {"bad-mount-type: Create", "failed to mount rootfs component: mount source: ",
     "failed to mount rootfs component", "A failed mount is told in the words of containerd 2"},
    {"missing-bundle: Create", "code 5: stat /no/such/bundle", "code 5: mkdir /no/such/bundle",
     "A missing bundle is told by its own name"},
    {"Exec of ", "code 3: process specification",
     "code 2: ", "A broken process specification is InvalidArgument"},
    {"", "update --resources=- a", "update --resources - a",
     "Update passes its resources as containerd 2 does"},
    {"left over", "", "socket: /run/containerd/s/", "Sockets are always removed"},
    {"stderr", "", "starting signal loop", "The delete command has nothing to say"},
};

bool Fits(const std::string& value, absl::string_view part) {
  return part.empty() ? value.empty() : absl::StrContains(value, part);
}

const char* ReasonOf(const Difference& difference) {
  for (const Allowed& allowed : kAllowed)
    if (absl::StartsWith(difference.label, allowed.label) && Fits(difference.ours, allowed.ours) &&
        Fits(difference.theirs, allowed.theirs))
      return allowed.reason;
  return nullptr;
}

void Play(Oracle::Script script, FakeContainerd& ctrd, Transcript& transcript) {
  script(ctrd, transcript);
  if (getenv("FEATHER_TRANSCRIPT") != nullptr) fprintf(stderr, "%s", ctrd.log().c_str());
  for (const std::string& left : ctrd.FindLeftovers()) transcript.Add("left over", left);
}

}  // namespace

std::vector<std::string> AllowedReasons() {
  std::vector<std::string> reasons;
  for (const Allowed& allowed : kAllowed) reasons.emplace_back(allowed.reason);
  return reasons;
}

void Oracle::SetUp() {
  stock_ = DebianBinary(GetParam().name, "containerd-shim-runc-v2");
  if (stock_.empty())
    GTEST_SKIP() << "no containerd of " << GetParam().name
                 << ": install it, or run tests/containerd/fetch";
}

Settings Oracle::SettingsFor(const std::string& shim, const std::string& runtime) const {
  Settings settings;
  settings.shim = shim;
  settings.runtime = runtime;
  settings.daemon = GetParam().daemon;
  return settings;
}

void Oracle::ExpectEqual(Script script, const std::string& runtime) {
  FakeContainerd theirs(SettingsFor(stock_, runtime));
  Transcript expected(theirs);
  Play(script, theirs, expected);
  FakeContainerd ours(SettingsFor(ShimUnderTest(), runtime));
  Transcript actual(ours);
  Play(script, ours, actual);
  for (const Difference& difference : Compare(actual, expected)) {
    const char* reason = ReasonOf(difference);
    std::string text = absl::StrCat(difference.label, "\n  feather: ", difference.ours,
                                    "\n  stock:   ", difference.theirs, "\n");
    if (reason == nullptr)
      ADD_FAILURE() << text;
    else
      RecordProperty(reason, text);
  }
}

}  // namespace feather::test
