// The part of CUDA that the kernels use, for a C++ compiler. rewrite.py turns launches and __shared__ into calls.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "emulator.h"

#define __global__
#define __launch_bounds__(threads)
#define __device__
#define __host__

struct EmulatedIndex {
  unsigned x;  // grids and blocks have one dimension here
};
extern EmulatedIndex threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return bits == 0 ? 0 : std::countr_zero(static_cast<unsigned>(bits)) + 1; }

// Integers only: a float sum would depend on the order of execution.
int32_t atomicAdd(int32_t* address, int32_t value);
int32_t atomicCAS(int32_t* address, int32_t expected, int32_t desired);

inline void __syncthreads(emulate::Site where = emulate::Site::current()) { emulate::block_barrier(where); }

inline unsigned __ballot_sync(unsigned mask, bool vote, emulate::Site where = emulate::Site::current()) {
  return static_cast<unsigned>(emulate::exchange(emulate::Exchange::ballot, mask, vote, 0, where));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, emulate::Site where = emulate::Site::current()) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = emulate::exchange(emulate::Exchange::shuffle, mask, bits, static_cast<unsigned>(source) % 32, where);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, emulate::Site where = emulate::Site::current()) {
  return __shfl_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ lanes, where);
}

using cudaStream_t = struct EmulatedStream*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = static_cast<int>(emulate::shared_limit());
  return cudaSuccess;
}
template <class... Args>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Args...), cudaFuncAttribute, int bytes) {
  emulate::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), bytes);
  return cudaSuccess;
}

namespace emulate {

template <class... Args>
struct Launch {
  void (*kernel)(Args...);
  Shape shape;
  Site where;

  void operator()(Args... args) const {
    run(reinterpret_cast<const void*>(kernel), shape, [&] { kernel(args...); }, where);
  }
};

// kernel<<<grid, block, shared, stream>>>(args) is launch(kernel, grid, block, shared, stream)(args).
template <class... Args>
Launch<Args...> launch(void (*kernel)(Args...), int64_t grid, int64_t block, size_t shared, cudaStream_t,
                       Site where = Site::current()) {
  return {kernel, {grid, block, shared}, where};
}

// __shared__ T name is auto& name = shared<T>().
template <class T>
T& shared(Site where = Site::current()) {
  return *static_cast<T*>(shared_memory(sizeof(T), where));
}

}  // namespace emulate

namespace cub {

struct DeviceScan {
  template <class T>
  static cudaError_t InclusiveSum(void* workspace, size_t& bytes, const T* in, T* out, int64_t size, cudaStream_t) {
    if (workspace == nullptr) {
      bytes = 1024;
      return cudaSuccess;
    }
    emulate::fill_with_garbage(workspace, bytes);
    std::partial_sum(in, in + size, out);
    return cudaSuccess;
  }
};

}  // namespace cub
