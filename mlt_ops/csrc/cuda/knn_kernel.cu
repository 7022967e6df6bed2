// Measures the pairs that the neighbour search has chosen, a warp per pair. What is near is chosen by torch.topk here,
// so merge_nearest has no CUDA kernel. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "checks.h"
#include "cuda/distance.cuh"
#include "cuda/launch.cuh"

namespace mlt_ops {
namespace {

__global__ void pair_distance_kernel(const float* __restrict__ queries, const float* __restrict__ rows,
                                     const int32_t* __restrict__ query, const int32_t* __restrict__ row,
                                     int64_t num_pairs, int64_t dim, float* __restrict__ distance) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x / kLanes;
  for (int64_t p = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / kLanes; p < num_pairs; p += stride) {
    const float found = squared_distance(queries + query[p] * dim, rows + row[p] * dim, dim);
    if (threadIdx.x % kLanes == 0) distance[p] = found;
  }
}

}  // namespace

Tensor pair_distance_cuda(const Tensor& queries, const Tensor& rows, const Tensor& query, const Tensor& row) {
  check_pair_distance_args(queries, rows, query, row);
  const torch::stable::accelerator::DeviceGuard guard(queries.get_device_index());
  const int64_t num_pairs = query.size(0);
  Tensor distance = torch::stable::new_empty(queries, {num_pairs});
  if (num_pairs == 0) return distance;
  constexpr int kPairs = kThreads / kLanes;
  pair_distance_kernel<<<num_blocks((num_pairs + kPairs - 1) / kPairs), kThreads, 0, current_stream(queries)>>>(
      queries.const_data_ptr<float>(), rows.const_data_ptr<float>(), query.const_data_ptr<int32_t>(),
      row.const_data_ptr<int32_t>(), num_pairs, rows.size(1), distance.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return distance;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CUDA, m) { m.impl("pair_distance", TORCH_BOX(&pair_distance_cuda)); }

}  // namespace mlt_ops
