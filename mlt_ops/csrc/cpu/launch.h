// Runs the row builders on PyTorch's threads and packs their blocks into tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "checks.h"
#include "cpu/jaccard.h"
#include "cpu/rows.h"

namespace mlt_ops {

using RowsOfTensors = std::tuple<Tensor, Tensor, Tensor>;  // number of entries per row, columns, values

inline const auto on_all_threads = [](const auto& work) {
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) { work(); });
};

inline Tensor new_tensor(const Tensor& like, int64_t size, ScalarType type) {
  return torch::stable::new_empty(like, {size}, type);
}

template <class MakeWorker>
RowsOfTensors rows_to_tensors(const Tensor& like, int64_t begin, int64_t end, const MakeWorker& make_worker) {
  Tensor count = new_tensor(like, end - begin, ScalarType::Long);
  const auto blocks = build_rows(begin, end, count.mutable_data_ptr<int64_t>(), on_all_threads, make_worker);
  std::vector<int64_t> offset(blocks.size() + 1, 0);
  for (size_t b = 0; b < blocks.size(); ++b) offset[b + 1] = offset[b] + static_cast<int64_t>(blocks[b].size());
  Tensor col = new_tensor(like, offset.back(), ScalarType::Int);
  Tensor value = new_tensor(like, offset.back(), ScalarType::Float);
  int32_t* col_ptr = col.mutable_data_ptr<int32_t>();
  float* value_ptr = value.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, static_cast<int64_t>(blocks.size()), 64, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      for (size_t e = 0; e < blocks[b].size(); ++e) {
        col_ptr[offset[b] + static_cast<int64_t>(e)] = blocks[b][e].col;
        value_ptr[offset[b] + static_cast<int64_t>(e)] = blocks[b][e].value;
      }
    }
  });
  return {count, col, value};
}

inline Csr csr_of(const Tensor& rowptr, const Tensor& col, const Tensor& value) {
  return {rowptr.const_data_ptr<int64_t>(), col.const_data_ptr<int32_t>(), value.const_data_ptr<float>()};
}

}  // namespace mlt_ops
