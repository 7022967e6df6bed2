// DBSCAN on a sparse symmetric distance matrix, O(nnz) time and O(N) memory: count neighbours, join core points, and
// let each border point choose. Returns each row's smallest core index of its cluster, -1 for noise.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "checks.h"
#include "cpu/launch.h"
#include "union_find.h"

namespace mlt_ops {
namespace {

constexpr int64_t kRowsOfTask = 4096;

std::vector<uint8_t> find_core_points(const Csr& rows, int64_t num_rows, float eps, int64_t min_samples) {
  std::vector<uint8_t> core(num_rows);
  torch::stable::parallel_for(0, num_rows, kRowsOfTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t neighbors = 1;  // a point is its own neighbour, stored or not
      for (int64_t p = rows.rowptr[i]; p < rows.rowptr[i + 1]; ++p) {
        neighbors += rows.col[p] != i && rows.value[p] <= eps;
      }
      core[i] = neighbors >= min_samples;
    }
  });
  return core;
}

// Stores in `parent` the smallest root among the core points within reach of each other point, or -1.
void place_border_points(const Csr& rows, int64_t num_rows, float eps, const std::vector<uint8_t>& core,
                         int32_t* parent) {
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  torch::stable::parallel_for(0, num_rows, kRowsOfTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (core[i]) continue;
      int32_t smallest = kNone;
      for (int64_t p = rows.rowptr[i]; p < rows.rowptr[i + 1]; ++p) {
        if (rows.value[p] <= eps && core[rows.col[p]]) smallest = std::min(smallest, parent[rows.col[p]]);
      }
      parent[i] = smallest == kNone ? -1 : smallest;
    }
  });
}

void join(int32_t* parent, int32_t a, int32_t b) {
  a = find_root(parent, a);
  b = find_root(parent, b);
  parent[std::max(a, b)] = std::min(a, b);
}

}  // namespace

Tensor dbscan_cpu(const Tensor& rowptr, const Tensor& col, const Tensor& value, double eps, int64_t min_samples) {
  check_dbscan_args(rowptr, col, value, min_samples);
  const Csr rows = csr_of(rowptr, col, value);
  const int64_t num_rows = rowptr.size(0) - 1;
  const float radius = static_cast<float>(eps);
  const std::vector<uint8_t> core = find_core_points(rows, num_rows, radius, min_samples);
  Tensor root = new_tensor(value, num_rows, ScalarType::Int);
  int32_t* parent = root.mutable_data_ptr<int32_t>();
  for (int64_t i = 0; i < num_rows; ++i) parent[i] = static_cast<int32_t>(i);
  for (int64_t i = 0; i < num_rows; ++i) {
    if (!core[i]) continue;
    for (int64_t p = rows.rowptr[i]; p < rows.rowptr[i + 1] && rows.col[p] < i; ++p) {
      if (rows.value[p] <= radius && core[rows.col[p]]) join(parent, static_cast<int32_t>(i), rows.col[p]);
    }
  }
  for (int64_t i = 0; i < num_rows; ++i) {
    if (core[i]) parent[i] = root_of(parent, static_cast<int32_t>(i));
  }
  place_border_points(rows, num_rows, radius, core, parent);
  return root;
}

STABLE_TORCH_LIBRARY_IMPL(mlt_ops, CPU, m) { m.impl("dbscan", TORCH_BOX(&dbscan_cpu)); }

}  // namespace mlt_ops
