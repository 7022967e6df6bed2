// The nearest entries of each row or column of a tile, kept over many tiles. Free of PyTorch, for tests/sanitize.
#pragma once

#include <cstdint>
#include <utility>

namespace mlt_ops {

// A max-heap of `width` values and where they come from; values[0] is the largest, which a smaller one replaces.
struct NearestHeap {
  float* values;
  int32_t* origin;
  int64_t width;

  void replace_largest(float value, int32_t from) {
    int64_t hole = 0;
    for (int64_t child = 1; child < width; child = 2 * hole + 1) {
      if (child + 1 < width && values[child + 1] > values[child]) ++child;
      if (values[child] <= value) break;
      values[hole] = values[child];
      origin[hole] = origin[child];
      hole = child;
    }
    values[hole] = value;
    origin[hole] = from;
  }
};

constexpr int64_t kStrip = 32;  // values compared at a time: a few vector registers, almost never one that is kept

inline bool any_below(const float* values, const float* bounds, int64_t count) {
  int any = 0;  // no early exit, so that the compiler compares several at a time
  for (int64_t i = 0; i < count; ++i) any |= values[i] < bounds[i];
  return any != 0;
}

// Merges one row of a tile, whose columns count from `first`, into its heap.
inline void merge_row(const float* tile, int64_t num_cols, int32_t first, NearestHeap heap) {
  float bounds[kStrip];
  for (int64_t i = 0; i < kStrip; ++i) bounds[i] = heap.values[0];
  for (int64_t c = 0; c < num_cols; c += kStrip) {
    const int64_t count = c + kStrip <= num_cols ? kStrip : num_cols - c;
    if (!any_below(tile + c, bounds, count)) continue;
    for (int64_t i = 0; i < count; ++i) {
      if (tile[c + i] < heap.values[0]) heap.replace_largest(tile[c + i], first + static_cast<int32_t>(c + i));
    }
    for (int64_t i = 0; i < kStrip; ++i) bounds[i] = heap.values[0];
  }
}

// Merges `count` <= kStrip neighbouring columns of a tile, whose rows count from `first`, into their heaps.
inline void merge_columns(const float* tile, int64_t num_rows, int64_t stride, int64_t count, int32_t first,
                          const NearestHeap* heaps) {
  float bounds[kStrip];
  for (int64_t i = 0; i < count; ++i) bounds[i] = heaps[i].values[0];
  for (int64_t r = 0; r < num_rows; ++r) {
    const float* row = tile + r * stride;
    if (!any_below(row, bounds, count)) continue;
    for (int64_t i = 0; i < count; ++i) {
      if (row[i] >= bounds[i]) continue;
      NearestHeap heap = heaps[i];
      heap.replace_largest(row[i], first + static_cast<int32_t>(r));
      bounds[i] = heap.values[0];
    }
  }
}

}  // namespace mlt_ops
