// Query expansion and Jaccard distances for one row at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "arithmetic.h"
#include "cpu/rows.h"

namespace mlt_ops {

// Mean of the rows of the first k2 neighbours, added in the order of the neighbours.
class ExpandWorker {
 public:
  ExpandWorker(const Csr& rows, const int32_t* index, int64_t k, int64_t k2, int64_t num_cols)
      : rows_(rows), index_(index), k_(k), k2_(k2), mean_(num_cols) {}

  void operator()(int64_t row, std::vector<Entry>& out) {
    for (int64_t t = 0; t < k2_; ++t) {
      const int64_t neighbor = index_[row * k_ + t];
      const int64_t begin = rows_.rowptr[neighbor];
      const float* values = rows_.value + begin;
      mean_.add(rows_.col + begin, rows_.rowptr[neighbor + 1] - begin, [=](int64_t p) { return values[p]; });
    }
    entries_.clear();
    mean_.drain([&](int32_t col, float sum) { entries_.push_back({col, sum / static_cast<float>(k2_)}); });
    sort_by_col(entries_);
    out.insert(out.end(), entries_.begin(), entries_.end());
  }

 private:
  const Csr& rows_;
  const int32_t* index_;
  int64_t k_, k2_;
  Accumulator mean_;
  std::vector<Entry> entries_;
};

// Distances of row i to the rows j <= i: the smaller entries are added by ascending column, for (i, j) as for (j, i).
// `columns` holds for each column the rows with an entry there, ascending. A pair within max_distance must overlap by
// `needed_`, so a row first leaves out the columns that cost most for their weight, as long as their weights add up to
// less than three quarters of that (the fastest share of those tried); what can still reach `needed_` is summed in
// full. So no pair is missed.
class JaccardWorker {
 public:
  JaccardWorker(const Csr& rows, const Csr& columns, int64_t num_rows, int64_t num_cols, float max_distance)
      : rows_(rows),
        columns_(columns),
        max_distance_(max_distance),
        needed_(max_distance < 1.f ? 2.f * (1.f - max_distance) / (2.f - max_distance) - kSlack : 0.f),
        overlap_(num_rows),
        mine_(num_cols, 0.f) {}

  void operator()(int64_t row, std::vector<Entry>& out) {
    const int64_t begin = rows_.rowptr[row], end = rows_.rowptr[row + 1];
    const float left_out = choose_columns(begin, end);
    for (int64_t p = begin; p < end; ++p) {
      if (chosen_[p - begin]) add_column(row, rows_.col[p], rows_.value[p]);
      mine_[rows_.col[p]] = rows_.value[p];
    }
    entries_.clear();
    overlap_.drain([&](int32_t other, float overlap) {
      if (overlap + left_out < needed_) return;
      const float whole = left_out > 0.f ? overlap_with(other) : overlap;
      const float distance = other == row ? 0.f : jaccard_of(whole);
      if (distance <= max_distance_ && distance < 1.f) entries_.push_back({other, distance});
    });
    for (int64_t p = begin; p < end; ++p) mine_[rows_.col[p]] = 0.f;
    sort_by_col(entries_);
    out.insert(out.end(), entries_.begin(), entries_.end());
  }

 private:
  static constexpr float kSlack = 1e-4f;  // far more than the rounding errors of the sums

  // Marks the columns to walk through and returns the weight of the others.
  float choose_columns(int64_t begin, int64_t end) {
    chosen_.assign(end - begin, 1);
    order_.clear();
    if (needed_ <= 0.f) return 0.f;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t length = columns_.rowptr[rows_.col[p] + 1] - columns_.rowptr[rows_.col[p]];
      order_.push_back({static_cast<int32_t>(p - begin), rows_.value[p] / static_cast<float>(length + 1)});
    }
    std::sort(order_.begin(), order_.end(), [](const Entry& a, const Entry& b) { return a.value < b.value; });
    float left_out = 0.f;
    for (const Entry& cheapest : order_) {
      const float with_it = left_out + rows_.value[begin + cheapest.col];
      if (with_it >= 0.75f * needed_) break;
      left_out = with_it;
      chosen_[cheapest.col] = 0;
    }
    return left_out;
  }

  void add_column(int64_t row, int32_t col, float mine) {
    const int64_t begin = columns_.rowptr[col];
    const int32_t *first = columns_.col + begin, *last = columns_.col + columns_.rowptr[col + 1];
    const float* theirs = columns_.value + begin;
    overlap_.add(first, std::upper_bound(first, last, row) - first,
                 [=](int64_t q) { return mine < theirs[q] ? mine : theirs[q]; });
  }

  // Columns that the row lacks add 0, which changes no bit.
  float overlap_with(int32_t other) const {
    float sum = 0.f;
    for (int64_t p = rows_.rowptr[other]; p < rows_.rowptr[other + 1]; ++p) {
      const float mine = mine_[rows_.col[p]], theirs = rows_.value[p];
      sum += mine < theirs ? mine : theirs;
    }
    return sum;
  }

  const Csr &rows_, &columns_;
  float max_distance_, needed_;
  Accumulator overlap_;
  std::vector<float> mine_;
  std::vector<uint8_t> chosen_;
  std::vector<Entry> entries_, order_;
};

}  // namespace mlt_ops
