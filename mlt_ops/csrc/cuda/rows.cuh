// From entries per row to tensors, for operators that count in one pass and fill in a second.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <cub/device/device_scan.cuh>

#include <tuple>

#include "checks.h"
#include "cuda/launch.cuh"

namespace mlt_ops {

using RowsOfTensors = std::tuple<Tensor, Tensor, Tensor>;

constexpr int kRowThreads = 128;  // one block works on one row

inline Tensor new_tensor(const Tensor& like, int64_t size, ScalarType type) {
  return torch::stable::new_empty(like, {size}, type);
}

// Offsets [N + 1] of the rows with `count` entries each.
inline Tensor offsets_of(const Tensor& count, cudaStream_t stream) {
  const int64_t num_rows = count.size(0);
  Tensor offset = torch::stable::new_zeros(count, {num_rows + 1});
  size_t bytes = 0;
  const int64_t* in = count.const_data_ptr<int64_t>();
  int64_t* out = offset.mutable_data_ptr<int64_t>() + 1;
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(nullptr, bytes, in, out, num_rows, stream));
  const Tensor workspace = new_tensor(count, static_cast<int64_t>(bytes), ScalarType::Byte);
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(workspace.mutable_data_ptr(), bytes, in, out, num_rows, stream));
  return offset;
}

inline int64_t last_element(const Tensor& offset, cudaStream_t stream) {
  int64_t last = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&last, offset.const_data_ptr<int64_t>() + offset.size(0) - 1, sizeof last,
                                 cudaMemcpyDeviceToHost, stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(stream));
  return last;
}

// Copies n entries to where their columns ascend; every thread of the block places some of them.
__device__ inline void place_by_col(const int32_t* col, const float* value, int64_t n, int32_t* sorted_col,
                                    float* sorted_value) {
  for (int64_t e = threadIdx.x; e < n; e += blockDim.x) {
    int64_t rank = 0;
    for (int64_t other = 0; other < n; ++other) rank += col[other] < col[e];
    sorted_col[rank] = col[e];
    sorted_value[rank] = value[e];
  }
}

}  // namespace mlt_ops
