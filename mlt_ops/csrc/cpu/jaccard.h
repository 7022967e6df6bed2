// Query expansion and Jaccard distances for one row at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "arithmetic.h"
#include "cpu/rows.h"

namespace mlt_ops {

struct Csr {
  const int64_t* rowptr;
  const int32_t* col;
  const float* value;
};

// Mean of the rows of the first k2 neighbours, added in the order of the neighbours.
class ExpandWorker {
 public:
  ExpandWorker(const Csr& rows, const int32_t* index, int64_t k, int64_t k2, int64_t num_cols)
      : rows_(rows), index_(index), k_(k), k2_(k2), mean_(num_cols) {}

  void operator()(int64_t row, std::vector<Entry>& out) {
    for (int64_t t = 0; t < k2_; ++t) {
      const int64_t neighbor = index_[row * k_ + t];
      for (int64_t p = rows_.rowptr[neighbor]; p < rows_.rowptr[neighbor + 1]; ++p) {
        mean_.add(rows_.col[p], rows_.value[p]);
      }
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
// `columns` holds for each column the rows with an entry there, ascending.
class JaccardWorker {
 public:
  JaccardWorker(const Csr& rows, const Csr& columns, int64_t num_rows, float max_distance)
      : rows_(rows), columns_(columns), max_distance_(max_distance), overlap_(num_rows) {}

  void operator()(int64_t row, std::vector<Entry>& out) {
    for (int64_t p = rows_.rowptr[row]; p < rows_.rowptr[row + 1]; ++p) {
      const int64_t col = rows_.col[p], end = columns_.rowptr[col + 1];
      const float mine = rows_.value[p];
      for (int64_t q = columns_.rowptr[col]; q < end && columns_.col[q] <= row; ++q) {
        const float theirs = columns_.value[q];
        overlap_.add(columns_.col[q], mine < theirs ? mine : theirs);
      }
    }
    entries_.clear();
    overlap_.drain([&](int32_t other, float overlap) {
      const float distance = other == row ? 0.f : jaccard_of(overlap);
      if (distance <= max_distance_ && distance < 1.f) entries_.push_back({other, distance});
    });
    sort_by_col(entries_);
    out.insert(out.end(), entries_.begin(), entries_.end());
  }

 private:
  const Csr &rows_, &columns_;
  float max_distance_;
  Accumulator overlap_;
  std::vector<Entry> entries_;
};

}  // namespace mlt_ops
