// A tile of products, and what makes them bounds of distances: shared by CPU and CUDA kernels, free of PyTorch.
#pragma once

#include <cstdint>

#include "arithmetic.h"

namespace mlt_ops {

struct Tile {
  const float* products;  // [num_rows, num_cols]
  const float* row_floors;
  const float* col_floors;
  int64_t num_rows, num_cols;
  float alpha;

  MLT_OPS_SHARED float bound(int64_t row, int64_t col) const {
    return (col_floors[col] + alpha * products[row * num_cols + col]) + row_floors[row];
  }
};

}  // namespace mlt_ops
