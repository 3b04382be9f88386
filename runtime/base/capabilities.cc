#include "runtime/base/capabilities.h"

#include <cerrno>

#include "runtime/base/status.h"

namespace feather {
namespace {

// What this process has now; null before DropCapabilities.
cap_t g_state = nullptr;

bool Has(cap_value_t capability, cap_flag_t set) {
  cap_flag_value_t value = CAP_CLEAR;
  return cap_get_flag(g_state, capability, set, &value) == 0 && value == CAP_SET;
}

void SetEffective(uint64_t capabilities, cap_flag_value_t value) {
  for (cap_value_t i = 0; i < 64; ++i)
    if ((capabilities >> i & 1) != 0) cap_set_flag(g_state, CAP_EFFECTIVE, 1, &i, value);
}

}  // namespace

absl::Status DropCapabilities() {
  cap_t state = cap_get_proc();
  if (state == nullptr) return ErrnoError(errno, "get capabilities");
  if (cap_clear_flag(state, CAP_EFFECTIVE) < 0 || cap_set_proc(state) < 0) {
    absl::Status status = ErrnoError(errno, "set capabilities");
    cap_free(state);
    return status;
  }
  g_state = state;
  return absl::OkStatus();
}

RaisedCapabilities::RaisedCapabilities() {
  if (g_state == nullptr) return;
  for (cap_value_t i = 0; i < 64; ++i) Add(i);
  Apply();
}

RaisedCapabilities::RaisedCapabilities(std::initializer_list<cap_value_t> capabilities) {
  if (g_state == nullptr) return;
  for (cap_value_t capability : capabilities) Add(capability);
  Apply();
}

RaisedCapabilities::~RaisedCapabilities() {
  if (raised_ == 0) return;
  int error = errno;
  SetEffective(raised_, CAP_CLEAR);
  cap_set_proc(g_state);
  errno = error;
}

void RaisedCapabilities::Add(cap_value_t capability) {
  if (Has(capability, CAP_PERMITTED) && !Has(capability, CAP_EFFECTIVE))
    raised_ |= uint64_t{1} << capability;
}

void RaisedCapabilities::Apply() {
  if (raised_ == 0) return;
  SetEffective(raised_, CAP_SET);
  if (cap_set_proc(g_state) == 0) return;
  SetEffective(raised_, CAP_CLEAR);
  raised_ = 0;
}

}  // namespace feather
