// Runs a kernel's threads on one CPU thread, in an order that a seeded random chooses, and fails where they would hang
// or disagree on a GPU. What kernels see of it is in cuda.h; free of PyTorch.
//
// Read from the environment at each launch:
//   EMULATE_SEED          of the order of blocks and threads, and of the garbage in fresh memory (default 0)
//   EMULATE_SHARED_BYTES  shared memory that a block may have, opted in (default 65536, the least of Turing and later)
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

namespace emulate {

using Site = std::source_location;  // where a kernel is launched, or its threads meet

struct Shape {
  int64_t grid, block;
  size_t shared;  // bytes of dynamic shared memory
};

// Runs all threads of all blocks to their end. Throws std::runtime_error that says who waits where for whom.
void run(const void* kernel, const Shape& shape, const std::function<void()>& thread, Site launched);

// By a thread of a running kernel:
void block_barrier(Site where);
enum class Exchange { shuffle, ballot };
// Meets the other lanes of `mask`. Shuffle: what the lane `source` gave; ballot: which lanes gave something but 0.
uint64_t exchange(Exchange kind, unsigned mask, uint64_t given, unsigned source, Site where);
void* shared_memory(size_t bytes, Site where);  // of the block: a variable is known by where it is declared
void* dynamic_shared_memory();
void pause();  // at each atomic: now and then another thread goes first

// By the host:
void allow_dynamic_shared(const void* kernel, int64_t bytes);
int64_t shared_limit();
void fill_with_garbage(void* memory, size_t bytes);

}  // namespace emulate
