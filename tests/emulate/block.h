// The threads of a block, what each of them waits for, and the block's shared memory.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace emulate {

constexpr unsigned kWarpSize = 32;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u) {}

  uint64_t operator()() {  // xorshift*
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }
  unsigned below(size_t bound) { return static_cast<unsigned>(((*this)() >> 32) * bound >> 32); }
  bool one_in(unsigned times) { return below(times) == 0; }

 private:
  uint64_t state_;
};

enum class State { running, at_barrier, exchanging, finished, failed };

struct Thread {
  std::optional<Fiber> fiber;
  struct Block* block;
  unsigned index;
  State state;
  Site where;  // it waits
  Exchange kind;
  unsigned mask, source;
  uint64_t given, received;

  unsigned lane() const { return index % kWarpSize; }
};

struct Warp {
  std::vector<Thread*> lanes;
  uint32_t ready = 0;    // lanes that may run
  uint32_t waiting = 0;  // lanes in an exchange
  uint32_t live = 0;     // lanes that have not returned
};

// Shared memory of one block: variables in the order in which they are reached, a gap that nobody may touch after each.
class SharedMemory {
 public:
  static constexpr size_t kBytes = 512 << 10;

  SharedMemory();
  ~SharedMemory();
  void renew(uint8_t garbage, size_t dynamic_bytes);  // for the next block
  void* variable(size_t bytes, Site where);
  void* dynamic() const { return dynamic_; }
  size_t declared_bytes() const { return declared_; }
  bool contains(const void* address) const;

 private:
  struct Variable {
    unsigned line, column;
    void* address;
  };
  void* take(size_t bytes);

  std::unique_ptr<uint8_t[]> memory_;
  std::vector<Variable> variables_;
  void* dynamic_ = nullptr;
  size_t used_ = 0, declared_ = 0;
  uint8_t garbage_ = 1;
};

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  SharedMemory shared;
  unsigned index = 0;     // blockIdx
  unsigned live = 0;      // threads that have not returned
  unsigned waiting = 0;   // of these, at a barrier
  unsigned barriers = 0;  // passed so far
};

// The thread that runs now; null outside of kernels.
Thread* current();
bool on_a_stack(const void* address);
[[noreturn]] void fail(const std::string& what);  // ends the kernel that the current thread belongs to

void begin_watching();  // memory.cpp: a kernel begins, and nobody has touched anything
void on_atomic(const void* address, const void* code);

}  // namespace emulate
