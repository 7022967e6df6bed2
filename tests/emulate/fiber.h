// A flow of control with a stack of its own. Switching is a jump: no system call, no thread of the operating system.
#pragma once

#include <setjmp.h>

#include <cstddef>
#include <cstdint>
#include <functional>

namespace emulate {

// Memory for the stacks of many fibers, each above a page that traps an overflow.
class Stacks {
 public:
  explicit Stacks(size_t count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;

  uint8_t* bottom(size_t i) const;
  bool contain(const void* address) const;
  static size_t usable_bytes();

 private:
  uint8_t* memory_;
  size_t bytes_;
};

// Runs `body` again and again, once each time that it is resumed after having returned; never destroyed while it runs.
class Fiber {
 public:
  Fiber(uint8_t* stack, const std::function<void()>& body);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void resume();  // by the scheduler; returns when the fiber yields
  void yield();   // by the fiber itself

 private:
  static void begin(unsigned high, unsigned low);
  void jump_to_begin();

  uint8_t* stack_;
  std::function<void()> body_;
  jmp_buf here_;
  bool started_ = false;
};

}  // namespace emulate
