// The two ends of the neighbour search around its matrix products: keep the nearest of a tile, a warp per row or
// column, and measure chosen pairs, a warp per pair. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "checks.h"
#include "cuda/distance.cuh"
#include "cuda/launch.cuh"
#include "cuda/nearest.cuh"

namespace mlt_ops {
namespace {

constexpr int kInFlight = 4;  // entries that a lane reads before it offers the first

struct Kept {
  float* distance;
  int32_t* index;
  int64_t width;
};

__global__ void merge_rows_kernel(Tile tile, int32_t first, Kept kept) {
  const int32_t lane = threadIdx.x % kLanes;
  for (int64_t r = first_of_warp(); r < tile.num_rows; r += warp_stride()) {
    WarpNearest nearest(kept.distance + r * kept.width, kept.index + r * kept.width, kept.width);
    for (int64_t begin = 0; begin < tile.num_cols; begin += kInFlight * kLanes) {
      float some[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int64_t c = begin + i * kLanes + lane;
        some[i] = c < tile.num_cols ? tile.bound(r, c) : INFINITY;
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i)
        nearest.offer(some[i], first + static_cast<int32_t>(begin) + i * kLanes + lane);
    }
  }
}

constexpr int kColumns = 32;                      // of a patch, a warp each
constexpr int kPatchRows = kInFlight * kColumns;  // each thread reads one entry in kColumns rows
constexpr int kColumnStride = kPatchRows + 1;     // odd, so that a row's entries go to 32 different banks
constexpr int kPatch = kColumns * kColumnStride;

// A block turns patches of a tile's columns in shared memory.
__global__ void __launch_bounds__(kColumns* kLanes) merge_columns_kernel(Tile tile, int32_t first, Kept kept) {
  __shared__ float patch[kPatch];
  const int32_t lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  for (int64_t strip = static_cast<int64_t>(blockIdx.x) * kColumns; strip < tile.num_cols;
       strip += static_cast<int64_t>(gridDim.x) * kColumns) {
    const int64_t own = strip + warp, read = strip + lane;
    WarpNearest nearest(kept.distance + own * kept.width, kept.index + own * kept.width,
                        own < tile.num_cols ? kept.width : 0);
    for (int64_t begin = 0; begin < tile.num_rows; begin += kPatchRows) {
      float some[kInFlight];  // all read before the first is stored, so that they are on their way together
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int64_t r = begin + i * kColumns + warp;
        some[i] = r < tile.num_rows && read < tile.num_cols ? tile.bound(r, read) : INFINITY;
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) patch[lane * kColumnStride + i * kColumns + warp] = some[i];
      __syncthreads();
      for (int r = lane; r < kPatchRows; r += kLanes) {
        nearest.offer(patch[warp * kColumnStride + r], first + static_cast<int32_t>(begin) + r);
      }
      __syncthreads();  // before the patch is written again
    }
  }
}

__global__ void pair_distance_kernel(const float* __restrict__ queries, const float* __restrict__ rows,
                                     const int32_t* __restrict__ query, const int32_t* __restrict__ row,
                                     int64_t num_pairs, int64_t dim, float* __restrict__ distance) {
  for (int64_t p = first_of_warp(); p < num_pairs; p += warp_stride()) {
    const float found = squared_distance(queries + query[p] * dim, rows + row[p] * dim, dim);
    if (threadIdx.x % kLanes == 0) distance[p] = found;
  }
}

}  // namespace

void merge_nearest_cuda(const Tensor& products, const Tensor& row_floors, const Tensor& col_floors, double alpha,
                        int64_t first, bool by_column, Tensor distance, Tensor index) {
  const Tile tile = checked_tile(products, row_floors, col_floors, alpha, by_column, distance, index);
  const torch::stable::accelerator::DeviceGuard guard(products.get_device_index());
  if (products.numel() == 0) return;
  cudaStream_t stream = current_stream(products);
  const Kept kept{distance.mutable_data_ptr<float>(), index.mutable_data_ptr<int32_t>(), distance.size(1)};
  const auto from = static_cast<int32_t>(first);
  if (by_column) {
    const int64_t strips = (tile.num_cols + kColumns - 1) / kColumns;
    merge_columns_kernel<<<num_blocks(strips), kColumns * kLanes, 0, stream>>>(tile, from, kept);
  } else {
    constexpr int kRows = kThreads / kLanes;
    const int64_t blocks = num_blocks((tile.num_rows + kRows - 1) / kRows);
    merge_rows_kernel<<<blocks, kThreads, 0, stream>>>(tile, from, kept);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

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

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CUDA, m) {
  m.impl("merge_nearest", TORCH_BOX(&merge_nearest_cuda));
  m.impl("pair_distance", TORCH_BOX(&pair_distance_cuda));
}

}  // namespace mlt_ops
