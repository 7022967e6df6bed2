// Squared distance of two rows by one warp, in the order of addition of cpu/distance.h.
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "cuda/launch.cuh"

namespace mlt_ops {

// All lanes of the warp get it.
__device__ inline float squared_distance(const float* a, const float* b, int64_t dim) {
  float total = 0.f;
  for (int64_t d = threadIdx.x % kLanes; d < dim; d += kLanes) {
    const float difference = a[d] - b[d];
    total += difference * difference;
  }
  for (int half = kLanes / 2; half > 0; half /= 2) total += __shfl_xor_sync(kFullWarp, total, half);
  return total;
}

}  // namespace mlt_ops
