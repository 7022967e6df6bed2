// The nearest entries of a row or column of a tile, kept over many tiles by one warp, as cpu/nearest.h does with a
// heap: almost no entry is kept for a while, so what counts is how fast the others are left out.
#pragma once

#include <cstdint>

#include "cuda/launch.cuh"
#include "order.h"

namespace mlt_ops {

// `width` values and where they come from, in any order. Lane l alone touches the places l, l + 32, ...
class WarpNearest {
 public:
  __device__ WarpNearest(float* values, int32_t* origin, int64_t width)
      : values_(values), origin_(origin), width_(static_cast<int32_t>(width)) {
    find_largest();
  }

  // Each lane offers a value; all lanes must call. One below the largest kept replaces it.
  __device__ void offer(float value, int32_t from) {
    const int32_t lane = threadIdx.x % kLanes;
    int32_t key = order_key(value);
    while (const unsigned nearer = __ballot_sync(kFullWarp, key < largest_)) {
      const int source = __ffs(static_cast<int>(nearer)) - 1;
      const float new_value = __shfl_sync(kFullWarp, value, source);
      const int32_t new_from = __shfl_sync(kFullWarp, from, source);
      if (place_ % kLanes == lane) {
        values_[place_] = new_value;
        origin_[place_] = new_from;
      }
      if (lane == source) key = INT32_MAX;  // offered
      find_largest();
    }
  }

 private:
  // All lanes learn the place of the largest value, the last of several.
  __device__ void find_largest() {
    const int32_t lane = threadIdx.x % kLanes;
    largest_ = INT32_MIN;
    place_ = -1;
    for (int32_t place = lane; place < width_; place += kLanes) take_larger(order_key(values_[place]), place);
    for (int half = kLanes / 2; half > 0; half /= 2) {
      const int32_t key = __shfl_xor_sync(kFullWarp, largest_, half);
      take_larger(key, __shfl_xor_sync(kFullWarp, place_, half));
    }
  }

  __device__ void take_larger(int32_t key, int32_t place) {
    if (!comes_before(largest_, place_, key, place)) return;
    largest_ = key;
    place_ = place;
  }

  float* values_;
  int32_t* origin_;
  int32_t width_, largest_, place_;
};

}  // namespace mlt_ops
