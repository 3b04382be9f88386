#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/base/status.h"
#include "runtime/base/unique_fd.h"

namespace feather {

// The formats of cgroup files (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1 of Linux).
// Parsers are pure and take any bytes; numbers too large or not numbers are told from missing ones
// as each says.

// A decimal number; a negative one counts as 0. Nothing if it is none.
std::optional<uint64_t> ParseNumber(absl::string_view text);

// Calls `visit` for each "key value" line. InvalidArgument at the first line that is anything else.
absl::Status ParseKeyValues(absl::string_view text,
                            const std::function<void(absl::string_view, uint64_t)>& visit);

// One line of a *.pressure file, "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
struct PressureLine {
  double avg10 = 0;
  double avg60 = 0;
  double avg300 = 0;
  uint64_t total = 0;
};
struct Pressure {
  std::optional<PressureLine> some;
  std::optional<PressureLine> full;
};
// Nothing if a value is not a number.
std::optional<Pressure> ParsePressure(absl::string_view text);

// io.stat: "major:minor key=value …" lines. What is not such a line or pair is passed over.
struct IoLine {
  uint64_t major = 0;
  uint64_t minor = 0;
  uint64_t rbytes = 0;
  uint64_t wbytes = 0;
  uint64_t rios = 0;
  uint64_t wios = 0;
};
std::vector<IoLine> ParseIoStat(absl::string_view text);

// rdma.current and rdma.max: "device hca_handle=N hca_object=N", with "max" as the greatest number.
struct RdmaLine {
  std::string device;
  uint32_t handles = 0;
  uint32_t objects = 0;
};
std::vector<RdmaLine> ParseRdma(absl::string_view text);

// cgroup1's blkio.*: "major:minor [operation] value" lines and a last "Total value".
struct BlkioLine {
  uint64_t major = 0;
  uint64_t minor = 0;
  std::string operation;
  uint64_t value = 0;
};
absl::StatusOr<std::vector<BlkioLine>> ParseBlkio(absl::string_view text);

// The device's name in the text of /proc/partitions, empty if it is not there.
std::string PartitionName(absl::string_view partitions, uint64_t major, uint64_t minor);

// Page sizes as hugetlb files name them ("2MB"), from the names of directories in
// /sys/kernel/mm/hugepages ("hugepages-2048kB"). Empty for any other name.
std::string HugePageSize(absl::string_view name);
std::vector<std::string> HugePageSizes(const std::string& directory);

// A cgroup's directory, held open while several of its files are read: most of what reading such a
// file costs is walking its path.
class CgroupDirectory {
 public:
  // One that is missing has no files.
  static absl::StatusOr<CgroupDirectory> Open(std::string path);

  const std::string& path() const { return path_; }
  bool Has(const std::string& name) const;
  // A file's text, or nothing where it is missing, which it also is when the cgroup has been
  // removed meanwhile (ENODEV).
  absl::StatusOr<std::optional<std::string>> Read(const std::string& name) const;
  // A file with one number; 0 where there is none. `max`: what "max" stands for.
  uint64_t ReadNumber(const std::string& name, uint64_t max) const;

 private:
  std::string path_;
  UniqueFd fd_;  // invalid: missing
};

// A key of a "key value" file and the field of a message that it goes to.
template <typename Message>
struct CgroupField {
  const char* key;
  void (Message::*set)(uint64_t);
};

// Fills the message from such a file. False if there is none, or nothing in it.
template <typename Message, size_t N>
absl::StatusOr<bool> FillFields(const CgroupDirectory& directory, const std::string& name,
                                const CgroupField<Message> (&fields)[N], Message* message) {
  ASSIGN_OR_RETURN(std::optional<std::string> text, directory.Read(name));
  if (!text || text->empty()) return false;
  absl::Status status = ParseKeyValues(*text, [&](absl::string_view key, uint64_t value) {
    for (const CgroupField<Message>& field : fields)
      if (key == field.key) (message->*field.set)(value);
  });
  if (!status.ok()) return Annotate(status, "parse " + directory.path() + "/" + name);
  return true;
}

}  // namespace feather
