// How many columns of a row come before a reference column, a block per row: each thread counts in its own columns for
// kGroup references at a time, then the block adds up. Integers, so the order of addition does not matter and the
// counts equal the CPU's. O(G R) time for R references in a row of G columns, no extra memory. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <climits>

#include "checks.h"
#include "cuda/launch.cuh"
#include "order.h"

namespace mlt_ops {
namespace {

constexpr int kGroup = 8;  // references whose counts a thread keeps in registers

struct Cols {
  const int64_t* rowptr;
  const int32_t* col;
};

struct Group {
  int32_t key[kGroup], col[kGroup], total[kGroup];
};

// Adds `weight` to the count of each reference that the column comes before.
__device__ void tally(const float* values, int32_t col, const Group& group, int32_t weight, int32_t* mine) {
  const int32_t key = order_key(values[col]);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) mine[i] += comes_before(key, col, group.key[i], group.col[i]) ? weight : 0;
}

__global__ void count_closer_kernel(const float* __restrict__ distance, int64_t num_rows, int64_t num_cols,
                                    Cols reference, Cols excluded, int64_t* __restrict__ count) {
  __shared__ Group group;
  for (int64_t row = blockIdx.x; row < num_rows; row += gridDim.x) {
    const float* values = distance + row * num_cols;
    const int64_t end = reference.rowptr[row + 1];
    for (int64_t first = reference.rowptr[row]; first < end; first += kGroup) {
      const int64_t own = first + threadIdx.x;  // the reference that this thread fetches and stores
      if (threadIdx.x < kGroup) {
        group.col[threadIdx.x] = own < end ? reference.col[own] : 0;
        group.key[threadIdx.x] = own < end ? order_key(values[reference.col[own]]) : INT_MIN;
        group.total[threadIdx.x] = 0;
      }
      __syncthreads();
      int32_t mine[kGroup] = {};
      for (int64_t c = threadIdx.x; c < num_cols; c += blockDim.x) {
        tally(values, static_cast<int32_t>(c), group, 1, mine);
      }
      for (int64_t e = excluded.rowptr[row] + threadIdx.x; e < excluded.rowptr[row + 1]; e += blockDim.x) {
        tally(values, excluded.col[e], group, -1, mine);
      }
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        for (int half = kLanes / 2; half > 0; half /= 2) mine[i] += __shfl_xor_sync(kFullWarp, mine[i], half);
        if (threadIdx.x % kLanes == 0) atomicAdd(&group.total[i], mine[i]);
      }
      __syncthreads();
      if (threadIdx.x < kGroup && own < end) count[own] = group.total[threadIdx.x];
      __syncthreads();
    }
  }
}

}  // namespace

Tensor count_closer_cuda(const Tensor& distance, const Tensor& rowptr, const Tensor& col, const Tensor& excluded_rowptr,
                         const Tensor& excluded_col) {
  check_count_closer_args(distance, rowptr, col, excluded_rowptr, excluded_col);
  const torch::stable::accelerator::DeviceGuard guard(distance.get_device_index());
  const int64_t num_rows = distance.size(0);
  Tensor count = torch::stable::new_empty(rowptr, {col.size(0)});
  if (count.numel() == 0) return count;
  count_closer_kernel<<<num_blocks(num_rows), kThreads, 0, current_stream(distance)>>>(
      distance.const_data_ptr<float>(), num_rows, distance.size(1),
      {rowptr.const_data_ptr<int64_t>(), col.const_data_ptr<int32_t>()},
      {excluded_rowptr.const_data_ptr<int64_t>(), excluded_col.const_data_ptr<int32_t>()},
      count.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return count;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CUDA, m) { m.impl("count_closer", TORCH_BOX(&count_closer_cuda)); }

}  // namespace mlt_ops
