#include "runtime/bundle.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxIdLength = 76;
constexpr size_t kMaxConfigSize = size_t{64} << 20;
constexpr size_t kMaxDepth = 1000;

// What both readers below have in common as receivers of the parser's events. The parser itself
// does not recurse. It reads each string into the same buffer: to move from that costs more than
// to copy, since the next one has to grow anew. Each event comes down to Open, Close or Scalar.
template <typename Derived>
class Receiver {
 public:
  bool null() { return self().Scalar("null", nullptr); }
  bool boolean(bool value) { return self().Scalar(value ? "true" : "false", nullptr); }
  bool number_integer(int64_t value) { return self().Scalar(absl::StrCat(value), nullptr); }
  bool number_unsigned(uint64_t value) { return self().Scalar(absl::StrCat(value), nullptr); }
  bool number_float(double, const std::string& text) { return self().Scalar(text, nullptr); }
  bool string(std::string& value) { return self().Scalar({}, &value); }
  bool binary(Json::binary_t&) { return false; }  // not in JSON text
  bool start_object(size_t) { return Enter(true); }
  bool start_array(size_t) { return Enter(false); }
  bool end_object() { return Leave(true); }
  bool end_array() { return Leave(false); }
  bool key(std::string& name) { return self().Key(name); }
  bool parse_error(size_t position, const std::string&, const Json::exception&) {
    // The parser's own text quotes the input, which may be huge and need not be UTF-8.
    status_ = absl::InvalidArgumentError(absl::StrCat("invalid JSON at byte ", position));
    return false;
  }

  absl::Status Run(absl::string_view json) {
    bool done = Json::sax_parse(json.data(), json.data() + json.size(), &self());
    if (!status_.ok()) return status_;
    if (!done || !object_) return absl::InvalidArgumentError("not a JSON object");
    return absl::OkStatus();
  }

 protected:
  size_t depth() const { return depth_; }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  bool Enter(bool object) {
    if (depth_ == 0 && !object) return false;
    object_ = true;
    if (depth_ == kMaxDepth) {
      status_ = absl::InvalidArgumentError("JSON is nested too deeply");
      return false;
    }
    self().Open(object);
    ++depth_;
    return true;
  }
  bool Leave(bool object) {
    --depth_;
    self().Close(object);
    return true;
  }

  size_t depth_ = 0;
  bool object_ = false;
  absl::Status status_;
};

// Collects a ContainerSpec.
class SpecReader : public Receiver<SpecReader> {
 public:
  ContainerSpec Take() && {
    spec_.group = !runc_group_.empty() ? std::move(runc_group_) : std::move(cri_group_);
    return std::move(spec_);
  }

  bool Key(std::string& name) {
    if (depth() <= kLevels) keys_[depth() - 1] = name;
    return true;
  }
  void Open(bool object) {
    if (depth() == 3 && At({"linux", "namespaces"}) && object) namespace_ = {};
    // An element of an array has no key.
    if (!object && depth() < kLevels) keys_[depth()].clear();
  }
  void Close(bool object) {
    if (depth() != 3 || !object || !At({"linux", "namespaces"}) || !keys_[2].empty()) return;
    if (namespace_.type == "pid" && namespace_.path.empty()) spec_.has_private_pid_namespace = true;
  }
  bool Scalar(absl::string_view, std::string* string) {
    if (string == nullptr) return true;
    if (depth() == 2 && At({"annotations"})) {
      if (keys_[1] == "io.containerd.runc.v2.group") runc_group_ = std::move(*string);
      if (keys_[1] == "io.kubernetes.cri.sandbox-id") cri_group_ = std::move(*string);
    }
    if (depth() == 2 && At({"linux", "cgroupsPath"})) spec_.cgroups_path = std::move(*string);
    if (depth() == 4 && At({"linux", "namespaces", "", "type"}))
      namespace_.type = std::move(*string);
    if (depth() == 4 && At({"linux", "namespaces", "", "path"}))
      namespace_.path = std::move(*string);
    return true;
  }

 private:
  static constexpr size_t kLevels = 4;

  bool At(std::initializer_list<absl::string_view> path) const {
    const std::string* key = keys_;
    for (absl::string_view want : path)
      if (!absl::EqualsIgnoreCase(*key++, want)) return false;
    return true;
  }

  struct Namespace {
    std::string type;
    std::string path;
  };
  ContainerSpec spec_;
  std::string runc_group_;
  std::string cri_group_;
  Namespace namespace_;
  std::string keys_[kLevels];  // [i]: the key we are under at depth i + 1; empty in an array
};

// Copies an object's text, leaving out what is to be left out.
class Copier : public Receiver<Copier> {
 public:
  // `without`: a member of the outermost object; empty: none.
  Copier(absl::string_view without, bool drop_null) : without_(without), drop_null_(drop_null) {}

  // Adds a member before the end of the outermost object.
  void Append(absl::string_view member) { appended_ = std::string(member); }
  std::string Take() && { return std::move(out_); }

  bool Key(std::string& name) {
    if (skipping_) return true;
    // Go's decoder matches keys without regard to case: a "Terminal" would win over ours.
    if (depth() == 1 && !without_.empty() && absl::EqualsIgnoreCase(name, without_))
      skipping_ = true;
    key_ = name;
    return true;
  }
  void Open(bool object) {
    if (skipping_) return;
    Separate();
    out_ += object ? '{' : '[';
    levels_.push_back({object, true});
  }
  void Close(bool object) {
    if (skipping_) {
      if (depth() == 1) skipping_ = false;
      return;
    }
    if (depth() == 0 && !appended_.empty())
      absl::StrAppend(&out_, levels_.back().empty ? "" : ",", appended_);
    out_ += object ? '}' : ']';
    levels_.pop_back();
  }
  bool Scalar(absl::string_view literal, std::string* string) {
    if (depth() == 0) return false;
    if (skipping_) {
      if (depth() == 1) skipping_ = false;
      return true;
    }
    if (string == nullptr && literal == "null" && drop_null_ && levels_.back().object) return true;
    Separate();
    if (string != nullptr)
      AppendQuoted(*string);
    else
      absl::StrAppend(&out_, literal);
    return true;
  }

 private:
  struct Level {
    bool object;
    bool empty;
  };

  // Most strings need no escapes, and making a Json of each would be a fifth of what an exec costs.
  void AppendQuoted(const std::string& text) {
    bool plain =
        absl::c_none_of(text, [](unsigned char c) { return c < ' ' || c == '"' || c == '\\'; });
    if (plain)
      absl::StrAppend(&out_, "\"", text, "\"");
    else
      out_ += Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  void Separate() {
    if (levels_.empty()) return;
    if (!std::exchange(levels_.back().empty, false)) out_ += ',';
    if (!levels_.back().object) return;
    AppendQuoted(key_);
    out_ += ':';
  }

  absl::string_view without_;
  bool drop_null_;
  std::string appended_;
  std::string key_;
  bool skipping_ = false;  // inside the member to be left out
  std::vector<Level> levels_;
  std::string out_;
};

}  // namespace

absl::Status ValidateId(absl::string_view id) {
  if (id.empty()) return absl::InvalidArgumentError("identifier must not be empty");
  if (id.size() > kMaxIdLength)
    return absl::InvalidArgumentError(absl::StrCat("identifier \"", absl::CHexEscape(id),
                                                   "\" greater than maximum length (", kMaxIdLength,
                                                   " characters)"));
  bool word = false;
  bool valid = true;
  for (char c : id) {
    bool separator = c == '.' || c == '_' || c == '-';
    valid = valid && (separator ? word : absl::ascii_isalnum(static_cast<unsigned char>(c)));
    word = !separator;
  }
  if (valid && word) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("identifier \"", absl::CHexEscape(id),
                   "\" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"));
}

bool ContainerSpec::in_slice() const {
  const std::vector<absl::string_view> parts = absl::StrSplit(cgroups_path, ':');
  return parts.size() == 3 && absl::EndsWith(parts[0], ".slice");
}

absl::StatusOr<ContainerSpec> ParseSpec(absl::string_view json) {
  SpecReader reader;
  RETURN_IF_ERROR(reader.Run(json));
  return std::move(reader).Take();
}

absl::StatusOr<ContainerSpec> ReadSpec(const std::string& config_path) {
  ASSIGN_OR_RETURN(std::string json, ReadFile(config_path, kMaxConfigSize));
  absl::StatusOr<ContainerSpec> spec = ParseSpec(json);
  if (!spec.ok()) return Annotate(spec.status(), config_path);
  return spec;
}

absl::StatusOr<std::string> ReadGroupAnnotation(const std::string& config_path) {
  absl::StatusOr<ContainerSpec> spec = ReadSpec(config_path);
  if (absl::IsNotFound(spec.status())) return std::string();
  if (!spec.ok()) return spec.status();
  return std::move(spec->group);
}

absl::Status CheckBundleDirectory(const std::string& path) {
  struct stat st;
  if (stat(path.c_str(), &st) < 0) return ErrnoError(errno, absl::StrCat("stat ", path));
  if (!S_ISDIR(st.st_mode))
    return absl::InvalidArgumentError(absl::StrCat("bundle ", path, " is not a directory"));
  if (st.st_uid != geteuid() && st.st_uid != 0)
    return absl::PermissionDeniedError(
        absl::StrCat("bundle ", path, " belongs to user ", st.st_uid));
  if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
    return absl::PermissionDeniedError(absl::StrCat("other users may write into bundle ", path));
  return absl::OkStatus();
}

absl::StatusOr<Bundle> Bundle::Open(std::string path) {
  if (!absl::StartsWith(path, "/") || absl::StrContains(path, absl::string_view("\0", 1)))
    return absl::InvalidArgumentError(
        absl::StrCat("bundle \"", absl::CHexEscape(path), "\" is not an absolute path"));
  RETURN_IF_ERROR(CheckBundleDirectory(path));
  Bundle bundle;
  bundle.path_ = std::move(path);
  absl::StatusOr<ContainerSpec> spec = ReadSpec(bundle.File("config.json"));
  if (spec.ok()) bundle.spec_ = *std::move(spec);
  bundle.config_status_ = spec.status();
  return bundle;
}

std::string Bundle::File(absl::string_view name) const { return absl::StrCat(path_, "/", name); }

absl::StatusOr<std::string> ProcessSpec(absl::string_view json, bool terminal) {
  Copier copier("terminal", /*drop_null=*/false);
  copier.Append(terminal ? "\"terminal\":true" : "\"terminal\":false");
  if (absl::Status status = copier.Run(json); !status.ok())
    return Annotate(status, "process specification");
  return absl::StrCat(std::move(copier).Take(), "\n");
}

absl::StatusOr<std::string> Resources(absl::string_view json) {
  Copier copier({}, /*drop_null=*/true);
  if (absl::Status status = copier.Run(json); !status.ok()) return Annotate(status, "resources");
  return std::move(copier).Take();
}

}  // namespace feather
