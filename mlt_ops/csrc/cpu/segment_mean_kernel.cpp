// Mean of the rows of each segment. A task is one segment x kTile columns: it adds the rows in the order given, in
// double, so that the result does not depend on the number of threads and equals the CUDA kernel's bit for bit.
// O(M * D) time; kTile doubles of extra memory per thread.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "checks.h"

namespace mlt_ops {
namespace {

constexpr int64_t kTile = 256;

void mean_of_tile(const float* features, int64_t dim, const int64_t* rows, int64_t num_rows, int64_t begin, int64_t end,
                  float* mean) {
  double total[kTile] = {};
  for (int64_t i = 0; i < num_rows; ++i) {
    const float* row = features + rows[i] * dim;
    for (int64_t d = begin; d < end; ++d) total[d - begin] += row[d];
  }
  for (int64_t d = begin; d < end; ++d) mean[d] = num_rows > 0 ? static_cast<float>(total[d - begin] / num_rows) : 0.f;
}

}  // namespace

Tensor segment_mean_cpu(const Tensor& features, const Tensor& order, const Tensor& rowptr) {
  check_segment_mean_args(features, order, rowptr);
  const int64_t num_segments = rowptr.size(0) - 1, dim = features.size(1);
  const Tensor x = torch::stable::contiguous(features);
  const Tensor rows = torch::stable::contiguous(order);
  const Tensor bounds = torch::stable::contiguous(rowptr);
  Tensor mean = torch::stable::new_empty(features, {num_segments, dim});

  const float* x_ptr = x.const_data_ptr<float>();
  const int64_t* row_ptr = rows.const_data_ptr<int64_t>();
  const int64_t* bound_ptr = bounds.const_data_ptr<int64_t>();
  float* mean_ptr = mean.mutable_data_ptr<float>();
  const int64_t num_tiles = (dim + kTile - 1) / kTile;
  torch::stable::parallel_for(0, num_segments * num_tiles, 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t segment = task / num_tiles, begin = task % num_tiles * kTile;
      mean_of_tile(x_ptr, dim, row_ptr + bound_ptr[segment], bound_ptr[segment + 1] - bound_ptr[segment], begin,
                   std::min(begin + kTile, dim), mean_ptr + segment * dim);
    }
  });
  return mean;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) { m.impl("segment_mean", TORCH_BOX(&segment_mean_cpu)); }

}  // namespace mlt_ops
