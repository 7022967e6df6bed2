// Sparse matrices by columns, and whole symmetric ones from their lower triangles.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "checks.h"
#include "cpu/launch.h"
#include "cpu/mirror.h"

namespace mlt_ops {

// Puts the rows begin..end of a matrix into its columns: a counting sort, of which `next` holds the next free place of
// each column. A thread fills its own range of columns, so rows stay in ascending order at any number of threads.
void scatter_columns_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, int64_t begin, int64_t end,
                         Tensor next, Tensor row, Tensor row_value) {
  check_scatter_columns_args(rowptr, col, value, begin, end, next, row, row_value);
  const Csr rows = csr_of(rowptr, col, value);
  int64_t* next_ptr = next.mutable_data_ptr<int64_t>();
  int32_t* row_ptr = row.mutable_data_ptr<int32_t>();
  float* value_ptr = row_value.mutable_data_ptr<float>();
  const int64_t num_cols = next.size(0), num_ranges = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, num_ranges, 1, [&](int64_t first, int64_t last) {
    const auto low = static_cast<int32_t>(num_cols * first / num_ranges);
    const auto high = static_cast<int32_t>(num_cols * last / num_ranges);
    for (int64_t i = begin; i < end; ++i) {
      const int32_t* row_end = rows.col + rows.rowptr[i + 1];
      for (const int32_t* c = std::lower_bound(rows.col + rows.rowptr[i], row_end, low); c < row_end && *c < high;
           ++c) {
        const int64_t place = next_ptr[*c]++;
        row_ptr[place] = static_cast<int32_t>(i);
        value_ptr[place] = rows.value[c - rows.col];
      }
    }
  });
}

RowsOfTensors mirror_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& colptr,
                         const Tensor& row, const Tensor& row_value, const Tensor& order, const Tensor& place,
                         int64_t begin, int64_t end) {
  check_mirror_args(rowptr, col, value, colptr, row, row_value, order, place, begin, end);
  const Csr lower = csr_of(rowptr, col, value), columns = csr_of(colptr, row, row_value);
  const int32_t *order_ptr = order.const_data_ptr<int32_t>(), *place_ptr = place.const_data_ptr<int32_t>();
  return rows_to_tensors(value, begin, end, [&] { return MirrorWorker(lower, columns, order_ptr, place_ptr); });
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) {
  m.impl("scatter_columns", TORCH_BOX(&scatter_columns_cpu));
  m.impl("mirror", TORCH_BOX(&mirror_cpu));
}

}  // namespace mlt_ops
