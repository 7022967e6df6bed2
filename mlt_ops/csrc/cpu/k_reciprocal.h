// k-reciprocal sets and their weights for one row at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "arithmetic.h"
#include "cpu/distance.h"
#include "cpu/rows.h"

namespace mlt_ops {

// Row i's neighbours that have i among theirs, within the first `width` of k columns; -1 in place of the others.
inline void mutual_row(const int32_t* index, int64_t k, int64_t width, int64_t i, int32_t* mutual) {
  for (int64_t p = 0; p < width; ++p) {
    const int32_t j = index[i * k + p];
    const int32_t* theirs = index + j * k;
    int found = 0;  // no early exit: the compiler compares several at a time
    for (int64_t q = 0; q < width; ++q) found |= theirs[q] == static_cast<int32_t>(i);
    mutual[p] = found ? j : -1;
  }
}

struct ReciprocalInput {
  const float* features;  // [N, dim]
  const int32_t* order;   // [N] which of the features belongs to each row
  const float* distance;  // [N, k] squared, of the neighbours
  const int32_t* index;   // [N, k]
  const int32_t* full;    // [N, full_width] mutual neighbours
  const int32_t* half;    // [N, half_width] mutual neighbours in the narrower window
  const float* scale;     // [N]
  int64_t num_rows, dim, k, full_width, half_width;
};

class ReciprocalWorker {
 public:
  explicit ReciprocalWorker(const ReciprocalInput& input) : in_(input), mark_(input.num_rows, 0) {}

  void operator()(int64_t row, std::vector<Entry>& out) {
    members_.clear();
    for (int64_t p = 0; p < in_.full_width; ++p) {
      if (in_.full[row * in_.full_width + p] >= 0) insert(row, in_.full[row * in_.full_width + p], p);
    }
    num_full_ = members_.size();
    // Marks: 1 a mutual neighbour, 2 added by expansion. Only the former count in the test of two thirds.
    for (size_t i = 0; i < num_full_; ++i) expand(row, members_[i].col);
    const auto self = static_cast<int32_t>(row);
    if (mark_[row] == 0) members_.push_back({self, distance_to(row, self)});  // crowded out by its own copies
    for (const Entry& member : members_) mark_[member.col] = 0;
    sort_by_col(members_);
    weigh(in_.scale[row]);
    out.insert(out.end(), members_.begin(), members_.end());
  }

 private:
  void insert(int64_t row, int32_t col, int64_t position) {
    if (mark_[col] != 0) return;
    mark_[col] = 1;
    members_.push_back({col, in_.distance[row * in_.k + position]});
  }

  // Adds the narrow set of `neighbor` if more than two thirds of it are mutual neighbours of the row.
  void expand(int64_t row, int32_t neighbor) {
    const int32_t* set = in_.half + neighbor * in_.half_width;
    int64_t size = 0, common = 0;
    for (int64_t q = 0; q < in_.half_width; ++q) {
      if (set[q] < 0) continue;
      ++size;
      common += mark_[set[q]] == 1;
    }
    if (3 * common <= 2 * size) return;
    for (int64_t q = 0; q < in_.half_width; ++q) {
      if (set[q] < 0 || mark_[set[q]] != 0) continue;
      mark_[set[q]] = 2;
      members_.push_back({set[q], distance_to(row, set[q])});
    }
  }

  // As the neighbour list has it, else measured.
  float distance_to(int64_t row, int32_t other) const {
    const int32_t *list = in_.index + row * in_.k, *end = list + in_.k, *found = std::find(list, end, other);
    if (found != end) return in_.distance[row * in_.k + (found - list)];
    return squared_distance(in_.features + in_.order[row] * in_.dim, in_.features + in_.order[other] * in_.dim,
                            in_.dim);
  }

  // Softmax of the negative distances, added by ascending column.
  void weigh(float scale) {
    float total = 0.f;
    for (Entry& member : members_) {
      member.value = exp_nonpositive(-member.value / scale);
      total += member.value;
    }
    for (Entry& member : members_) member.value /= total;
  }

  const ReciprocalInput& in_;
  std::vector<uint8_t> mark_;
  std::vector<Entry> members_;
  size_t num_full_ = 0;
};

}  // namespace mlt_ops
