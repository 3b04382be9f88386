// Preloaded into the user-mode kernel (`run`). Up to Linux 6.11 that kernel has room for 2,696
// bytes of a process' vector registers, and on a processor with AMX the host refuses to set less
// than all, which are more: its first process dies. What is missing is of registers that nobody
// uses in there (AMX must be asked for), so that zeros stand for it.
#include <dlfcn.h>
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include <cstdarg>
#include <cstring>

namespace {

alignas(64) char whole[1 << 16];
size_t whole_size = 0;

// Initialised before main; the kernel's stacks are too small for a look-up.
const auto next = reinterpret_cast<decltype(&ptrace)>(dlsym(RTLD_NEXT, "ptrace"));

}  // namespace

extern "C" long ptrace(__ptrace_request request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  const auto pid = va_arg(arguments, pid_t);
  auto* const address = va_arg(arguments, void*);
  auto* data = va_arg(arguments, void*);
  va_end(arguments);
  iovec all{whole, whole_size};
  if (request == PTRACE_SETREGSET && address == reinterpret_cast<void*>(NT_X86_XSTATE)) {
    if (whole_size == 0) {
      all.iov_len = sizeof(whole);
      if (next(PTRACE_GETREGSET, pid, address, &all) != 0) return -1;
      whole_size = all.iov_len;
      memset(whole, 0, sizeof(whole));
    }
    const auto* given = static_cast<const iovec*>(data);
    if (given->iov_len < whole_size) {
      memcpy(whole, given->iov_base, given->iov_len);
      data = &all;
    }
  }
  return next(request, pid, address, data);
}
