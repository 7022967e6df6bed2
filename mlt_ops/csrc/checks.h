// Argument checks, one function per operator, called first by the CPU and the CUDA kernel alike.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace mlt_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_segment_mean_args(const Tensor& features, const Tensor& order, const Tensor& rowptr) {
  STD_TORCH_CHECK(features.dim() == 2, "segment_mean: features must be 2-D [N, D], got ", features.dim(), "-D");
  STD_TORCH_CHECK(features.scalar_type() == ScalarType::Float, "segment_mean: features must be float32");
  STD_TORCH_CHECK(order.dim() == 1, "segment_mean: order must be 1-D [M], got ", order.dim(), "-D");
  STD_TORCH_CHECK(order.scalar_type() == ScalarType::Long, "segment_mean: order must be int64");
  STD_TORCH_CHECK(rowptr.dim() == 1 && rowptr.size(0) >= 1, "segment_mean: rowptr must be 1-D [K + 1]");
  STD_TORCH_CHECK(rowptr.scalar_type() == ScalarType::Long, "segment_mean: rowptr must be int64");
  STD_TORCH_CHECK(order.device() == features.device() && rowptr.device() == features.device(),
                  "segment_mean: features, order and rowptr must be on one device");
}

}  // namespace mlt_ops
