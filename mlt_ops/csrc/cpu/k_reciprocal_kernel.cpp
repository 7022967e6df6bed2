// Mutual neighbours and k-reciprocal sets (Zhong et al., CVPR 2017, section 3.2). O(N k1^2) time for the sets, O(D) for
// each member that is not in the row's neighbour list.
#include <torch/csrc/stable/library.h>

#include "checks.h"
#include "cpu/k_reciprocal.h"
#include "cpu/launch.h"

namespace mlt_ops {

Tensor mutual_neighbors_cpu(const Tensor& index, int64_t width, int64_t begin, int64_t end) {
  check_mutual_neighbors_args(index, width, begin, end);
  const int64_t k = index.size(1);
  Tensor mutual = torch::stable::new_empty(index, {end - begin, width});
  const int32_t* index_ptr = index.const_data_ptr<int32_t>();
  int32_t* mutual_ptr = mutual.mutable_data_ptr<int32_t>();
  torch::stable::parallel_for(begin, end, kBlockRows, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) mutual_row(index_ptr, k, width, i, mutual_ptr + (i - begin) * width);
  });
  return mutual;
}

RowsOfTensors k_reciprocal_cpu(const Tensor& features, const Tensor& order, const Tensor& distance, const Tensor& index,
                               const Tensor& full, const Tensor& half, const Tensor& scale, int64_t begin,
                               int64_t end) {
  check_k_reciprocal_args(features, order, distance, index, full, half, scale, begin, end);
  const ReciprocalInput input{features.const_data_ptr<float>(),
                              order.const_data_ptr<int32_t>(),
                              distance.const_data_ptr<float>(),
                              index.const_data_ptr<int32_t>(),
                              full.const_data_ptr<int32_t>(),
                              half.const_data_ptr<int32_t>(),
                              scale.const_data_ptr<float>(),
                              features.size(0),
                              features.size(1),
                              index.size(1),
                              full.size(1),
                              half.size(1)};
  return rows_to_tensors(features, begin, end, [&] { return ReciprocalWorker(input); });
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) {
  m.impl("mutual_neighbors", TORCH_BOX(&mutual_neighbors_cpu));
  m.impl("k_reciprocal", TORCH_BOX(&k_reciprocal_cpu));
}

}  // namespace mlt_ops
