#include "fiber.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulate {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 256 << 10;  // its frames are larger

// The address sanitizer wants to know which stack is in use.
void leave(const void* bottom, size_t bytes) { __sanitizer_start_switch_fiber(nullptr, bottom, bytes); }
void arrive(const void** bottom, size_t* bytes) { __sanitizer_finish_switch_fiber(nullptr, bottom, bytes); }
void forget(const void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
constexpr size_t kStackBytes = 64 << 10;

void leave(const void*, size_t) {}
void arrive(const void**, size_t*) {}
void forget(const void*, size_t) {}
#endif

thread_local jmp_buf scheduler;  // where the fiber that runs shall return to
thread_local const void* scheduler_stack = nullptr;
thread_local size_t scheduler_stack_bytes = 0;

size_t page() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

Stacks::Stacks(size_t count) : bytes_(count * (kStackBytes + page())) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<uint8_t*>(memory);
  for (size_t i = 0; i < count; ++i) mprotect(bottom(i) - page(), page(), PROT_NONE);
}

Stacks::~Stacks() {
  forget(memory_, bytes_);
  munmap(memory_, bytes_);
}

uint8_t* Stacks::bottom(size_t i) const { return memory_ + i * (kStackBytes + page()) + page(); }

bool Stacks::contain(const void* address) const {
  const auto* byte = static_cast<const uint8_t*>(address);
  return memory_ <= byte && byte < memory_ + bytes_;
}

size_t Stacks::usable_bytes() { return kStackBytes; }

Fiber::Fiber(uint8_t* stack, const std::function<void()>& body) : stack_(stack), body_(body) {
  forget(stack, kStackBytes);
}

void Fiber::begin(unsigned high, unsigned low) {
  auto* self = reinterpret_cast<Fiber*>(static_cast<uintptr_t>(high) << 32 | low);
  arrive(&scheduler_stack, &scheduler_stack_bytes);
  while (true) {
    self->body_();
    self->yield();
  }
}

// Without the sanitizer's marks around its variable, which would stay on a stack that is left for good.
__attribute__((no_sanitize("address"), noinline)) void Fiber::jump_to_begin() {
  ucontext_t beginning;
  getcontext(&beginning);
  beginning.uc_stack.ss_sp = stack_;
  // Tops of stacks at different places within a page do not fight for the same lines of a cache.
  beginning.uc_stack.ss_size = kStackBytes - reinterpret_cast<uintptr_t>(stack_) / (kStackBytes + page()) * 448 % 4096;
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&beginning, reinterpret_cast<void (*)()>(&Fiber::begin), 2, static_cast<unsigned>(self >> 32),
              static_cast<unsigned>(self));
  setcontext(&beginning);
}

void Fiber::resume() {
  leave(stack_, kStackBytes);
  if (_setjmp(scheduler) == 0) {
    if (started_) _longjmp(here_, 1);
    started_ = true;
    jump_to_begin();
  }
  arrive(nullptr, nullptr);
}

void Fiber::yield() {
  leave(scheduler_stack, scheduler_stack_bytes);
  if (_setjmp(here_) == 0) _longjmp(scheduler, 1);
  arrive(&scheduler_stack, &scheduler_stack_bytes);
}

}  // namespace emulate
