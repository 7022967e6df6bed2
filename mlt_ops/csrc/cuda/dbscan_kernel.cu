// DBSCAN by union-find on the core points, a warp per row, O(nnz): count neighbours, join core points, shorten the
// paths, let border points choose. Roots are smallest core indices whatever the order of execution, so the labels equal
// the CPU's. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>

#include "checks.h"
#include "cuda/launch.cuh"
#include "cuda/rows.cuh"
#include "union_find.h"

namespace mlt_ops {
namespace {

struct Graph {
  const int64_t* rowptr;
  const int32_t* col;
  const float* value;
  int64_t num_rows;
  float eps;
};

constexpr int32_t kNone = 0x7fffffff;

__global__ void core_kernel(Graph graph, int64_t min_samples, uint8_t* core, int32_t* parent) {
  const int lane = threadIdx.x % kLanes;
  for (int64_t i = first_of_warp(); i < graph.num_rows; i += warp_stride()) {
    int64_t neighbors = 0;
    for (int64_t p = graph.rowptr[i] + lane; p < graph.rowptr[i + 1]; p += kLanes) {
      neighbors += graph.col[p] != i && graph.value[p] <= graph.eps;
    }
    for (int half = kLanes / 2; half > 0; half /= 2) neighbors += __shfl_xor_sync(kFullWarp, neighbors, half);
    if (lane == 0) {
      core[i] = neighbors + 1 >= min_samples;  // a point is its own neighbour, stored or not
      parent[i] = static_cast<int32_t>(i);
    }
  }
}

__device__ void join(int32_t* parent, int32_t a, int32_t b) {
  while (true) {
    a = find_root(parent, a);
    b = find_root(parent, b);
    if (a == b) return;
    const int32_t high = a > b ? a : b, low = a > b ? b : a;
    if (atomicCAS(&parent[high], high, low) == high) return;  // else somebody joined `high` first: try again
  }
}

__global__ void join_kernel(Graph graph, const uint8_t* core, int32_t* parent) {
  for (int64_t i = first_of_warp(); i < graph.num_rows; i += warp_stride()) {
    if (!core[i]) continue;
    for (int64_t p = graph.rowptr[i] + threadIdx.x % kLanes; p < graph.rowptr[i + 1]; p += kLanes) {
      const int32_t j = graph.col[p];
      if (j < i && graph.value[p] <= graph.eps && core[j]) join(parent, static_cast<int32_t>(i), j);
    }
  }
}

// Volatile, because other threads follow the parents that this one replaces.
__global__ void flatten_kernel(int64_t num_rows, const uint8_t* core, volatile int32_t* parent) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < num_rows; i += stride) {
    if (core[i]) parent[i] = root_of(parent, static_cast<int32_t>(i));
  }
}

__global__ void border_kernel(Graph graph, const uint8_t* core, int32_t* parent) {
  const int lane = threadIdx.x % kLanes;
  for (int64_t i = first_of_warp(); i < graph.num_rows; i += warp_stride()) {
    if (core[i]) continue;
    int32_t smallest = kNone;
    for (int64_t p = graph.rowptr[i] + lane; p < graph.rowptr[i + 1]; p += kLanes) {
      const int32_t j = graph.col[p];
      if (graph.value[p] <= graph.eps && core[j]) smallest = min(smallest, parent[j]);
    }
    for (int half = kLanes / 2; half > 0; half /= 2) {
      smallest = min(smallest, __shfl_xor_sync(kFullWarp, smallest, half));
    }
    if (lane == 0) parent[i] = smallest == kNone ? -1 : smallest;
  }
}

}  // namespace

Tensor dbscan_cuda(const Tensor& rowptr, const Tensor& col, const Tensor& value, double eps, int64_t min_samples) {
  check_dbscan_args(rowptr, col, value, min_samples);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const cudaStream_t stream = current_stream(value);
  const int64_t num_rows = rowptr.size(0) - 1;
  Tensor root = new_tensor(value, num_rows, ScalarType::Int);
  if (num_rows == 0) return root;

  const Tensor is_core = new_tensor(value, num_rows, ScalarType::Byte);
  const Graph graph{rowptr.const_data_ptr<int64_t>(), col.const_data_ptr<int32_t>(), value.const_data_ptr<float>(),
                    num_rows, static_cast<float>(eps)};
  uint8_t* core = is_core.mutable_data_ptr<uint8_t>();
  int32_t* parent = root.mutable_data_ptr<int32_t>();
  const int64_t blocks = num_blocks((num_rows + kThreads / kLanes - 1) / (kThreads / kLanes));
  core_kernel<<<blocks, kThreads, 0, stream>>>(graph, min_samples, core, parent);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  join_kernel<<<blocks, kThreads, 0, stream>>>(graph, core, parent);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  flatten_kernel<<<num_blocks((num_rows + kThreads - 1) / kThreads), kThreads, 0, stream>>>(num_rows, core, parent);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  border_kernel<<<blocks, kThreads, 0, stream>>>(graph, core, parent);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return root;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CUDA, m) { m.impl("dbscan", TORCH_BOX(&dbscan_cuda)); }

}  // namespace mlt_ops
