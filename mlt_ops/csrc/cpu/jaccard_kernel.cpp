// Query expansion and sparse Jaccard distances. With c entries per column, a row of n entries costs at most O(n c), two
// floats per row of working memory in each thread.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "checks.h"
#include "cpu/jaccard.h"
#include "cpu/launch.h"

namespace mlt_ops {

RowsOfTensors expand_query_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& index,
                               int64_t num_cols, int64_t k2, const Tensor& which) {
  check_expand_query_args(rowptr, col, value, index, k2, which);
  check_which("expand_query", which, index.size(0));
  const Csr rows = csr_of(rowptr, col, value);
  const int32_t* index_ptr = index.const_data_ptr<int32_t>();
  return rows_to_tensors(value, which, [&] { return ExpandWorker(rows, index_ptr, index.size(1), k2, num_cols); });
}

RowsOfTensors jaccard_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& colptr,
                          const Tensor& row, const Tensor& row_value, double max_distance, const Tensor& which) {
  check_jaccard_args(rowptr, col, value, colptr, row, row_value, which);
  check_which("jaccard", which, rowptr.size(0) - 1);
  const Csr rows = csr_of(rowptr, col, value), columns = csr_of(colptr, row, row_value);
  return rows_to_tensors(value, which, [&] {
    return JaccardWorker(rows, columns, rowptr.size(0) - 1, colptr.size(0) - 1, static_cast<float>(max_distance));
  });
}

// Whole rows at a time, which a scatter of entries would do much more slowly.
void place_rows_cpu(const Tensor& first, const Tensor& count, const Tensor& col, const Tensor& value, Tensor all_cols,
                    Tensor all_values) {
  check_place_rows_args(first, count, col, value, all_cols, all_values);
  const int64_t *first_ptr = first.const_data_ptr<int64_t>(), *count_ptr = count.const_data_ptr<int64_t>();
  const int32_t* col_ptr = col.const_data_ptr<int32_t>();
  const float* value_ptr = value.const_data_ptr<float>();
  int32_t* all_cols_ptr = all_cols.mutable_data_ptr<int32_t>();
  float* all_values_ptr = all_values.mutable_data_ptr<float>();
  const int64_t num_rows = first.size(0), nnz = col.size(0), room = all_cols.size(0);
  for (int64_t i = 0, done = 0; i < num_rows; done += count_ptr[i++]) {
    STD_TORCH_CHECK(count_ptr[i] >= 0 && done + count_ptr[i] <= nnz && first_ptr[i] >= 0 &&
                        first_ptr[i] + count_ptr[i] <= room,
                    "place_rows: row ", i, " of ", count_ptr[i], " entries does not lie within ", nnz,
                    " entries, or not at ", first_ptr[i], " within ", room);
    std::copy_n(col_ptr + done, count_ptr[i], all_cols_ptr + first_ptr[i]);
    std::copy_n(value_ptr + done, count_ptr[i], all_values_ptr + first_ptr[i]);
  }
}

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
      for (const int32_t* c = std::lower_bound(rows.col + rows.rowptr[i], row_end, low); c < row_end && *c < high; ++c) {
        const int64_t place = next_ptr[*c]++;
        row_ptr[place] = static_cast<int32_t>(i);
        value_ptr[place] = rows.value[c - rows.col];
      }
    }
  });
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) {
  m.impl("expand_query", TORCH_BOX(&expand_query_cpu));
  m.impl("jaccard", TORCH_BOX(&jaccard_cpu));
  m.impl("place_rows", TORCH_BOX(&place_rows_cpu));
  m.impl("scatter_columns", TORCH_BOX(&scatter_columns_cpu));
}

}  // namespace mlt_ops
