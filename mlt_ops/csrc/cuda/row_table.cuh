// A hash table of one row's columns and their sums, for the threads of one block, in shared or global memory.
#pragma once

#include <cstdint>

namespace mlt_ops {

constexpr int32_t kEmpty = -1;

inline __host__ __device__ int64_t table_capacity(int64_t keys) {
  int64_t capacity = 64;
  while (capacity < 2 * keys) capacity *= 2;  // at most half full: probes stay short
  return capacity;
}

__device__ inline uint32_t first_slot(int32_t key, uint32_t capacity) {
  return (static_cast<uint32_t>(key) * 2654435769u >> 7) & (capacity - 1);  // Knuth's multiplicative hash
}

// The slot of `key`, which is inserted if it is new. The caller knows that there is room.
__device__ inline uint32_t insert(int32_t* keys, uint32_t capacity, int32_t key, int32_t* used) {
  for (uint32_t slot = first_slot(key, capacity);; slot = (slot + 1) & (capacity - 1)) {
    const int32_t there = atomicCAS(&keys[slot], kEmpty, key);
    if (there == kEmpty) atomicAdd(used, 1);
    if (there == kEmpty || there == key) return slot;
  }
}

__device__ inline bool contains(const int32_t* keys, uint32_t capacity, int32_t key) {
  for (uint32_t slot = first_slot(key, capacity);; slot = (slot + 1) & (capacity - 1)) {
    if (keys[slot] == key) return true;
    if (keys[slot] == kEmpty) return false;
  }
}

}  // namespace mlt_ops
