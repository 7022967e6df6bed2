// The nearest entries of each row or column of a tile, kept over many tiles. Free of PyTorch, for tests/sanitize.
#pragma once

#include <cstdint>
#include <utility>

#include "tile.h"

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

inline bool any_below(const float* values, const float* largest, int64_t count) {
  int any = 0;  // no early exit, so that the compiler compares several at a time
  for (int64_t i = 0; i < count; ++i) any |= values[i] < largest[i];
  return any != 0;
}

// Merges one row of a tile, whose columns count from `first`, into its heap.
inline void merge_row(const Tile& tile, int64_t row, int32_t first, NearestHeap heap) {
  float values[kStrip], largest[kStrip];
  for (int64_t i = 0; i < kStrip; ++i) largest[i] = heap.values[0];
  for (int64_t c = 0; c < tile.num_cols; c += kStrip) {
    const int64_t count = c + kStrip <= tile.num_cols ? kStrip : tile.num_cols - c;
    for (int64_t i = 0; i < count; ++i) values[i] = tile.bound(row, c + i);
    if (!any_below(values, largest, count)) continue;
    for (int64_t i = 0; i < count; ++i) {
      if (values[i] < heap.values[0]) heap.replace_largest(values[i], first + static_cast<int32_t>(c + i));
    }
    for (int64_t i = 0; i < kStrip; ++i) largest[i] = heap.values[0];
  }
}

// Merges `count` <= kStrip columns of a tile, from `begin` on, into their heaps; the tile's rows count from `first`.
inline void merge_columns(const Tile& tile, int64_t begin, int64_t count, int32_t first, const NearestHeap* heaps) {
  float values[kStrip], largest[kStrip];
  for (int64_t i = 0; i < count; ++i) largest[i] = heaps[i].values[0];
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    for (int64_t i = 0; i < count; ++i) values[i] = tile.bound(r, begin + i);
    if (!any_below(values, largest, count)) continue;
    for (int64_t i = 0; i < count; ++i) {
      if (values[i] >= largest[i]) continue;
      NearestHeap heap = heaps[i];
      heap.replace_largest(values[i], first + static_cast<int32_t>(r));
      largest[i] = heap.values[0];
    }
  }
}

}  // namespace mlt_ops
