// The arithmetic that CPU and CUDA kernels share, bit for bit: additions in one fixed order, and an exponential of our
// own, because the libraries' differ in the last bit. Both compilers must not fuse multiply-add here (setup.py).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define MLT_OPS_SHARED __host__ __device__ inline
#else
#define MLT_OPS_SHARED inline
#endif

namespace mlt_ops {

constexpr int kLanes = 32;  // partial sums of a squared distance: a warp's threads, a few vector registers

// e^x for x <= 0, within 2 units in the last place; 0 below e^-87, the smallest normal number.
// Range reduction and polynomial of Cephes' expf (Moshier, 1989).
MLT_OPS_SHARED float exp_nonpositive(float x) {
  if (x < -87.f) return 0.f;
  const float n = floorf(x * 1.44269504f + 0.5f);
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  memcpy(&power, &bits, sizeof power);
  return y * power;
}

// Jaccard distance of two rows that each sum to 1, from the sum of their smaller entries.
MLT_OPS_SHARED float jaccard_of(float overlap) {
  const float distance = 1.f - overlap / (2.f - overlap);
  return distance > 0.f ? distance : 0.f;
}

}  // namespace mlt_ops
