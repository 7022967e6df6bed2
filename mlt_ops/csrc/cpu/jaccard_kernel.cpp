// Query expansion and sparse Jaccard distances. With c entries per column, a row of n entries costs at most O(n c), two
// floats per row of working memory in each thread.
#include <torch/csrc/stable/library.h>

#include "checks.h"
#include "cpu/jaccard.h"
#include "cpu/launch.h"

namespace mlt_ops {

RowsOfTensors expand_query_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& index,
                               int64_t num_cols, int64_t k2, int64_t begin, int64_t end) {
  check_expand_query_args(rowptr, col, value, index, k2, begin, end);
  const Csr rows = csr_of(rowptr, col, value);
  const int32_t* index_ptr = index.const_data_ptr<int32_t>();
  return rows_to_tensors(value, begin, end,
                         [&] { return ExpandWorker(rows, index_ptr, index.size(1), k2, num_cols); });
}

RowsOfTensors jaccard_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& colptr,
                          const Tensor& row, const Tensor& row_value, double max_distance, int64_t begin, int64_t end) {
  check_jaccard_args(rowptr, col, value, colptr, row, row_value, begin, end);
  const Csr rows = csr_of(rowptr, col, value), columns = csr_of(colptr, row, row_value);
  return rows_to_tensors(value, begin, end, [&] {
    return JaccardWorker(rows, columns, rowptr.size(0) - 1, colptr.size(0) - 1, static_cast<float>(max_distance));
  });
}

// The matrix by columns: a counting sort, in which the rows of a column stay in ascending order.
RowsOfTensors transpose_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, int64_t num_cols) {
  check_csr("transpose", rowptr, col, value);
  const Csr rows = csr_of(rowptr, col, value);
  const int64_t num_rows = rowptr.size(0) - 1;
  Tensor colptr = new_tensor(value, num_cols + 1, ScalarType::Long);
  Tensor row = new_tensor(value, col.size(0), ScalarType::Int);
  Tensor row_value = new_tensor(value, col.size(0), ScalarType::Float);
  int64_t* ptr = colptr.mutable_data_ptr<int64_t>();
  int32_t* row_ptr = row.mutable_data_ptr<int32_t>();
  float* value_ptr = row_value.mutable_data_ptr<float>();

  std::fill(ptr, ptr + num_cols + 1, 0);
  for (int64_t p = 0; p < col.size(0); ++p) ++ptr[rows.col[p] + 1];
  for (int64_t c = 0; c < num_cols; ++c) ptr[c + 1] += ptr[c];
  std::vector<int64_t> next(ptr, ptr + num_cols);
  for (int64_t i = 0; i < num_rows; ++i) {
    for (int64_t p = rows.rowptr[i]; p < rows.rowptr[i + 1]; ++p) {
      const int64_t place = next[rows.col[p]]++;
      row_ptr[place] = static_cast<int32_t>(i);
      value_ptr[place] = rows.value[p];
    }
  }
  return {colptr, row, row_value};
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) {
  m.impl("expand_query", TORCH_BOX(&expand_query_cpu));
  m.impl("jaccard", TORCH_BOX(&jaccard_cpu));
  m.impl("transpose", TORCH_BOX(&transpose_cpu));
}

}  // namespace mlt_ops
