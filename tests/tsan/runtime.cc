// What g++ 12's ThreadSanitizer needs to know of a program that makes children beside threads, and
// of Debian's gRPC, which is built without it. Linked into the shim that speaks gRPC and the tests
// that drive it, itself not instrumented.
#include <dlfcn.h>
#include <errno.h>
#include <grpc/grpc.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <new>

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_ignore_thread_begin();
void __tsan_ignore_thread_end();
void* __interceptor_malloc(size_t size);
void* __interceptor_calloc(size_t count, size_t size);
void* __interceptor_realloc(void* old, size_t size);
int __interceptor_posix_memalign(void** result, size_t alignment, size_t size);
void __interceptor_free(void* memory);
pid_t __interceptor_fork();
int __clone(int (*function)(void*), void* stack, int flags, void* argument, ...);
}

// A fork while another thread allocates would leave the child an allocator that is locked for ever:
// other than glibc, the sanitizer does not wait for that.
namespace {

std::atomic<int> g_allocating = 0;
std::atomic<bool> g_forking = false;
thread_local bool t_forks = false;

class Allocating {
 public:
  Allocating() {
    if (t_forks) return;
    while (true) {
      ++g_allocating;
      if (!g_forking) return;
      --g_allocating;
      while (g_forking) sched_yield();
    }
  }
  ~Allocating() {
    if (!t_forks) --g_allocating;
  }
};

}  // namespace

extern "C" pid_t fork() {
  while (g_forking.exchange(true)) sched_yield();
  t_forks = true;
  while (g_allocating > 0) sched_yield();
  pid_t pid = __interceptor_fork();
  // Somebody may just have been turning back.
  if (pid == 0) g_allocating = 0;
  t_forks = false;
  g_forking = false;
  return pid;
}

// What libraries without instrumentation do to their own memory says nothing: how they hand it from
// thread to thread is not to be seen either.
namespace {

extern "C" const char __executable_start[];
extern "C" const char etext[];

class From {
 public:
  explicit From(const void* caller)
      : library_(caller < static_cast<const void*>(__executable_start) ||
                 caller >= static_cast<const void*>(etext)) {
    if (library_) __tsan_ignore_thread_begin();
  }
  ~From() {
    if (library_) __tsan_ignore_thread_end();
  }

 private:
  const bool library_;
  const Allocating now_;
};

inline void* Allocate(size_t size, const void* caller) {
  From from(caller);
  return __interceptor_malloc(size);
}

inline void* AllocateAligned(size_t alignment, size_t size, const void* caller) {
  From from(caller);
  void* result = nullptr;
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  errno = __interceptor_posix_memalign(&result, alignment, size);
  return result;
}

inline void Free(void* memory, const void* caller) {
  if (memory == nullptr) return;
  From from(caller);
  __interceptor_free(memory);
}

}  // namespace

#define CALLER __builtin_return_address(0)

extern "C" void* malloc(size_t size) { return Allocate(size, CALLER); }

extern "C" void* calloc(size_t count, size_t size) {
  From from(CALLER);
  return __interceptor_calloc(count, size);
}

extern "C" void* realloc(void* old, size_t size) {
  From from(CALLER);
  return __interceptor_realloc(old, size);
}

extern "C" int posix_memalign(void** result, size_t alignment, size_t size) {
  From from(CALLER);
  return __interceptor_posix_memalign(result, alignment, size);
}

extern "C" void* aligned_alloc(size_t alignment, size_t size) {
  return AllocateAligned(alignment, size, CALLER);
}

extern "C" void free(void* memory) { Free(memory, CALLER); }

// The sanitizer ends a program for which there is no memory.
void* operator new(size_t size) { return Allocate(size, CALLER); }
void* operator new[](size_t size) { return Allocate(size, CALLER); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return Allocate(size, CALLER); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return Allocate(size, CALLER); }
void* operator new(size_t size, std::align_val_t alignment) {
  return AllocateAligned(static_cast<size_t>(alignment), size, CALLER);
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return AllocateAligned(static_cast<size_t>(alignment), size, CALLER);
}
void operator delete(void* memory) noexcept { Free(memory, CALLER); }
void operator delete[](void* memory) noexcept { Free(memory, CALLER); }
void operator delete(void* memory, size_t) noexcept { Free(memory, CALLER); }
void operator delete[](void* memory, size_t) noexcept { Free(memory, CALLER); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { Free(memory, CALLER); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { Free(memory, CALLER); }
void operator delete(void* memory, std::align_val_t) noexcept { Free(memory, CALLER); }
void operator delete[](void* memory, std::align_val_t) noexcept { Free(memory, CALLER); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { Free(memory, CALLER); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { Free(memory, CALLER); }

// The sanitizer takes every clone(2) for a fork. After one that runs in its parent's memory
// (runtime/spawn.cc) it would hold the parent's thread for the child, and look at it no more.
extern "C" int clone(int (*function)(void*), void* stack, int flags, void* argument, ...) {
  if ((flags & CLONE_VM) == 0) abort();
  va_list rest;
  va_start(rest, argument);
  auto* parent_tid = va_arg(rest, pid_t*);
  auto* tls = va_arg(rest, void*);
  auto* child_tid = va_arg(rest, pid_t*);
  va_end(rest);
  return __clone(function, stack, flags, argument, parent_tid, tls, child_tid);
}

// What happened before an operation of gRPC's was begun has happened before its completion is told.
// gRPC's C++ layer, whose templates are instrumented, is on this side of its core, too.
#define REAL(function) \
  static const auto real = reinterpret_cast<decltype(&function)>(dlsym(RTLD_NEXT, #function))

extern "C" grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* operations,
                                                 size_t count, void* tag, void* reserved) {
  REAL(grpc_call_start_batch);
  __tsan_release(tag);
  return real(call, operations, count, tag, reserved);
}

extern "C" grpc_call_error grpc_server_request_call(grpc_server* server, grpc_call** call,
                                                    grpc_call_details* details,
                                                    grpc_metadata_array* metadata,
                                                    grpc_completion_queue* calls,
                                                    grpc_completion_queue* queue, void* tag) {
  REAL(grpc_server_request_call);
  __tsan_release(tag);
  return real(server, call, details, metadata, calls, queue, tag);
}

extern "C" void grpc_server_shutdown_and_notify(grpc_server* server, grpc_completion_queue* queue,
                                                void* tag) {
  REAL(grpc_server_shutdown_and_notify);
  __tsan_release(tag);
  real(server, queue, tag);
}

extern "C" void grpc_channel_watch_connectivity_state(grpc_channel* channel,
                                                      grpc_connectivity_state last,
                                                      gpr_timespec deadline,
                                                      grpc_completion_queue* queue, void* tag) {
  REAL(grpc_channel_watch_connectivity_state);
  __tsan_release(tag);
  real(channel, last, deadline, queue, tag);
}

extern "C" grpc_event grpc_completion_queue_next(grpc_completion_queue* queue,
                                                 gpr_timespec deadline, void* reserved) {
  REAL(grpc_completion_queue_next);
  grpc_event event = real(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}
