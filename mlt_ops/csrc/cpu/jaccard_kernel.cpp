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
  return rows_to_tensors(value, begin, end, [&] { return ExpandWorker(rows, index_ptr, index.size(1), k2, num_cols); });
}

RowsOfTensors jaccard_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& colptr,
                          const Tensor& row, const Tensor& row_value, double max_distance, int64_t begin, int64_t end) {
  check_jaccard_args(rowptr, col, value, colptr, row, row_value, begin, end);
  const Csr rows = csr_of(rowptr, col, value), columns = csr_of(colptr, row, row_value);
  return rows_to_tensors(value, begin, end, [&] {
    return JaccardWorker(rows, columns, rowptr.size(0) - 1, colptr.size(0) - 1, static_cast<float>(max_distance));
  });
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) {
  m.impl("expand_query", TORCH_BOX(&expand_query_cpu));
  m.impl("jaccard", TORCH_BOX(&jaccard_cpu));
}

}  // namespace mlt_ops
