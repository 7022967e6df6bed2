// Mutual neighbours and k-reciprocal sets. A block takes a row and keeps two sets in shared memory (in global memory,
// with fewer blocks, where k1 is too large for that): the row's mutual neighbours, and those with what expansion adds;
// a warp measures a distance. Members are sorted before their weights are added, so the result equals the CPU's. Not
// yet run on a GPU.
#include <torch/csrc/stable/library.h>

#include "arithmetic.h"
#include "checks.h"
#include "cuda/distance.cuh"
#include "cuda/row_table.cuh"
#include "cuda/rows.cuh"

namespace mlt_ops {
namespace {

__global__ void mutual_kernel(const int32_t* index, int64_t begin, int64_t num_rows, int64_t k, int64_t width,
                              int32_t* mutual) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t task = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; task < num_rows * width;
       task += stride) {
    const int64_t i = begin + task / width;
    const int32_t j = index[i * k + task % width];
    bool found = false;
    for (int64_t q = 0; q < width; ++q) found |= index[j * k + q] == i;
    mutual[task] = found ? j : -1;
  }
}

struct Input {
  const float *features, *distance;
  const int32_t *order, *index, *full, *half;  // order: which of the features belongs to each row
  const float* scale;
  int64_t dim, k, full_width, half_width;
};

// Working memory of a block.
struct Sets {
  int32_t *own, *all;        // hash tables: mutual neighbours; those and the expansion
  int32_t *member, *sorted;  // the latter as lists
  float* weight;
  uint32_t own_capacity, all_capacity;
};

struct Layout {
  int64_t max_members, own_capacity, all_capacity;

  __host__ __device__ int64_t words() const { return own_capacity + all_capacity + 3 * max_members; }
};

__device__ Sets sets_in(int32_t* memory, const Layout& layout) {
  int32_t* member = memory + layout.own_capacity + layout.all_capacity;
  return {memory,
          memory + layout.own_capacity,
          member,
          member + layout.max_members,
          reinterpret_cast<float*>(member + 2 * layout.max_members),
          static_cast<uint32_t>(layout.own_capacity),
          static_cast<uint32_t>(layout.all_capacity)};
}

// Fills sets.all; the number of members is in *num_members afterwards.
__device__ void find_members(const Input& in, int64_t row, const Sets& sets, int32_t* num_own, int32_t* num_members) {
  for (uint32_t slot = threadIdx.x; slot < sets.own_capacity; slot += blockDim.x) sets.own[slot] = kEmpty;
  for (uint32_t slot = threadIdx.x; slot < sets.all_capacity; slot += blockDim.x) sets.all[slot] = kEmpty;
  if (threadIdx.x == 0) *num_own = *num_members = 0;
  __syncthreads();
  const int32_t* full = in.full + row * in.full_width;
  for (int64_t p = threadIdx.x; p < in.full_width; p += blockDim.x) {
    if (full[p] < 0) continue;
    insert(sets.own, sets.own_capacity, full[p], num_own);
    insert(sets.all, sets.all_capacity, full[p], num_members);
  }
  if (threadIdx.x == 0) insert(sets.all, sets.all_capacity, static_cast<int32_t>(row), num_members);
  __syncthreads();
  const int lane = threadIdx.x % kLanes;
  for (int64_t p = threadIdx.x / kLanes; p < in.full_width; p += blockDim.x / kLanes) {  // a warp per neighbour
    if (full[p] < 0) continue;
    const int32_t* set = in.half + full[p] * in.half_width;
    int64_t size = 0, common = 0;
    for (int64_t first = 0; first < in.half_width; first += kLanes) {
      const int32_t candidate = first + lane < in.half_width ? set[first + lane] : -1;
      size += __popc(__ballot_sync(kFullWarp, candidate >= 0));
      common += __popc(__ballot_sync(kFullWarp, candidate >= 0 && contains(sets.own, sets.own_capacity, candidate)));
    }
    if (3 * common <= 2 * size) continue;
    for (int64_t q = lane; q < in.half_width; q += kLanes) {
      if (set[q] >= 0) insert(sets.all, sets.all_capacity, set[q], num_members);
    }
  }
  __syncthreads();
}

__device__ void sort_members(const Sets& sets, int32_t num_members, int32_t* cursor) {
  if (threadIdx.x == 0) *cursor = 0;
  __syncthreads();
  for (uint32_t slot = threadIdx.x; slot < sets.all_capacity; slot += blockDim.x) {
    if (sets.all[slot] != kEmpty) sets.member[atomicAdd(cursor, 1)] = sets.all[slot];
  }
  __syncthreads();
  for (int32_t e = threadIdx.x; e < num_members; e += blockDim.x) {
    int32_t rank = 0;
    for (int32_t other = 0; other < num_members; ++other) rank += sets.member[other] < sets.member[e];
    sets.sorted[rank] = sets.member[e];
  }
  __syncthreads();
}

// By one warp: as the neighbour list has it, else measured, in the CPU's order of addition. All lanes get it.
__device__ float distance_to(const Input& in, int64_t row, int32_t other) {
  const int lane = threadIdx.x % kLanes;
  for (int64_t first = 0; first < in.k; first += kLanes) {
    const bool here = first + lane < in.k && in.index[row * in.k + first + lane] == other;
    const unsigned found = __ballot_sync(kFullWarp, here);
    if (found != 0) return in.distance[row * in.k + first + __ffs(found) - 1];
  }
  return squared_distance(in.features + in.order[row] * in.dim, in.features + in.order[other] * in.dim, in.dim);
}

// workspace: layout.words() of global memory for each block, unless in_shared. A template, because accesses to what
// might be in either memory take longer.
template <bool in_shared>
__global__ void k_reciprocal_kernel(Input in, Layout layout, int32_t* workspace, int64_t begin, int64_t num_rows,
                                    int64_t* count, const int64_t* offset, int32_t* col, float* value) {
  extern __shared__ int32_t shared[];
  __shared__ int32_t num_own, num_members;
  __shared__ float total;
  const Sets sets = sets_in(in_shared ? shared : workspace + blockIdx.x * layout.words(), layout);
  for (int64_t place = blockIdx.x; place < num_rows; place += gridDim.x) {
    const int64_t row = begin + place;
    find_members(in, row, sets, &num_own, &num_members);
    if (count != nullptr) {
      if (threadIdx.x == 0) count[place] = num_members;
      __syncthreads();
      continue;
    }
    sort_members(sets, num_members, &num_own);
    for (int32_t e = threadIdx.x / kLanes; e < num_members; e += blockDim.x / kLanes) {
      const float weight = exp_nonpositive(-distance_to(in, row, sets.sorted[e]) / in.scale[row]);
      if (threadIdx.x % kLanes == 0) sets.weight[e] = weight;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      total = 0.f;
      for (int32_t e = 0; e < num_members; ++e) total += sets.weight[e];
    }
    __syncthreads();
    for (int32_t e = threadIdx.x; e < num_members; e += blockDim.x) {
      col[offset[place] + e] = sets.sorted[e];
      value[offset[place] + e] = sets.weight[e] / total;
    }
    __syncthreads();
  }
}

constexpr int kOtherSharedBytes = 64;  // at least what the kernel's named variables take

// Where the sets live and how many blocks work at a time.
struct Plan {
  Layout layout;
  size_t shared_bytes;
  Tensor workspace;
  int32_t* workspace_ptr;
  int64_t blocks;
};

Plan plan_for(const Input& in, const Tensor& features, int64_t num_rows) {
  const int64_t max_members = std::min(in.full_width * (in.half_width + 1) + 1, features.size(0));
  const Layout layout{max_members, table_capacity(in.full_width), table_capacity(max_members)};
  int available = 0;
  STD_CUDA_CHECK(
      cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, features.get_device_index()));
  available -= kOtherSharedBytes;
  const int64_t bytes = 4 * layout.words();
  if (bytes <= available) {
    // All there is, not `bytes`: the setting holds for all threads, and another may be about to launch with more.
    STD_CUDA_CHECK(
        cudaFuncSetAttribute(k_reciprocal_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, available));
    return {layout, static_cast<size_t>(bytes), new_tensor(features, 0, ScalarType::Int), nullptr,
            num_blocks(num_rows)};
  }
  const int64_t blocks = std::clamp<int64_t>(kWorkspaceBytes / bytes, 1, std::min<int64_t>(num_rows, 512));
  Tensor workspace = new_tensor(features, blocks * layout.words(), ScalarType::Int);
  return {layout, 0, workspace, workspace.mutable_data_ptr<int32_t>(), blocks};
}

}  // namespace

Tensor mutual_neighbors_cuda(const Tensor& index, int64_t width, int64_t begin, int64_t end) {
  check_mutual_neighbors_args(index, width, begin, end);
  const torch::stable::accelerator::DeviceGuard guard(index.get_device_index());
  Tensor mutual = torch::stable::new_empty(index, {end - begin, width});
  if (mutual.numel() == 0) return mutual;
  mutual_kernel<<<num_blocks((mutual.numel() + kThreads - 1) / kThreads), kThreads, 0, current_stream(index)>>>(
      index.const_data_ptr<int32_t>(), begin, end - begin, index.size(1), width, mutual.mutable_data_ptr<int32_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return mutual;
}

RowsOfTensors k_reciprocal_cuda(const Tensor& features, const Tensor& order, const Tensor& distance,
                                const Tensor& index, const Tensor& full, const Tensor& half, const Tensor& scale,
                                int64_t begin, int64_t end) {
  check_k_reciprocal_args(features, order, distance, index, full, half, scale, begin, end);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  const cudaStream_t stream = current_stream(features);
  const int64_t num_rows = end - begin;
  Tensor count = new_tensor(features, num_rows, ScalarType::Long);
  if (num_rows == 0)
    return {count, new_tensor(features, 0, ScalarType::Int), new_tensor(features, 0, ScalarType::Float)};

  const Input in{features.const_data_ptr<float>(),
                 distance.const_data_ptr<float>(),
                 order.const_data_ptr<int32_t>(),
                 index.const_data_ptr<int32_t>(),
                 full.const_data_ptr<int32_t>(),
                 half.const_data_ptr<int32_t>(),
                 scale.const_data_ptr<float>(),
                 features.size(1),
                 index.size(1),
                 full.size(1),
                 half.size(1)};
  const Plan plan = plan_for(in, features, num_rows);
  const auto kernel = plan.workspace_ptr == nullptr ? k_reciprocal_kernel<true> : k_reciprocal_kernel<false>;
  const auto launch = [&](int64_t* counts, const int64_t* offsets, int32_t* cols, float* values) {
    kernel<<<plan.blocks, kRowThreads, plan.shared_bytes, stream>>>(in, plan.layout, plan.workspace_ptr, begin,
                                                                    num_rows, counts, offsets, cols, values);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  };
  launch(count.mutable_data_ptr<int64_t>(), nullptr, nullptr, nullptr);
  const Tensor offset = offsets_of(count, stream);
  const int64_t nnz = last_element(offset, stream);
  Tensor col = new_tensor(features, nnz, ScalarType::Int), value = new_tensor(features, nnz, ScalarType::Float);
  launch(nullptr, offset.const_data_ptr<int64_t>(), col.mutable_data_ptr<int32_t>(), value.mutable_data_ptr<float>());
  return {count, col, value};
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CUDA, m) {
  m.impl("mutual_neighbors", TORCH_BOX(&mutual_neighbors_cuda));
  m.impl("k_reciprocal", TORCH_BOX(&k_reciprocal_cuda));
}

}  // namespace mlt_ops
