// Query expansion and sparse Jaccard distances. Both add up lists of entries by column: a block takes a row, its lists
// one after another, and the threads share a list, in which no column occurs twice. So each sum has one writer at a
// time and a fixed order, without float atomics, and equals the CPU's bit for bit. Sums live in a hash table in shared
// memory; rows that do not fit there are done again with larger ones in global memory. Not yet run on a GPU.
#include <torch/csrc/stable/library.h>

#include <utility>

#include "arithmetic.h"
#include "checks.h"
#include "cuda/row_table.cuh"
#include "cuda/rows.cuh"

namespace mlt_ops {
namespace {

constexpr int64_t kSharedCapacity = 4096;  // columns, 32 KiB: several blocks fit on a multiprocessor
constexpr int64_t kGrowth = 16;            // from these tables to the next, for rows that did not fit

struct Csr {
  const int64_t* rowptr;
  const int32_t* col;
  const float* value;
};

struct List {
  int64_t begin, end;
};

// The lists are the rows of the first k2 neighbours.
struct Expansion {
  Csr rows;
  const int32_t* index;
  int64_t k, k2;

  __device__ int64_t num_lists(int64_t) const { return k2; }
  __device__ List list(int64_t row, int64_t t) const {
    const int64_t neighbor = index[row * k + t];
    return {rows.rowptr[neighbor], rows.rowptr[neighbor + 1]};
  }
  __device__ int32_t col(int64_t q) const { return rows.col[q]; }
  __device__ float term(int64_t, int64_t, int64_t q) const { return rows.value[q]; }
  __device__ bool result(int64_t, int32_t, float sum, float* value) const {
    *value = sum / static_cast<float>(k2);
    return true;
  }
};

// The lists are the columns in which the row has entries, down to the row itself.
struct Overlap {
  Csr rows, columns;
  float max_distance;

  __device__ int64_t num_lists(int64_t row) const { return rows.rowptr[row + 1] - rows.rowptr[row]; }
  __device__ List list(int64_t row, int64_t t) const {
    const int64_t column = rows.col[rows.rowptr[row] + t];
    const int64_t begin = columns.rowptr[column];
    int64_t low = begin, high = columns.rowptr[column + 1];
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (columns.col[middle] <= row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return {begin, low};
  }
  __device__ int32_t col(int64_t q) const { return columns.col[q]; }
  __device__ float term(int64_t row, int64_t t, int64_t q) const {
    const float mine = rows.value[rows.rowptr[row] + t], theirs = columns.value[q];
    return mine < theirs ? mine : theirs;
  }
  __device__ bool result(int64_t row, int32_t other, float overlap, float* value) const {
    *value = other == row ? 0.f : jaccard_of(overlap);
    return *value <= max_distance && *value < 1.f;
  }
};

struct Output {
  int64_t* count;         // [rows], written in the first pass
  const int64_t* offset;  // null in the first pass
  int32_t *unsorted_col, *col;
  float *unsorted_value, *value;
};

// A block's sums by column.
struct Table {
  int32_t* keys;
  float* sums;
  int64_t capacity;
};

// Rows that did not fit into their tables, as places in the output.
struct Overflow {
  int32_t* num_rows;
  int32_t* place;

  explicit Overflow(const Tensor& memory) : num_rows(memory.mutable_data_ptr<int32_t>()), place(num_rows + 1) {}
};

// Adds the row's lists into the table. False, for all threads alike, if it might become more than three quarters full.
template <class Sum>
__device__ bool accumulate(const Sum& sum, int64_t row, const Table& table, int32_t* used) {
  __shared__ List lists[kRowThreads];
  for (int64_t slot = threadIdx.x; slot < table.capacity; slot += blockDim.x) {
    table.keys[slot] = kEmpty;
    table.sums[slot] = 0.f;
  }
  if (threadIdx.x == 0) *used = 0;
  __syncthreads();
  const int64_t num_lists = sum.num_lists(row);
  for (int64_t t = 0; t < num_lists; ++t) {
    const int64_t next = t % kRowThreads;
    if (next == 0) {  // each thread finds one of the lists that follow: one alone would wait for memory again and again
      if (t + threadIdx.x < num_lists) lists[threadIdx.x] = sum.list(row, t + threadIdx.x);
      __syncthreads();
    }
    const List list = lists[next];
    const bool fits = *used + (list.end - list.begin) <= table.capacity / 4 * 3;
    __syncthreads();  // all have read `used`
    if (!fits) return false;
    for (int64_t q = list.begin + threadIdx.x; q < list.end; q += blockDim.x) {
      const float term = sum.term(row, t, q);
      if (term > 0.f) table.sums[insert(table.keys, static_cast<uint32_t>(table.capacity), sum.col(q), used)] += term;
    }
    __syncthreads();
  }
  return true;
}

// Counts what the table holds for the row, or writes it by ascending column.
template <class Sum>
__device__ void emit(const Sum& sum, int64_t row, int64_t place, const Table& table, int32_t* used, const Output& out) {
  if (threadIdx.x == 0) *used = 0;
  __syncthreads();
  const int64_t offset = out.offset != nullptr ? out.offset[place] : 0;
  for (int64_t slot = threadIdx.x; slot < table.capacity; slot += blockDim.x) {
    const int32_t col = table.keys[slot];
    float value;
    if (col == kEmpty || !sum.result(row, col, table.sums[slot], &value)) continue;
    const int32_t position = atomicAdd(used, 1);
    if (out.offset == nullptr) continue;
    out.unsorted_col[offset + position] = col;
    out.unsorted_value[offset + position] = value;
  }
  __syncthreads();
  if (out.offset == nullptr) {
    if (threadIdx.x == 0) out.count[place] = *used;
  } else {
    place_by_col(out.unsorted_col + offset, out.unsorted_value + offset, *used, out.col + offset, out.value + offset);
  }
  __syncthreads();
}

// Builds a row of the output, or leaves it to larger tables.
template <class Sum>
__device__ void build_row(const Sum& sum, int64_t begin, int64_t place, const Table& table, int32_t* used,
                          const Output& out, const Overflow& overflow) {
  if (accumulate(sum, begin + place, table, used)) {
    emit(sum, begin + place, place, table, used, out);
  } else if (threadIdx.x == 0) {
    overflow.place[atomicAdd(overflow.num_rows, 1)] = static_cast<int32_t>(place);
  }
}

template <class Sum>
__global__ void shared_kernel(Sum sum, int64_t begin, int64_t num_rows, Output out, Overflow overflow) {
  __shared__ int32_t keys[kSharedCapacity];
  __shared__ float sums[kSharedCapacity];
  __shared__ int32_t used;
  for (int64_t place = blockIdx.x; place < num_rows; place += gridDim.x) {
    build_row(sum, begin, place, {keys, sums, kSharedCapacity}, &used, out, overflow);
  }
}

// The rows that did not fit before, with a table for each block; those that do not fit now either are handed on.
template <class Sum>
__global__ void global_kernel(Sum sum, int64_t begin, Overflow rows, Table tables, Output out, Overflow overflow) {
  __shared__ int32_t used;
  const int64_t first = blockIdx.x * tables.capacity;
  const Table table{tables.keys + first, tables.sums + first, tables.capacity};
  for (int64_t i = blockIdx.x; i < *rows.num_rows; i += gridDim.x) {
    build_row(sum, begin, rows.place[i], table, &used, out, overflow);
  }
}

template <class Sum>
void launch(const Sum& sum, const Tensor& like, int64_t begin, int64_t num_rows, int64_t num_cols, const Output& out) {
  const cudaStream_t stream = current_stream(like);
  const auto no_rows = [&] { return torch::stable::new_zeros(like, {num_rows + 1}, ScalarType::Int); };
  Tensor overflow = no_rows();
  shared_kernel<Sum><<<num_blocks(num_rows), kRowThreads, 0, stream>>>(sum, begin, num_rows, out, Overflow(overflow));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  // No list is longer than num_cols and no row has more columns, so that twice as many always fit (accumulate).
  const int64_t largest = table_capacity(2 * num_cols), max_tables = std::min<int64_t>(num_rows, 512);
  for (int64_t capacity = kSharedCapacity; capacity < largest;) {
    capacity = std::min(kGrowth * capacity, largest);
    const int64_t num_tables = std::clamp<int64_t>(kWorkspaceBytes / (8 * capacity), 1, max_tables);
    const Tensor keys = new_tensor(like, num_tables * capacity, ScalarType::Int);
    const Tensor sums = new_tensor(like, num_tables * capacity, ScalarType::Float);
    const Table tables{keys.mutable_data_ptr<int32_t>(), sums.mutable_data_ptr<float>(), capacity};
    const Tensor before = std::exchange(overflow, no_rows());
    const Overflow rows(before), left(overflow);
    global_kernel<Sum><<<num_tables, kRowThreads, 0, stream>>>(sum, begin, rows, tables, out, left);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

template <class Sum>
RowsOfTensors build_rows(const Sum& sum, const Tensor& like, int64_t begin, int64_t end, int64_t num_cols) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  const cudaStream_t stream = current_stream(like);
  const int64_t num_rows = end - begin;
  Tensor count = new_tensor(like, num_rows, ScalarType::Long);
  if (num_rows == 0) return {count, new_tensor(like, 0, ScalarType::Int), new_tensor(like, 0, ScalarType::Float)};
  launch(sum, like, begin, num_rows, num_cols, Output{count.mutable_data_ptr<int64_t>()});

  const Tensor offset = offsets_of(count, stream);
  const int64_t nnz = last_element(offset, stream);
  Tensor col = new_tensor(like, nnz, ScalarType::Int), value = new_tensor(like, nnz, ScalarType::Float);
  const Tensor unsorted_col = torch::stable::empty_like(col), unsorted_value = torch::stable::empty_like(value);
  launch(sum, like, begin, num_rows, num_cols,
         Output{nullptr, offset.const_data_ptr<int64_t>(), unsorted_col.mutable_data_ptr<int32_t>(),
                col.mutable_data_ptr<int32_t>(), unsorted_value.mutable_data_ptr<float>(),
                value.mutable_data_ptr<float>()});
  return {count, col, value};
}

Csr csr_of(const Tensor& rowptr, const Tensor& col, const Tensor& value) {
  return {rowptr.const_data_ptr<int64_t>(), col.const_data_ptr<int32_t>(), value.const_data_ptr<float>()};
}

}  // namespace

RowsOfTensors expand_query_cuda(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& index,
                                int64_t num_cols, int64_t k2, int64_t begin, int64_t end) {
  check_expand_query_args(rowptr, col, value, index, k2, begin, end);
  const Expansion sum{csr_of(rowptr, col, value), index.const_data_ptr<int32_t>(), index.size(1), k2};
  return build_rows(sum, value, begin, end, num_cols);
}

RowsOfTensors jaccard_cuda(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& colptr,
                           const Tensor& row, const Tensor& row_value, double max_distance, int64_t begin,
                           int64_t end) {
  check_jaccard_args(rowptr, col, value, colptr, row, row_value, begin, end);
  const Overlap sum{csr_of(rowptr, col, value), csr_of(colptr, row, row_value), static_cast<float>(max_distance)};
  return build_rows(sum, value, begin, end, rowptr.size(0) - 1);
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CUDA, m) {
  m.impl("expand_query", TORCH_BOX(&expand_query_cuda));
  m.impl("jaccard", TORCH_BOX(&jaccard_cuda));
}

}  // namespace mlt_ops
