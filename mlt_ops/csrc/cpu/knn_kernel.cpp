// The two ends of the neighbour search around its matrix products: keep the nearest of a tile, measure chosen pairs.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "checks.h"
#include "cpu/distance.h"
#include "cpu/nearest.h"

namespace mlt_ops {

// O(R S) time for a tile [R, S], plus a heap's O(log C) for each entry that is kept for a while.
void merge_nearest_cpu(const Tensor& products, const Tensor& row_floors, const Tensor& col_floors, double alpha,
                       int64_t first, bool by_column, Tensor distance, Tensor index) {
  const Tile tile = checked_tile(products, row_floors, col_floors, alpha, by_column, distance, index);
  const int64_t width = distance.size(1);
  float* distance_ptr = distance.mutable_data_ptr<float>();
  int32_t* index_ptr = index.mutable_data_ptr<int32_t>();
  const auto from = static_cast<int32_t>(first);
  const auto heap_of = [&](int64_t i) { return NearestHeap{distance_ptr + i * width, index_ptr + i * width, width}; };
  if (!by_column) {
    torch::stable::parallel_for(0, tile.num_rows, kStrip, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) merge_row(tile, r, from, heap_of(r));
    });
    return;
  }
  torch::stable::parallel_for(0, (tile.num_cols + kStrip - 1) / kStrip, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin * kStrip; c < std::min(end * kStrip, tile.num_cols); c += kStrip) {
      const int64_t count = std::min(kStrip, tile.num_cols - c);
      NearestHeap heaps[kStrip];
      for (int64_t i = 0; i < count; ++i) heaps[i] = heap_of(c + i);
      merge_columns(tile, c, count, from, heaps);
    }
  });
}

// O(P D) time, no memory beside the result.
Tensor pair_distance_cpu(const Tensor& queries, const Tensor& rows, const Tensor& query, const Tensor& row) {
  check_pair_distance_args(queries, rows, query, row);
  const int64_t num_pairs = query.size(0), dim = rows.size(1);
  Tensor distance = torch::stable::new_empty(queries, {num_pairs});
  const float *query_rows = queries.const_data_ptr<float>(), *row_rows = rows.const_data_ptr<float>();
  const int32_t *query_ptr = query.const_data_ptr<int32_t>(), *row_ptr = row.const_data_ptr<int32_t>();
  float* distance_ptr = distance.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, num_pairs, 64, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      distance_ptr[p] = squared_distance(query_rows + query_ptr[p] * dim, row_rows + row_ptr[p] * dim, dim);
    }
  });
  return distance;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) {
  m.impl("merge_nearest", TORCH_BOX(&merge_nearest_cpu));
  m.impl("pair_distance", TORCH_BOX(&pair_distance_cpu));
}

}  // namespace mlt_ops
