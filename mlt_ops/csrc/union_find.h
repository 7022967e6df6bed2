// Union-find whose root is the smallest member of the set: the labelling rule of DBSCAN in one place, CPU and CUDA.
#pragma once

#include <cstdint>

#include "arithmetic.h"

namespace mlt_ops {

// The root of i; shortens the path on the way. Safe while other threads join sets: what it writes was an ancestor of i,
// which it remains, and ancestors are smaller.
MLT_OPS_SHARED int32_t find_root(volatile int32_t* parent, int32_t i) {
  int32_t up = parent[i];
  while (up != i) {
    const int32_t next = parent[up];
    if (next != up) parent[i] = next;
    i = up;
    up = next;
  }
  return i;
}

// The root of i; writes nothing. For the pass that stores roots: there a shortened path could overwrite one.
MLT_OPS_SHARED int32_t root_of(const volatile int32_t* parent, int32_t i) {
  for (int32_t up = parent[i]; up != i; up = parent[i]) i = up;
  return i;
}

}  // namespace mlt_ops
