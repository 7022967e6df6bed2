// The parts of PyTorch that expect a GPU, for tensors on the CPU. Included ahead of each source file.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>

#include "cuda.h"

#undef STD_CUDA_CHECK
#define STD_CUDA_CHECK(EXPR) \
  if ((EXPR) != cudaSuccess) throw std::runtime_error(#EXPR " failed")

inline AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

namespace torch::stable {

namespace accelerator {
struct NoGuard {
  explicit NoGuard(int32_t) {}
};
}  // namespace accelerator

inline Tensor with_garbage(const Tensor& tensor) {
  emulate::fill_with_garbage(tensor.mutable_data_ptr(), tensor.numel() * tensor.element_size());
  return tensor;
}

inline Tensor new_garbage(const Tensor& like, headeronly::IntHeaderOnlyArrayRef size,
                          std::optional<headeronly::ScalarType> type = std::nullopt) {
  return with_garbage(new_empty(like, size, type));
}

inline Tensor garbage_like(const Tensor& like) { return with_garbage(empty_like(like)); }

}  // namespace torch::stable

#define DeviceGuard NoGuard
#define new_empty new_garbage
#define empty_like garbage_like
