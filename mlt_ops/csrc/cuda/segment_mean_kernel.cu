// Mean of the rows of each segment. A block takes one segment x kThreads columns and a thread one column: it adds the
// rows in the order given, in double, without atomics, so that the result equals the CPU kernel's bit for bit.
// Neighbouring threads read neighbouring columns. O(M * D) time, no extra memory. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "checks.h"
#include "cuda/launch.cuh"

namespace mlt_ops {
namespace {

__global__ void segment_mean_kernel(const float* __restrict__ features, const int64_t* __restrict__ rows,
                                    const int64_t* __restrict__ bounds, int64_t num_segments, int64_t dim,
                                    int64_t num_tiles, float* __restrict__ mean) {
  for (int64_t task = blockIdx.x; task < num_segments * num_tiles; task += gridDim.x) {
    const int64_t segment = task / num_tiles, column = task % num_tiles * kThreads + threadIdx.x;
    if (column >= dim) continue;
    const int64_t begin = bounds[segment], end = bounds[segment + 1];
    double total = 0.0;
    for (int64_t i = begin; i < end; ++i) total += features[rows[i] * dim + column];
    mean[segment * dim + column] = end > begin ? static_cast<float>(total / (end - begin)) : 0.f;
  }
}

}  // namespace

Tensor segment_mean_cuda(const Tensor& features, const Tensor& order, const Tensor& rowptr) {
  check_segment_mean_args(features, order, rowptr);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  const int64_t num_segments = rowptr.size(0) - 1, dim = features.size(1);
  Tensor mean = torch::stable::new_empty(features, {num_segments, dim});
  if (mean.numel() == 0) return mean;

  const Tensor x = torch::stable::contiguous(features);
  const Tensor rows = torch::stable::contiguous(order);
  const Tensor bounds = torch::stable::contiguous(rowptr);
  const int64_t num_tiles = (dim + kThreads - 1) / kThreads;
  segment_mean_kernel<<<num_blocks(num_segments * num_tiles), kThreads, 0, current_stream(features)>>>(
      x.const_data_ptr<float>(), rows.const_data_ptr<int64_t>(), bounds.const_data_ptr<int64_t>(), num_segments, dim,
      num_tiles, mean.mutable_data_ptr<float>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return mean;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CUDA, m) { m.impl("segment_mean", TORCH_BOX(&segment_mean_cuda)); }

}  // namespace mlt_ops
