// Squared distance of two rows: the order of addition is part of the result (32 partial sums, then halves), and the
// CUDA kernels and the fallback in Python keep to it.
#pragma once

#include <cstdint>

#include "arithmetic.h"

namespace mlt_ops {

inline float squared_distance(const float* a, const float* b, int64_t dim) {
  float lane[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      const float difference = a[d + i] - b[d + i];
      lane[i] += difference * difference;
    }
  }
  for (int i = 0; d + i < dim; ++i) {
    const float difference = a[d + i] - b[d + i];
    lane[i] += difference * difference;
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

}  // namespace mlt_ops
