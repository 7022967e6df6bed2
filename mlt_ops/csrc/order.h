// The order of distances that CPU and CUDA kernels share: by value, then by column. NaN comes last, as in a sort.
#pragma once

#include <cstdint>
#include <cstring>

#include "arithmetic.h"

namespace mlt_ops {

constexpr int32_t kInfinityBits = 0x7f800000;

// Integers in the order of the values: -0 equals 0, and NaN, of either sign, is the one above infinity.
MLT_OPS_SHARED int32_t order_key(float value) {
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  const int32_t magnitude = bits & 0x7fffffff;
  const int32_t key = bits < 0 ? -magnitude : magnitude;
  return magnitude > kInfinityBits ? kInfinityBits + 1 : key;
}

MLT_OPS_SHARED bool comes_before(int32_t key, int32_t col, int32_t other_key, int32_t other_col) {
  return key < other_key || (key == other_key && col < other_col);
}

}  // namespace mlt_ops
