// What every CUDA kernel here needs to be launched: current stream, block size, number of blocks, tasks of a warp.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"

namespace mlt_ops {

constexpr int kThreads = 256;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kMaxBlocks = 65535;
constexpr int64_t kWorkspaceBytes = int64_t{1} << 28;  // in global memory, for what does not fit into shared memory

inline int64_t num_blocks(int64_t tasks) { return std::clamp<int64_t>(tasks, 1, kMaxBlocks); }

// Where a warp begins that takes a task of its own, and how far its next one is, over all blocks.
__device__ inline int64_t first_of_warp() {
  return (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / kLanes;
}

__device__ inline int64_t warp_stride() { return static_cast<int64_t>(gridDim.x) * blockDim.x / kLanes; }

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace mlt_ops
