// How many columns of a row come before a reference column: compared and counted, several at a time, instead of sorted.
// O(G R) time for R references in a row of G columns; 16 KiB per thread.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "checks.h"
#include "order.h"

namespace mlt_ops {
namespace {

constexpr int64_t kBlock = 4096;  // columns; their keys stay in a core's nearest cache while all references pass

struct Cols {
  const int32_t* col;
  int64_t size;
};

Cols cols_of_row(const int64_t* rowptr, const int32_t* col, int64_t row) {
  return {col + rowptr[row], rowptr[row + 1] - rowptr[row]};
}

int64_t count_below(const int32_t* key, int64_t size, int32_t bound) {
  int32_t count = 0;
  for (int64_t i = 0; i < size; ++i) count += key[i] < bound;
  return count;
}

void count_row(const float* distance, int64_t num_cols, Cols reference, Cols excluded, int64_t* count) {
  int32_t key[kBlock];
  std::fill_n(count, reference.size, 0);
  for (int64_t first = 0; first < num_cols; first += kBlock) {
    const int64_t size = std::min(kBlock, num_cols - first);
    for (int64_t i = 0; i < size; ++i) key[i] = order_key(distance[first + i]);
    for (int64_t r = 0; r < reference.size; ++r) {
      const int32_t own = order_key(distance[reference.col[r]]);
      const int64_t left = std::clamp<int64_t>(reference.col[r] - first, 0, size);  // where equal ones come before
      count[r] += count_below(key, left, own + 1) + count_below(key + left, size - left, own);
    }
  }
  for (int64_t r = 0; r < reference.size; ++r) {
    const int32_t own = order_key(distance[reference.col[r]]);
    for (int64_t e = 0; e < excluded.size; ++e) {
      const int32_t col = excluded.col[e];
      count[r] -= comes_before(order_key(distance[col]), col, own, reference.col[r]);
    }
  }
}

}  // namespace

Tensor count_closer_cpu(const Tensor& distance, const Tensor& rowptr, const Tensor& col, const Tensor& excluded_rowptr,
                        const Tensor& excluded_col) {
  check_count_closer_args(distance, rowptr, col, excluded_rowptr, excluded_col);
  const int64_t num_cols = distance.size(1);
  Tensor count = torch::stable::new_empty(rowptr, {col.size(0)});
  const float* distance_ptr = distance.const_data_ptr<float>();
  const int64_t *row_ptr = rowptr.const_data_ptr<int64_t>(), *out_ptr = excluded_rowptr.const_data_ptr<int64_t>();
  const int32_t *col_ptr = col.const_data_ptr<int32_t>(), *out_col_ptr = excluded_col.const_data_ptr<int32_t>();
  int64_t* count_ptr = count.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, distance.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      count_row(distance_ptr + row * num_cols, num_cols, cols_of_row(row_ptr, col_ptr, row),
                cols_of_row(out_ptr, out_col_ptr, row), count_ptr + row_ptr[row]);
    }
  });
  return count;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) { m.impl("count_closer", TORCH_BOX(&count_closer_cpu)); }

}  // namespace mlt_ops
