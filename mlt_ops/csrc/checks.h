// Argument checks, one function per operator, called first by the CPU and the CUDA kernel alike. They cover what costs
// nothing: dimensions, types, devices, layout. The Python functions check the contents, once.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "tile.h"

namespace mlt_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_tensor(const char* op, const char* name, const Tensor& tensor, int64_t dim, ScalarType type,
                         const Tensor& like) {
  const char* wanted = type == ScalarType::Float ? "float32" : type == ScalarType::Int ? "int32" : "int64";
  STD_TORCH_CHECK(tensor.dim() == dim, op, ": ", name, " must be ", dim, "-D, got ", tensor.dim(), "-D");
  STD_TORCH_CHECK(tensor.scalar_type() == type, op, ": ", name, " must be ", wanted);
  STD_TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " must be contiguous");
  STD_TORCH_CHECK(tensor.device() == like.device(), op, ": all arguments must be on one device, ", name, " is not");
}

inline void check_csr(const char* op, const Tensor& rowptr, const Tensor& col, const Tensor& value) {
  check_tensor(op, "value", value, 1, ScalarType::Float, value);
  check_tensor(op, "col", col, 1, ScalarType::Int, value);
  check_tensor(op, "rowptr", rowptr, 1, ScalarType::Long, value);
  STD_TORCH_CHECK(rowptr.size(0) >= 1, op, ": rowptr must be [N + 1], got no element");
  STD_TORCH_CHECK(col.size(0) == value.size(0), op, ": col and value must be equally long, got ", col.size(0), " and ",
                  value.size(0));
}

inline void check_row_range(const char* op, int64_t begin, int64_t end, int64_t num_rows) {
  STD_TORCH_CHECK(0 <= begin && begin <= end && end <= num_rows, op, ": rows ", begin, " to ", end,
                  " are not within 0 to ", num_rows);
}

inline void check_width(const char* op, const char* name, int64_t width, const Tensor& index) {
  STD_TORCH_CHECK(1 <= width && width <= index.size(1), op, ": ", name, " must be between 1 and the ", index.size(1),
                  " columns of index, got ", width);
}

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

inline Tile checked_tile(const Tensor& products, const Tensor& row_floors, const Tensor& col_floors, double alpha,
                         bool by_column, const Tensor& distance, const Tensor& index) {
  const char* op = "merge_nearest";
  check_tensor(op, "products", products, 2, ScalarType::Float, products);
  check_tensor(op, "row_floors", row_floors, 1, ScalarType::Float, products);
  check_tensor(op, "col_floors", col_floors, 1, ScalarType::Float, products);
  check_tensor(op, "distance", distance, 2, ScalarType::Float, products);
  check_tensor(op, "index", index, 2, ScalarType::Int, products);
  const int64_t num_rows = products.size(0), num_cols = products.size(1), wanted = by_column ? num_cols : num_rows;
  STD_TORCH_CHECK(row_floors.size(0) == num_rows && col_floors.size(0) == num_cols, op, ": floors of ", num_rows,
                  " rows and ", num_cols, " columns, got ", row_floors.size(0), " and ", col_floors.size(0));
  STD_TORCH_CHECK(distance.size(0) == wanted && index.size(0) == wanted, op, ": distance and index must have ", wanted,
                  " rows, got ", distance.size(0), " and ", index.size(0));
  STD_TORCH_CHECK(distance.size(1) == index.size(1) && index.size(1) >= 1, op,
                  ": distance and index must be equally wide, at least 1, got ", distance.size(1), " and ",
                  index.size(1));
  return {products.const_data_ptr<float>(),
          row_floors.const_data_ptr<float>(),
          col_floors.const_data_ptr<float>(),
          num_rows,
          num_cols,
          static_cast<float>(alpha)};
}

inline void check_pair_distance_args(const Tensor& queries, const Tensor& rows, const Tensor& query,
                                     const Tensor& row) {
  const char* op = "pair_distance";
  check_tensor(op, "queries", queries, 2, ScalarType::Float, queries);
  check_tensor(op, "rows", rows, 2, ScalarType::Float, queries);
  check_tensor(op, "query", query, 1, ScalarType::Int, queries);
  check_tensor(op, "row", row, 1, ScalarType::Int, queries);
  STD_TORCH_CHECK(queries.size(1) == rows.size(1), op, ": queries and rows must be equally wide, got ", queries.size(1),
                  " and ", rows.size(1));
  STD_TORCH_CHECK(query.size(0) == row.size(0), op, ": query and row must be equally long, got ", query.size(0),
                  " and ", row.size(0));
}

inline void check_mutual_neighbors_args(const Tensor& index, int64_t width, int64_t begin, int64_t end) {
  check_tensor("mutual_neighbors", "index", index, 2, ScalarType::Int, index);
  check_width("mutual_neighbors", "width", width, index);
  check_row_range("mutual_neighbors", begin, end, index.size(0));
}

inline void check_k_reciprocal_args(const Tensor& features, const Tensor& order, const Tensor& distance,
                                    const Tensor& index, const Tensor& full, const Tensor& half, const Tensor& scale,
                                    int64_t begin, int64_t end) {
  const char* op = "k_reciprocal";
  check_tensor(op, "features", features, 2, ScalarType::Float, features);
  check_tensor(op, "order", order, 1, ScalarType::Int, features);
  check_tensor(op, "distance", distance, 2, ScalarType::Float, features);
  check_tensor(op, "index", index, 2, ScalarType::Int, features);
  check_tensor(op, "full", full, 2, ScalarType::Int, features);
  check_tensor(op, "half", half, 2, ScalarType::Int, features);
  check_tensor(op, "scale", scale, 1, ScalarType::Float, features);
  const int64_t num_rows = features.size(0);
  for (const Tensor* rows : {&order, &distance, &index, &full, &half, &scale}) {
    STD_TORCH_CHECK(rows->size(0) == num_rows, op, ": all arguments must have ", num_rows, " rows, got ",
                    rows->size(0));
  }
  STD_TORCH_CHECK(distance.size(1) == index.size(1), op, ": distance and index must have equal shapes");
  STD_TORCH_CHECK(full.size(1) <= index.size(1), op, ": full must not have more columns than index");
  check_row_range(op, begin, end, num_rows);
}

inline void check_expand_query_args(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& index,
                                    int64_t k2, int64_t begin, int64_t end) {
  check_csr("expand_query", rowptr, col, value);
  check_tensor("expand_query", "index", index, 2, ScalarType::Int, value);
  check_width("expand_query", "k2", k2, index);
  check_row_range("expand_query", begin, end, index.size(0));
}

inline void check_jaccard_args(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& colptr,
                               const Tensor& row, const Tensor& row_value, int64_t begin, int64_t end) {
  check_csr("jaccard", rowptr, col, value);
  check_csr("jaccard", colptr, row, row_value);
  check_row_range("jaccard", begin, end, rowptr.size(0) - 1);
}

inline void check_scatter_columns_args(const Tensor& rowptr, const Tensor& col, const Tensor& value, int64_t begin,
                                       int64_t end, const Tensor& next, const Tensor& row, const Tensor& row_value) {
  const char* op = "scatter_columns";
  check_csr(op, rowptr, col, value);
  check_row_range(op, begin, end, rowptr.size(0) - 1);
  check_tensor(op, "next", next, 1, ScalarType::Long, value);
  check_tensor(op, "row", row, 1, ScalarType::Int, value);
  check_tensor(op, "row_value", row_value, 1, ScalarType::Float, value);
  STD_TORCH_CHECK(row.size(0) == col.size(0) && row_value.size(0) == col.size(0), op, ": row and row_value must hold ",
                  col.size(0), " entries, got ", row.size(0), " and ", row_value.size(0));
}

inline void check_mirror_args(const Tensor& rowptr, const Tensor& col, const Tensor& value, const Tensor& colptr,
                              const Tensor& row, const Tensor& row_value, const Tensor& order, const Tensor& place,
                              int64_t begin, int64_t end) {
  const char* op = "mirror";
  check_csr(op, rowptr, col, value);
  check_csr(op, colptr, row, row_value);
  const int64_t num_rows = rowptr.size(0) - 1;
  check_row_range(op, begin, end, num_rows);
  for (const Tensor* numbers : {&order, &place}) {
    check_tensor(op, "order and place", *numbers, 1, ScalarType::Int, value);
    STD_TORCH_CHECK(numbers->size(0) == num_rows && colptr.size(0) == num_rows + 1, op, ": all arguments must have ",
                    num_rows, " rows");
  }
}

inline void check_dbscan_args(const Tensor& rowptr, const Tensor& col, const Tensor& value, int64_t min_samples) {
  check_csr("dbscan", rowptr, col, value);
  STD_TORCH_CHECK(min_samples >= 1, "dbscan: min_samples must be at least 1, got ", min_samples);
}

inline void check_count_closer_args(const Tensor& distance, const Tensor& rowptr, const Tensor& col,
                                    const Tensor& excluded_rowptr, const Tensor& excluded_col) {
  const char* op = "count_closer";
  check_tensor(op, "distance", distance, 2, ScalarType::Float, distance);
  check_tensor(op, "col", col, 1, ScalarType::Int, distance);
  check_tensor(op, "excluded_col", excluded_col, 1, ScalarType::Int, distance);
  check_tensor(op, "rowptr", rowptr, 1, ScalarType::Long, distance);
  check_tensor(op, "excluded_rowptr", excluded_rowptr, 1, ScalarType::Long, distance);
  for (const Tensor* pointers : {&rowptr, &excluded_rowptr}) {
    STD_TORCH_CHECK(pointers->size(0) == distance.size(0) + 1, op, ": rowptr and excluded_rowptr must be [",
                    distance.size(0) + 1, "], one more than the rows of distance, got ", pointers->size(0));
  }
}

}  // namespace mlt_ops
